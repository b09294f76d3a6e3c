"""The config: files, overrides, light imports, and errors that name the setting."""

import json
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from pydantic import ValidationError

from infoaug.models import frameworks
from infoaug.models.frameworks.settings import MoCoSettings, SimCLRSettings
from infoaug.models.settings import AugmentSettings, Negatives
from infoaug.models.training import TrainingSettings
from infoaug.orchestrator.config import PROTOCOLS, RUNTIME, ExperimentConfig, PretrainConfig, load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime.mlflow_runs import identity
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import extract, pretrain, score
from infoaug.orchestrator.sweep import config as sweep_config
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.unused_settings import notes

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.rglob("*.yaml"))
SWEEPS = [path for path in SHIPPED if path.stem in ("laptop", "paper", "study")]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes a config file and tells its path."""

    def write_text(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


# ---- what is read


def test_no_file_and_no_overrides_are_the_defaults() -> None:
    assert load(None) == ExperimentConfig()


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}", "score:\n", "score:\n  # k: 3\nclips: null\n"])
def test_an_empty_file_or_section_is_the_defaults(write: Callable[[str], Path], text: str) -> None:
    assert load(write(text)) == ExperimentConfig()


def test_a_file_sets_what_it_names_and_nothing_else(write: Callable[[str], Path]) -> None:
    config = load(write("name: mine\nscore:\n  k: 7\n  policy: none\n"))
    assert (config.name, config.score.k, config.score.policy) == ("mine", 7, "none")
    assert config.model_dump(exclude_defaults=True) == {"name": "mine", "score": {"k": 7, "policy": "none"}}


def test_overrides_win_over_the_file_and_later_ones_over_earlier_ones(write: Callable[[str], Path]) -> None:
    path = write("score:\n  k: 7\n  noise: 0.3\n")
    config = load(path, ["score.k=4", "pretrain.epochs=9", "score.k=3"])
    assert (config.score.k, config.score.noise, config.pretrain.epochs) == (3, 0.3, 9)
    assert load(write("score:\n"), ["score.k=4"]).score.k == 4


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("pretrain.learning_rate=1e-3", lambda c: c.pretrain.learning_rate == 1e-3),
        ("scenes.camera=true", lambda c: c.scenes.camera is True),
        ("extract.stride=null", lambda c: c.extract.stride is None),
        ("clips.path=null", lambda c: c.clips.path is None),
        ("clips.path=a=b.mp4", lambda c: c.clips.path == "a=b.mp4"),
        ("clips.path=Видео/*.mp4", lambda c: c.clips.path == "Видео/*.mp4"),
        ("evaluate.datasets=cifar10", lambda c: c.evaluate.datasets == ["cifar10"]),
        ("evaluate.datasets=[scenes, stl10]", lambda c: c.evaluate.datasets == ["scenes", "stl10"]),
        (
            "pretrain.framework_settings.temperature=0.2",
            lambda c: c.pretrain.framework_settings.written() == {"temperature": 0.2},
        ),
        ("pretrain.backbone_settings={layers: [1, 1]}", lambda c: c.pretrain.backbone_settings == {"layers": [1, 1]}),
    ],
)
def test_an_override_is_read_as_yaml(override: str, read: Callable[[ExperimentConfig], bool]) -> None:
    assert read(load(None, [override]))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_config_that_is_shipped_loads_and_names_its_command(path: Path) -> None:
    of_a_sweep = path in SWEEPS
    assert isinstance((sweep_config.load if of_a_sweep else load)(path), ExperimentConfig)
    command = f"infoaug {'sweep' if of_a_sweep else 'run'} configs/{path.relative_to(CONFIGS).as_posix()}"
    assert command in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("framework", frameworks.available())
def test_every_framework_has_a_recipe_that_can_be_built_and_can_be_overridden(framework: str) -> None:
    path = CONFIGS / "recipes" / f"{framework}.yaml"
    config = load(path, ["pretrain.batch_size=64", "pretrain.augment.flip=0.25"])
    assert (config.pretrain.framework, config.extract.image_size) == (framework, 32)
    pretrain.check(config)
    assert pretrain.augmentations(config)[1].flip == 0.25
    settings = load(path).pretrain
    assert settings.framework_settings.written() and settings.augment.written(), (
        "named, so that a new default does not change a recipe"
    )


@pytest.mark.slow  # networks of 224 pixels
@pytest.mark.parametrize("path", sorted((CONFIGS / "recipes").glob("*/*.yaml")), ids=lambda path: path.parent.name)
def test_recipes_of_larger_images_can_be_built_and_show_the_pixels_of_the_clip(path: Path) -> None:
    config = load(path, ["pretrain.batch_size=64", "pretrain.framework_settings.output_dim=64"])  # else it takes longer
    assert f"{config.extract.image_size}px" == path.parent.name and config.pretrain.framework == path.stem
    assert config.extract.patch_size == config.extract.image_size and notes(config) == []
    pretrain.check(config)
    assert config.pretrain.framework_settings.written() and config.pretrain.augment.written()


@pytest.mark.parametrize(("framework", "encoder"), [("byol", "trained"), ("dino", "momentum"), ("moco", "trained")])
def test_recipes_and_defaults_keep_the_encoder_that_the_paper_evaluates(framework: str, encoder: str) -> None:
    recipe = load(CONFIGS / "recipes" / f"{framework}.yaml")
    for config in (recipe, load(None, [f"pretrain.framework={framework}"])):
        assert config.pretrain.framework_settings.encoder == encoder  # type: ignore[attr-defined]


def test_all_frameworks_with_a_momentum_encoder_are_among_them() -> None:
    chosen = [f for f in frameworks.available() if "encoder" in frameworks.settings_type(f).model_fields]
    assert chosen == ["byol", "dino", "moco"]


def test_there_are_configs_to_ship() -> None:
    assert {"demo.yaml", "clips.yaml"} <= {path.name for path in SHIPPED}


def test_a_config_cannot_be_changed_after_it_is_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(None).score.k = 3  # type: ignore[misc]


# ---- where the store is


@pytest.mark.parametrize(
    ("environment", "text", "overrides", "store"),
    [
        (None, "name: mine", [], "outputs"),
        ("", "name: mine", [], "outputs"),
        ("s3://bucket/infoaug", "name: mine", [], "s3://bucket/infoaug"),
        ("s3://bucket/infoaug", "store: here", [], "here"),
        ("s3://bucket/infoaug", "name: mine", ["store=there"], "there"),
        ("s3://bucket/infoaug", "store: here", ["store=there"], "there"),
    ],
)
@pytest.mark.parametrize("of_a_sweep", [False, True])
def test_the_environment_names_the_store_where_neither_file_nor_override_does(
    environment: str | None,
    text: str,
    overrides: list[str],
    store: str,
    of_a_sweep: bool,
    write: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INFOAUG_STORE", raising=False)
    if environment is not None:
        monkeypatch.setenv("INFOAUG_STORE", environment)
    read = sweep_config.load if of_a_sweep else load
    config = read(write(f"{text}\nsweep: {{grid: [{{seed: [0, 1]}}]}}" if of_a_sweep else text), overrides)
    assert config.store == store
    assert f"\nstore: {store}\n" in config.to_yaml(), "what --dry-run prints"


def test_a_config_keeps_its_store_where_the_environment_is_another(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFOAUG_STORE", "first")
    config = load(None)
    sweep = sweep_config.load(write("sweep: {grid: [{seed: [0, 1]}]}"))
    monkeypatch.setenv("INFOAUG_STORE", "second")
    assert load(write(config.to_yaml())).store == "first"
    assert [trial.config.store for trial in trials.planned(sweep)] == ["first", "first"]


def test_a_config_tells_whether_its_store_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFOAUG_STORE", raising=False)
    assert "store" not in load(None).model_fields_set
    assert "store" in load(None, ["store=there"]).model_fields_set
    monkeypatch.setenv("INFOAUG_STORE", "here")
    assert "store" in load(None).model_fields_set


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_no_config_that_is_shipped_names_a_store(path: Path) -> None:
    assert "store" not in yaml.safe_load(path.read_text(encoding="utf-8"))


# ---- what is written


@pytest.mark.parametrize("path", [None, *SHIPPED], ids=lambda path: path.name if path else "defaults")
def test_yaml_reads_back_to_an_equal_config(path: Path | None, write: Callable[[str], Path]) -> None:
    overrides = [
        "score.min_entropy=-1.5",
        "clips.path='null'",
        "evaluate.datasets=[scenes, 'on']",
        "pretrain.augment={crop_scale: [0.3, 1.0]}",
    ]
    read = sweep_config.load if path in SWEEPS else load
    config = read(path, overrides)
    assert config.clips.path == "null"
    assert read(write(config.to_yaml())) == config


def test_yaml_holds_every_setting_resolved() -> None:
    text = load(None, ["score.k=3"]).to_yaml()
    assert yaml.safe_load(text) == load(None, ["score.k=3"]).model_dump(mode="json")
    assert "k: 3" in text


def test_flat_keys_are_what_set_takes() -> None:
    config = load(None, ["pretrain.framework_settings.temperature=0.2", "score.k=3", "clips.path=x.mp4"])
    flat = config.flat()
    assert flat["score.k"] == 3
    assert flat["seed"] == 0
    assert flat["pretrain.framework_settings.temperature"] == 0.2
    assert flat["pretrain.augment"] == {}
    assert not any(isinstance(value, dict) and value for value in flat.values())
    assert load(None, [f"{key}={yaml.safe_dump(value)}" for key, value in flat.items()]) == config


# ---- typed settings of frameworks and augmentations

TYPED = [
    "pretrain.framework=moco",
    "pretrain.framework_settings={temperature: 1, negatives: {kind: ring, outer: 0.2}}",
    "pretrain.augment={crop_scale: [0.3, 1], flip: 0}",
    "pretrain.augment_second={blur: 1}",
]


def test_settings_of_the_framework_and_of_augmentations_are_typed() -> None:
    settings = load(None, TYPED).pretrain
    typed = settings.framework_settings
    assert isinstance(typed, MoCoSettings)
    assert (typed.temperature, typed.negatives, typed.queue_size) == (1.0, Negatives(kind="ring", outer=0.2), 4096)
    assert (settings.augment.crop_scale, settings.augment.flip, settings.augment.grey) == ((0.3, 1.0), 0.0, 0.2)
    assert load(None).pretrain.framework_settings == SimCLRSettings()


def test_typed_settings_are_stored_as_they_were_written(write: Callable[[str], Path]) -> None:
    config = load(None, TYPED)
    flat = config.flat()
    assert json.dumps(flat["pretrain.framework_settings.temperature"]) == "1"
    assert json.dumps(flat["pretrain.augment.crop_scale"]) == "[0.3, 1]"
    assert "pretrain.framework_settings.queue_size" not in flat and "pretrain.augment.grey" not in flat
    assert "temperature: 1\n" in config.to_yaml()
    dumped = config.model_dump()
    assert dumped["pretrain"]["framework_settings"] == {"temperature": 1, "negatives": {"kind": "ring", "outer": 0.2}}
    assert load(None).model_dump()["pretrain"]["framework_settings"] == {}
    assert "framework_settings" not in load(None).model_dump(exclude_unset=True).get("pretrain", {})
    for again in (
        load(write(config.to_yaml())),
        pickle.loads(pickle.dumps(config)),  # noqa: S301
        ExperimentConfig.model_validate(dumped),
        ExperimentConfig.model_validate_json(config.model_dump_json()),
        config.model_copy(update={"name": config.name}),
    ):
        assert again == config
        assert again.to_yaml() == config.to_yaml()
        assert again.pretrain.framework_settings == config.pretrain.framework_settings


def test_settings_that_are_typed_already_are_accepted() -> None:
    typed = SimCLRSettings(temperature=1, negatives=Negatives(kind="ball"))
    made = PretrainConfig(framework_settings=typed, augment=AugmentSettings(crop_scale=(0.3, 1)))
    assert made.framework_settings == typed
    assert made.model_dump(include={"framework_settings", "augment"}) == {
        "framework_settings": {"temperature": 1, "negatives": {"kind": "ball"}},
        "augment": {"crop_scale": [0.3, 1]},
    }
    with pytest.raises(ValidationError, match="MoCoSettings"):
        PretrainConfig(framework="moco", framework_settings=typed)


def test_a_copy_of_typed_settings_with_other_values_is_checked() -> None:
    settings = AugmentSettings(flip=0, grey=1)
    assert settings.model_copy(update={"flip": 1}).written() == {"flip": 1, "grey": 1}
    with pytest.raises(ValidationError):
        settings.model_copy(update={"flip": 2})


def test_what_was_written_cannot_be_changed_through_a_copy() -> None:
    settings = SimCLRSettings(negatives={"kind": "ring"})
    settings.written()["negatives"]["kind"] = "all"
    assert settings.model_dump() == {"negatives": {"kind": "ring"}}


# ---- light imports

HEAVY = ("torch", "cv2", "numba", "scipy", "numpy", "ray", "mlflow")


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after this code."""
    code += "\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_reading_a_config_loads_no_estimator_and_no_heavy_library() -> None:
    path = str(CONFIGS / "recipes" / "moco.yaml")
    loaded = modules_after(f"from infoaug.orchestrator.config import load\nload({path!r}, ['score.k=4'])")
    assert not loaded & {*HEAVY}
    estimators = {name for name in loaded if name.startswith("infoaug.estimators.")}
    assert estimators == {"infoaug.estimators.options"}


@pytest.mark.parametrize("stage", ["extract", "score"])
def test_a_worker_of_extract_or_score_loads_no_torch(stage: str) -> None:
    assert "torch" not in modules_after(f"import infoaug.orchestrator.stages.{stage}")


def test_scoring_a_window_on_a_cpu_loads_no_torch() -> None:
    code = """
import numpy as np
from infoaug.orchestrator.config import ScoreConfig
from infoaug.orchestrator.stages import window_scores
steps = np.random.default_rng(0).normal(size=(4, 40, 2)).cumsum(1).astype(np.float32)
scored = window_scores.score_window(steps, np.zeros_like(steps), np.ones((4, 40), bool), ScoreConfig(surrogates=20))
assert np.isfinite(scored.mutual_information).any()
"""
    assert "torch" not in modules_after(code)


# ---- mistakes


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("score.kk=3", "unknown key 'score.kk'; did you mean 'score.k'?"),
        ("score.min_spreed=3", "unknown key 'score.min_spreed'; did you mean 'score.min_spread'?"),
        ("scores.k=3", "unknown key 'scores'; did you mean 'score'?"),
        ("epochs=3", "unknown key 'epochs'; did you mean 'pretrain.epochs'?"),
        ("qqqqqq=3", "unknown key 'qqqqqq'; sections are name, seed, store, clips"),
        ("score.k=many", "score.k: input should be a valid integer, unable to parse string as an integer (got 'many')"),
        (
            "pretrain.shuffle=0",
            "pretrain.shuffle: input should be 'auto' or 'all', or be greater than or equal to 1 (got 0)",
        ),
        ("score.k=0", "score.k: input should be greater than or equal to 1 (got 0)"),
        ("score.k=2.5", "score.k: input should be a valid integer"),
        ("score.noise=.inf", "score.noise: input should be a finite number (got inf)"),
        ("extract.tracker=lucas-canade", "unknown tracker 'lucas-canade', did you mean 'lucas-kanade'?"),
        ("extract.tracker=cotracker", "extract: tracker 'cotracker' needs tracker_weights"),
        (
            "score.policy=nearst",
            "score.policy: input should be 'mutual-information', 'correlation', 'nearest', ",
        ),
        ("score.estimator=ksgg", "score: unknown estimator 'ksgg', did you mean 'ksg'?"),
        ("score.estimator=7q", "score: unknown estimator '7q', choose one of 3kl, ksg, ksg2, npeet"),
        ("pretrain.framework=simclrr", "pretrain.framework: unknown framework 'simclrr', did you mean 'simclr'?"),
        ("score.backend=gpu", "score.backend: input should be 'auto', 'cpu', 'cuda' or 'reference'"),
        ("score={backend: cuda, k: 11}", "score: backend 'cuda' supports ksg, ksg2, 3kl with k up to 10, not 'ksg'"),
        ("score={backend: cuda, estimator: npeet}", "score: backend 'cuda' supports ksg, ksg2, 3kl"),
        ("score.gpus_per_task=0", "score.gpus_per_task: input should be greater than 0"),
        (
            "pretrain.framework_settings.temprature=1",
            "unknown key 'pretrain.framework_settings.temprature'; did you mean "
            "'pretrain.framework_settings.temperature'?",
        ),
        (
            "pretrain={framework: dino, framework_settings: {momentum: {bse: 1}}}",
            "unknown key 'pretrain.framework_settings.momentum.bse'; did you mean "
            "'pretrain.framework_settings.momentum.base'?",
        ),
        (
            "pretrain={framework: byol, framework_settings: {negatives: ring}}",
            "unknown key 'pretrain.framework_settings.negatives'; it is a setting of dcl, moco, nnclr, simclr",
        ),
        (
            "pretrain.framework_settings.temperature=0",
            "pretrain.framework_settings.temperature: input should be greater than 0 (got 0)",
        ),
        ("pretrain.framework_settings=3", "pretrain.framework_settings: this is a section"),
        ("pretrain.augment.flip=2.0", "pretrain.augment.flip: input should be less than or equal to 1 (got 2.0)"),
        ("pretrain.augment_second.hue=red", "pretrain.augment_second.hue: input should be a valid number"),
        ("pretrain.augment_second.crop_scale=[1.0, 0.5]", "pretrain.augment_second: crop_scale must be (low, high)"),
        (
            "pretrain.augment_second.solarize=0.2",
            "unknown key 'pretrain.augment_second.solarize'; did you mean 'pretrain.augment_second.solarise'?",
        ),
        (
            "pretrain.augment.xyz=0.2",
            "unknown key 'pretrain.augment.xyz'; settings of 'pretrain.augment' are crop_scale",
        ),
        ("extract.patience=3", "'extract.patience' is now called 'extract.read_timeout'"),
        ("pretrain.resident=true", "'pretrain.resident' is now called 'pretrain.images_on_device'"),
        ("score=5", "score: this is a section, which holds settings of its own (got 5)"),
        ("name=../x", "name: string should match pattern"),
        ("evaluate.datasets=3", "evaluate.datasets: input should be a valid list (got 3)"),
        ("evaluate.domains=scenes", "evaluate: 'scenes' is among datasets and among domains"),
        ("evaluate={datasets: [], every: 2}", "evaluate: every needs a data set to validate on"),
        ("evaluate.datasets=null", "evaluate.datasets: input should be a valid list (got None)"),
        ("score.k", "--set takes key=value, got 'score.k'"),
        ("=3", "--set takes key=value, got '=3'"),
        ("score.k=[", "--set score.k: '[' is not a YAML value"),
        ("score.k=0b_", "--set score.k: '0b_' is not a YAML value"),
        ("score.k=&a [*a]", "--set score.k: '&a [*a]' is not a YAML value: has an alias inside the value"),
        ("a\nb=1", "--set takes key=value with the name of a setting"),
        (".".join("a" * 500) + "=1", "--set takes key=value with the name of a setting"),
        ("x" * 9000 + "=1", "unknown key 'xxxx"),
        ("evaluate.datasets=[" + "x" * 100_000, "is not a YAML value"),
    ],
)
def test_a_wrong_override_is_refused_with_the_setting_and_the_remedy(override: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(None, [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "(got {" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1, 2]", "must hold a mapping of settings, not a list"),
        ("just words", "must hold a mapping of settings, not a str"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("1: 2", "1: keys should be strings"),
        (
            "pretrain: {backbone_settings: {layers: {1: 2, a: 3}}}",
            "pretrain.backbone_settings.layers: 1: keys should be",
        ),
        ("seed: 2001-99-99", "is not valid YAML: month must be in 1..12"),
        ("seed: 0x_", "is not valid YAML: invalid literal for int"),
        ("seed: !!bool perhaps", "is not valid YAML"),
        ("seed: " + "9" * 5000, "is not valid YAML: Exceeds the limit"),
        ("seed: 0x" + "f" * 5000, "seed: input should be a number of at most 64 bits"),
        ("pretrain: {backbone_settings: {x: .nan}}", "pretrain.backbone_settings.x: input should be a finite number"),
        ("tracking: {experiment: 2024-01-01}", "tracking.experiment: a setting cannot be a date, put it in quotes"),
        ("pretrain: {augment: !!binary /9j/}", "pretrain.augment: a setting cannot be a bytes"),
        ('store: "a\\0b"', "store: a text cannot hold the character NUL"),
        ('store: "\\ud800"', "store: a text cannot hold the character of a surrogate"),
        ("score: {k: 3}\nscore: {noise: 1}", "has the key 'score' twice in one section: keep one of them"),
        ("score: &a [*a]", "has an alias inside the value that it refers to"),
        ("[" * 5000, "is nested too deeply"),
        ("x: " + "[" * 50 + "]" * 50, "holds too much: 20000 values are allowed"),
        ("extract: {patience: 3}", "'extract.patience' is now called 'extract.read_timeout'"),
        (
            "pretrain: {augment: {flipp: 1}}",
            "unknown key 'pretrain.augment.flipp'; did you mean 'pretrain.augment.flip'?",
        ),
        ("x: [" + "1," * 30_000 + "]", "holds too much"),
        ("#" * 300_000, "has more than 256 KiB"),
        ('"\\e[2J": 1', r"unknown key '\x1b[2J'"),
        ("".join(f"{letter}{letter}: 1\n" for letter in "qwxyzjvuhg"), "and 2 more"),
        ("scenes: {count: 1000000000}", "scenes.count: input should be less than or equal to 100000"),
        ("scenes: {height: 20000, width: 20000}", "scenes: 96 frames of 20000x20000 take 109863 MiB, more than 4096"),
        ("score: [1]", "score: this is a section"),
        ("pretrain:\n  bakbone: vit\n", "unknown key 'pretrain.bakbone'; did you mean 'pretrain.backbone'?"),
    ],
)
def test_a_wrong_file_is_named_in_one_sentence(write: Callable[[str], Path], text: str, sentence: str) -> None:
    path = write(text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_a_few_lines_that_stand_for_a_billion_values_are_refused_in_little_memory(
    write: Callable[[str], Path], form: str
) -> None:
    lines = ["x0: &x0 {a: 1}", *(f"x{n}: &x{n} {form.format(', '.join([f'*x{n - 1}'] * 9))}" for n in range(1, 12))]
    path = write("\n".join(lines))
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"holds too much: 20000 values are allowed"):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_an_alias_and_a_merge_are_read_as_yaml_says(write: Callable[[str], Path]) -> None:
    config = load(write("pretrain:\n  augment: &a {flip: 0.1}\n  augment_second: {<<: *a, grey: 0.2}\n"))
    assert config.pretrain.augment_second.written() == {"flip": 0.1, "grey": 0.2}


def test_settings_that_say_only_where_and_how_it_runs_are_no_part_of_the_identity() -> None:
    assert {
        "store": True,
        "tracking": True,
        "ray": True,
        "extract": {"cache", "gpus_per_task", "max_window_mb", "read_timeout"},
        "score": {"backend", "gpus_per_task"},
        "pretrain": {
            *("workers", "min_workers", "cpus_per_worker", "gpu", "max_failures"),
            *("checkpoint_every", "checkpoint_minutes"),
            *("images_on_device", "shuffle", "cache"),
        },
        "evaluate": {*PROTOCOLS, "every", "data", "download", "batch_size"},
    } == RUNTIME
    runtime = [
        "extract.max_window_mb=100",
        "score.backend=cuda",
        "score.gpus_per_task=0.5",
        "ray.cpus=1",
        "store=there",
    ]
    assert identity(load(None, runtime)) == identity(load(None)) != identity(load(None, ["score.k=3"]))


def test_the_backend_of_an_estimator_does_not_change_the_name_of_the_stage() -> None:
    ledger = pa.table({"clip_id": ["a"], "folder": ["a-1"], "windows": [[0]]})
    hashes = set()
    for backend in ("auto", "cpu", "cuda", "reference"):
        config = load(None, [f"score.backend={backend}"])
        extracted = extract.Extracted(extract.stage(config, Store("/s")), ledger, 0, 0)
        hashes.add(score.stage(config, extracted).hash)
    assert len(hashes) == 1


def test_all_mistakes_of_a_file_are_named_at_once(write: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match=r"seed: input .*; unknown key 'score\.kk'; did you mean 'score\.k'"):
        load(write("score: {kk: 1}\nseed: -1\n"))


def test_an_override_below_a_setting_is_no_section(write: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match=r"--set score\.k: 'score' is a setting, not a section"):
        load(write("score: 5"), ["score.k=3"])
    with pytest.raises(UsageError, match=r"score\.k: input should be a valid integer"):
        load(None, ["score.k.deep=3"])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config file '.*absent\.yaml' does not exist"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "binary.yaml")


@pytest.mark.parametrize("override", ["clips.path=", "clips.path= "])
def test_an_override_without_a_value_is_refused_rather_than_taken_for_null(override: str) -> None:
    with pytest.raises(UsageError, match=r"--set clips\.path= has no value: give one, or null"):
        load(None, [override])
    assert load(None, ["clips.path=null"]).clips.path is None


def test_the_default_of_a_setting_that_was_added_later_is_not_stored() -> None:
    def dumped(*overrides: str) -> set[str]:
        return {"images", "image_share"} & load(None, overrides).model_dump(exclude=RUNTIME)["pretrain"].keys()

    assert dumped() == dumped("pretrain.images=null", "pretrain.image_share=0.5") == set()
    assert dumped("pretrain.images=cifar10") == {"images"}
    asked = load(None, ["pretrain.images=cifar10", "pretrain.image_share=0.25"])
    assert ExperimentConfig.model_validate(yaml.safe_load(asked.to_yaml())) == asked


@pytest.mark.parametrize(
    "setting",
    [
        "extract.crops",
        "extract.window",
        "extract.spacing",
        "score.k",
        "score.alpha",
        "pretrain.epochs",
        "pretrain.twin_weight",
        "pretrain.layer_decay",
        "pretrain.workers",
        "pretrain.augment.flip",
        "evaluate.limit",
        "ray.cpus",
        "seed",
    ],
)
def test_a_flag_is_no_number(setting: str) -> None:
    with pytest.raises(UsageError, match=rf"{setting}: input should be a number, not true"):
        load(None, [f"{setting}=true"])


def test_flags_stay_flags_and_ranges_hold_none() -> None:
    config = load(None, ["pretrain.compile=true", "pretrain.images_on_device=false", "pretrain.gpu=false"])
    assert (config.pretrain.compile, config.pretrain.images_on_device, config.pretrain.gpu) == (True, False, False)
    with pytest.raises(UsageError, match=r"pretrain\.augment\.crop_scale: input should be a number"):
        load(None, ["pretrain.augment.crop_scale=[true, 1]"])
    with pytest.raises(ValidationError, match="epochs"):
        TrainingSettings.model_validate({"epochs": True})
