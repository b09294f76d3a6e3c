"""What is measured of a model and of its floor, without Ray, and what is found wrong before hours of training."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from infoaug.models.augment import CIFAR_MEAN, CIFAR_STD
from infoaug.models.backbones import create_backbone, save_backbone
from infoaug.orchestrator.config import DEPENDS_ON, DetectorConfig, EvaluateConfig, ExperimentConfig, Runtime, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import opening
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages import evaluate, look
from infoaug.orchestrator.stages.evaluate import check
from infoaug.orchestrator.synthetic import textures
from tests.orchestrator.conftest import write_domains
from tests.orchestrator.evaluation import boxes

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    settings = {"datasets": "scenes", "limit": 60, "neighbours": 10, "domains": str(tmp_path / "domains")}
    return load(None).model_validate(
        {"extract": {"image_size": 16}, "pretrain": {"backbone_settings": SMALL}, "evaluate": settings}
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def pretrained(store: Store, seed: int) -> StageFolder:
    """As the pretrain stage leaves it."""
    place = StageFolder(store, "pretrain", {"seed": seed})
    torch.manual_seed(seed)
    assert store.local
    backbone = create_backbone("resnet18", 16, **SMALL)
    save_backbone(backbone, store.local / place.folder, mean=CIFAR_MEAN, std=CIFAR_STD)
    return place


def measure(config: ExperimentConfig, model: StageFolder, name: str) -> dict[str, Any]:
    return evaluate.measure(config, model, name, evaluate.paths(config, model, name))


def floors(store: Store) -> set[str]:
    return {name for name in store.files("floor") if name.endswith(".json") and Path(name).name != "key.json"}


NOTHING = look.Seen((), ())
METRICS = {"knn", "probe", "validation_knn", "validation_probe", "rank_me"}


# ---- a model and its floor


@pytest.mark.usefixtures("one_thread")
def test_a_model_that_was_not_trained_is_the_floor_in_every_number(config: ExperimentConfig, store: Store) -> None:
    found = measure(config, pretrained(store, seed=config.seed), "scenes")
    assert found.keys() == {"dataset", "train", "test", "classes", *METRICS, *(f"floor_{m}" for m in METRICS)}
    assert all(found[metric] == found[f"floor_{metric}"] for metric in METRICS)
    assert (found["dataset"], found["train"], found["test"], found["classes"]) == ("scenes", 60, 60, 10)
    other = measure(config, pretrained(store, seed=7), "scenes")
    assert any(other[metric] != other[f"floor_{metric}"] for metric in METRICS)


@pytest.mark.usefixtures("one_thread")
def test_the_model_and_its_floor_are_fine_tuned_where_it_is_asked_for(config: ExperimentConfig, store: Store) -> None:
    asked = config.evaluate.model_copy(update={"fine_tune": 1, "low_shot": [10]})
    found = measure(config.model_copy(update={"evaluate": asked}), pretrained(store, seed=config.seed), "scenes")
    for metric in ("fine_tuned", "fine_tuned_10", "probe_10"):
        assert 0 <= found[metric] == found[f"floor_{metric}"] <= 1


def test_an_interrupted_evaluation_keeps_the_baseline_that_it_measured(
    config: ExperimentConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, measured = evaluate.probes.accuracies, []

    def interrupted(*arguments: Any, **settings: Any) -> dict[str, float]:
        measured.append(1)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(evaluate.probes, "accuracies", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(config, pretrained(store, 1), "scenes")
    measure(config, pretrained(store, 1), "scenes")
    assert (len(measured), len(floors(store))) == (3, 1)


def test_models_of_one_backbone_seed_and_evaluation_share_a_floor_that_is_measured_once(
    config: ExperimentConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = evaluate.untrained_backbone, []
    monkeypatch.setattr(evaluate, "untrained_backbone", lambda c: made.append(c) or real(c))
    first = measure(config, pretrained(store, 1), "scenes")
    byol = config.pretrain.model_copy(update={"framework": "byol", "twin_weight": 2.0, "epochs": 3})
    trial = config.model_copy(update={"pretrain": byol, "name": "trial"})
    second = measure(trial, pretrained(store, 2), "scenes")
    assert (len(made), len(floors(store))) == (1, 1)
    assert all(first[f"floor_{metric}"] == second[f"floor_{metric}"] for metric in METRICS)

    changes = [
        {"seed": 5},
        {"extract": config.extract.model_copy(update={"image_size": 20})},
        {"pretrain": config.pretrain.model_copy(update={"backbone": "resnet34"})},
        {"pretrain": config.pretrain.model_copy(update={"backbone_settings": {"layers": [1, 1, 1, 1]}})},
        {"evaluate": config.evaluate.model_copy(update={"neighbours": 3})},
    ]
    places = {evaluate.floor_stage(config.model_copy(update=change), store, "datasets").folder for change in changes}
    places.add(evaluate.floor_stage(config, store, "datasets").folder)
    assert len(places) == 6, "every other floor is another"


@pytest.mark.usefixtures("one_thread")
def test_corrected_labels_are_measured_again_for_the_model_and_for_its_floor(
    config: ExperimentConfig, store: Store, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (60, 16, 16, 3), np.uint8) for name in ("x_train", "x_test")}
    labels = {name: np.arange(60) % 3 for name in ("y_train", "y_test")}
    name = str(tmp_path / "set.npz")
    chosen = config.evaluate.model_copy(update={"datasets": [name], "domains": []})
    config, place = config.model_copy(update={"evaluate": chosen}), pretrained(store, 1)
    model = SimpleNamespace(stage=place)

    np.savez(name, **images, **labels)
    size = Path(name).stat().st_size
    before = measure(config, place, name)
    assert evaluate.load(config, model).results == [before]

    np.savez(name, **images, **{key: of[::-1].copy() for key, of in labels.items()})
    assert Path(name).stat().st_size == size
    with pytest.raises(StageError, match="not evaluated yet"):
        evaluate.load(config, model)
    measure(config, place, name)
    assert len(floors(store)) == 2


# ---- what a result depends on

CHANGED: dict[str, Any] = {
    "limit": 50,
    "low_shot": [1, 10],
    "fine_tune": 2,
    "fine_tune_rate": 0.1,
    "fine_tune_batch": 16,
    "void": [0],
    "detector": DetectorConfig(epochs=3),
    "neighbours": 3,
    "temperature": 0.5,
    "probe_iterations": 5,
    "probe_c": 2.0,
}


@pytest.mark.parametrize("measured", DEPENDS_ON)
def test_a_result_has_another_name_only_where_a_setting_that_it_depends_on_has_changed(
    config: ExperimentConfig, store: Store, measured: str
) -> None:
    sections = {name: config.evaluate.model_copy(update={name: value}) for name, value in CHANGED.items()}
    others = {name: config.model_copy(update={"evaluate": section}) for name, section in sections.items()}
    model = pretrained(store, 1)
    for place, holder in ((evaluate.stage, model), (evaluate.floor_stage, store)):
        before = place(config, holder, measured).hash
        changed = {name for name, other in others.items() if place(other, holder, measured).hash != before}
        assert changed == {*DEPENDS_ON[measured]}
    for name, section in sections.items():  # nothing that is not in the name is seen by what measures
        assert (section.only(measured) == config.evaluate.only(measured)) == (name not in DEPENDS_ON[measured])


def test_every_setting_that_says_how_to_measure_is_one_that_a_result_depends_on() -> None:
    fields = EvaluateConfig.model_fields.items()
    every = {name for name, field in fields if Runtime not in field.metadata}
    assert every == set().union(*DEPENDS_ON.values()) == CHANGED.keys()


@pytest.mark.usefixtures("one_thread")
def test_what_is_asked_for_later_is_measured_and_nothing_else(
    config: ExperimentConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()
    for module, function in (("probes", "accuracies"), ("probes", "low_shot"), ("fine_tuning", "accuracies")):
        real = getattr(getattr(evaluate, module), function)

        def counted(*arguments: Any, of: str = f"{module}.{function}", real: Any = real, **settings: Any) -> Any:
            done.append(of)
            return real(*arguments, **settings)

        monkeypatch.setattr(getattr(evaluate, module), function, counted)
    model = pretrained(store, 1)

    def found(**changes: Any) -> dict[str, Any]:
        changed = config.evaluate.model_copy(update=changes)
        done.clear()
        return measure(config.model_copy(update={"evaluate": changed}), model, "scenes")

    before = found()
    assert done == ["probes.accuracies"] * 2  # of the baseline and of the model
    after = found(low_shot=[10], fine_tune=1)
    assert sorted(done) == ["fine_tuning.accuracies"] * 2 + ["probes.low_shot"] * 2
    assert after.items() >= before.items()
    assert after.keys() - before.keys() == {
        f"{whose}{metric}" for whose in ("", "floor_") for metric in ("probe_10", "fine_tuned", "fine_tuned_10")
    }
    found(low_shot=[10], fine_tune=1, detector=DetectorConfig(epochs=3), void=[0])
    assert done == []
    assert found(low_shot=[10], fine_tune=1, neighbours=3)["fine_tuned"] == after["fine_tuned"]
    assert done == ["probes.accuracies"] * 2


# ---- what the report shows


def test_the_first_labelled_set_is_shown_for_the_model_and_for_its_baseline(
    config: ExperimentConfig, store: Store, tmp_path: Path
) -> None:
    write_domains(tmp_path, count=60)
    names = {"datasets": ["scenes", str(tmp_path / "grey")], "domains": []}
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=names)})
    model = pretrained(store, 1)
    _, nothing = evaluate.pictured(config, model, NOTHING)
    assert nothing == {"trained": {}, "baseline": {}}
    assert evaluate.confusions(config, model) == {}
    found = {name: measure(config, model, name) for name in config.evaluate.datasets}
    assert all("look" not in result for result in found.values())
    assert len([path for path in store.files("") if path.endswith("-look.npz")]) == 4
    _, shown = evaluate.pictured(config, model, NOTHING)
    one, other = shown["trained"], shown["baseline"]
    assert one.keys() == other.keys() >= {"tiles", "map"}
    assert one["classes"].tolist() == [*textures.FAMILIES]
    assert (one["tiles"][:, 0] == other["tiles"][:, 0]).all() and not np.array_equal(one["map"], other["map"])
    turned = {"datasets": config.evaluate.datasets[::-1]}
    reordered = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=turned)})
    _, grey = evaluate.pictured(reordered, model, NOTHING)
    for of in grey.values():
        assert {"tiles", "map"} <= of.keys() and of["classes"].tolist() != one["classes"].tolist()
    confused = evaluate.confusions(config, model)
    assert [*confused] == config.evaluate.datasets
    for name, arrays in confused.items():
        true, classified, count = arrays["confusion"].T
        assert count.sum() == found[name]["test"] and len(arrays["classes"]) == found[name]["classes"]
        assert count[true == classified].sum() / count.sum() == pytest.approx(found[name]["probe"])


def test_what_was_measured_before_there_were_pictures_is_not_measured_again(
    config: ExperimentConfig, store: Store
) -> None:
    measure(config, pretrained(store, 1), "scenes")
    for path in [path for path in store.files("") if path.endswith(".npz")]:
        store.delete(path)
    second = pretrained(store, 2)
    measure(config, second, "scenes")
    _, shown = evaluate.pictured(config, second, NOTHING)
    assert shown["trained"] and not shown["baseline"]


def test_what_is_not_used_of_a_set_is_part_of_its_result(
    config: ExperimentConfig, store: Store, tmp_path: Path
) -> None:
    write_domains(tmp_path, count=60)
    (tmp_path / "grey" / "class-0" / "x.heic").touch()
    (tmp_path / "grey" / "class-1" / "x.png").touch()
    found = measure(config, pretrained(store, 1), str(tmp_path / "grey"))
    assert (found["classes"], found["train"] + found["test"]) == (10, 60)
    suffix, unreadable = found["notes"]
    assert suffix == "files are left out by their suffix: 1 .heic"
    assert unreadable.startswith("1 of 61 images cannot be read: ")


def test_two_models_that_measure_their_floor_at_once_find_the_same(
    config: ExperimentConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, others = evaluate.untrained_backbone, []

    def while_another_does(settings: ExperimentConfig) -> torch.nn.Module:
        monkeypatch.setattr(evaluate, "untrained_backbone", real)
        others.append(measure(settings, pretrained(store, 2), "scenes"))
        return real(settings)

    monkeypatch.setattr(evaluate, "untrained_backbone", while_another_does)
    one = measure(config, pretrained(store, 1), "scenes")
    assert len(others) == 1
    assert all(one[f"floor_{metric}"] == others[0][f"floor_{metric}"] for metric in METRICS)
    assert len(floors(store)) == 1


def test_domains_are_measured_like_a_data_set_with_a_matrix_of_all_pairs(
    config: ExperimentConfig, store: Store, tmp_path: Path
) -> None:
    write_domains(tmp_path / "domains", count=60)
    (tmp_path / "domains" / "grey" / "class-0").rename(tmp_path / "domains" / "grey" / "fog")
    name = str(tmp_path / "domains")
    found = measure(config, pretrained(store, 1), name)
    assert (found["dataset"], found["classes"], found["domains"]) == (name, 9, ["grey", "inverted", "plain"])
    assert (found["test"], found["train"]) == (3 * 54, 3 * 54 - 3 * 11)
    assert found["left_out"] == ["class-0", "fog"] and found["domain_images"] == [54, 54, 54]
    for prefix in ("", "floor_"):
        assert {key.removeprefix(prefix) for key in found if key.startswith(prefix)} >= METRICS
        matrix = np.array(found[f"{prefix}probe_matrix"])
        assert matrix.shape == (3, 3) == np.array(found[f"{prefix}knn_matrix"]).shape
        assert found[f"{prefix}probe"] == pytest.approx((matrix.sum() - np.trace(matrix)) / 6)
    assert len(floors(store)) == 1


@pytest.mark.usefixtures("one_thread")
def test_masks_are_segmented_and_masks_and_joints_are_propagated_for_the_model_and_for_its_baseline(
    config: ExperimentConfig, store: Store, tmp_path: Path
) -> None:
    write_masks(tmp_path / "roads")
    write_sequences(tmp_path / "davis")
    write_sequences(tmp_path / "badja")
    write_joints(tmp_path / "badja")
    names = {"domains": [], "segmentation": [str(tmp_path / "roads")], "propagation": [str(tmp_path / "davis")]}
    names["keypoints"] = [str(tmp_path / "badja")]
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=names)})
    check(config)
    model = pretrained(store, seed=3)
    roads, badja = (measure(config, model, str(tmp_path / name)) for name in ("roads", "badja"))
    second = {"propagation": ["another", *names["propagation"]]}
    later = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=second)})
    davis = measure(later, model, *names["propagation"])
    assert {"train", "test", "classes", "miou", "floor_miou"} <= roads.keys() and roads["classes"] == 2
    assert roads["miou"] != roads["floor_miou"] and 0.5 < roads["miou"] <= 1
    assert {"jf", "j", "f", "floor_jf", "sequences"} <= davis.keys() and davis["sequences"].keys() == {"one"}
    assert 0.5 < davis["jf"] <= 1
    assert {"pck_10", "pck_20", "floor_pck_20", "sequences"} <= badja.keys() and badja["sequences"].keys() == {"one"}
    assert len(floors(store)) == 3
    shown = {whose: of for found in evaluate.pictured(config, model, NOTHING) for whose, of in found.items()}
    for whose, arrays in shown.items():
        assert arrays["mask_names"].tolist() == [f"one, frame {n}" for n in range(4)], whose
        assert arrays["mask_0"].sum() == 24 * 24 and arrays["mask_3"].any()
    before = evaluate.paths(config, model, str(tmp_path / "badja"))
    write_joints(tmp_path / "badja", column=40)
    assert evaluate.paths(config, model, str(tmp_path / "badja")) != before


@pytest.mark.usefixtures("one_thread")
def test_objects_are_detected_by_the_model_and_by_its_baseline(
    config: ExperimentConfig, store: Store, tmp_path: Path
) -> None:
    folder = boxes.yolo(tmp_path / "boxes", count=2, polygons=True)
    detector = DetectorConfig(size=32, epochs=1, batch_size=2, width=8, proposals=16)
    names = {"domains": [], "detection": [str(folder)], "detector": detector}
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=names)})
    check(config)
    found = measure(config, pretrained(store, seed=3), str(folder))
    assert (found["train"], found["test"], found["classes"], len(found["notes"])) == (2, 2, 2, 1)
    metrics = {"map", "map_50", "mask_map", "mask_map_50"}
    assert {*metrics, *(f"floor_{metric}" for metric in metrics)} <= found.keys()
    assert not any("influence" in key for key in found), "two images are too few for an interval"
    assert found["loss"] != found["floor_loss"]
    assert len(floors(store)) == 1
    before = evaluate.paths(config, pretrained(store, 3), str(folder))
    (folder / "segments" / "val" / "val0.txt").write_text("0 .1 .1 .5 .1 .5 .5", encoding="utf-8")
    assert evaluate.paths(config, pretrained(store, 3), str(folder)) != before


def write_masks(root: Path) -> None:
    """Dark and bright halves of images, in masks of two classes."""
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(2):
            mask = np.zeros((32, 48), np.uint8)
            mask[:, 20 + 4 * number :] = 1
            picture = np.repeat((40 + 150 * mask)[..., None], 3, axis=2).astype(np.uint8)
            Image.fromarray(picture).save(root / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")


def write_sequences(root: Path) -> None:
    """A bright square that moves."""
    random = np.random.default_rng(0)
    ground, square = random.integers(0, 90, (64, 96, 3)), random.integers(150, 256, (24, 24, 3))
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "one").mkdir(parents=True)
    for number in range(4):
        picture, mask = ground.copy(), np.zeros((64, 96), np.uint8)
        picture[20:44, 20 + 8 * number : 44 + 8 * number], mask[20:44, 20 + 8 * number : 44 + 8 * number] = square, 255
        Image.fromarray(picture.astype(np.uint8)).save(root / "JPEGImages" / "one" / f"{number:05d}.jpg", quality=95)
        Image.fromarray(mask).save(root / "Annotations" / "one" / f"{number:05d}.png")


def write_joints(root: Path, column: int = 32) -> None:
    """A joint of the square that `write_sequences` draws."""
    joints = [
        {"image_path": f"{number:05d}.jpg", "joints": [[32, column + 8 * number]], "visibility": [True]}
        for number in range(4)
    ]
    (root / "Keypoints").mkdir(exist_ok=True)
    (root / "Keypoints" / "one.json").write_text(json.dumps(joints))


def test_a_data_set_is_named_by_one_protocol_only() -> None:
    with pytest.raises(UsageError, match="'x' is among datasets and among segmentation: name it in one of them"):
        load(None, ["evaluate.datasets=[x]", "evaluate.segmentation=x"])


def test_evaluation_takes_the_cpus_of_one_trials_training_where_they_are_set(config: ExperimentConfig) -> None:
    def cpus(there: int, **pretrain: int) -> int:
        update = {"pretrain": config.pretrain.model_copy(update=pretrain)}
        return evaluate.cpus(config.model_copy(update=update), there)

    assert [cpus(there) for there in (2, 64)] == [2, evaluate.MAX_CPUS]
    assert cpus(64, cpus_per_worker=1) == 1
    assert cpus(64, cpus_per_worker=2, workers=2) == 4
    assert cpus(64, cpus_per_worker=16) == evaluate.MAX_CPUS
    assert cpus(2, cpus_per_worker=4) == 2


# ---- before hours of training


def test_check_asks_for_a_set_as_it_will_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0)).tolist()
    targets = [0] * 6
    targets[order[-1]] = 1  # the first images of the fixed shuffle are of one class
    targets[order[-2]] = 1
    data = np.zeros((6, 16, 16, 3), np.uint8)
    monkeypatch.setitem(opening.TORCHVISION, "cifar10", lambda *_: SimpleNamespace(data=data, targets=targets))
    check(load(None, ["evaluate.datasets=cifar10", "extract.image_size=16"]))
    with pytest.raises(UsageError, match="at least two classes"):
        check(load(None, ["evaluate.datasets=cifar10", "extract.image_size=16", "evaluate.limit=2"]))


def test_check_names_what_is_not_there_and_takes_what_is(tmp_path: Path) -> None:
    write_domains(tmp_path / "sets", count=40)
    check(load(None, [f"evaluate.datasets=[scenes, '{tmp_path}/sets/grey']"]))
    with pytest.raises(UsageError, match="no data set 'imagenet'"):
        check(load(None, ["evaluate.datasets=[scenes, imagenet]"]))
    absent = ["evaluate.datasets=stl10", "evaluate.download=false", f"evaluate.data={tmp_path}"]
    with pytest.raises(UsageError, match="data set 'stl10' is not in"):
        check(load(None, absent))


def test_check_reads_what_is_validated_on_while_training(tmp_path: Path) -> None:
    write_domains(tmp_path, count=40)
    tmp_path /= "grey"
    for path in tmp_path.glob("class-1/*.png"):
        path.write_bytes(path.read_bytes()[:-40])  # its header is whole
    overrides = [f"evaluate.datasets=['{tmp_path}', scenes]", "extract.image_size=16"]
    check(load(None, overrides))
    with pytest.raises(UsageError, match="cannot be read"):
        check(load(None, [*overrides, "evaluate.every=2"]))


def test_check_looks_at_domains_and_says_which_classes_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_domains(tmp_path, count=20)
    asked = load(None, [f"evaluate.domains={tmp_path}"])
    check(asked)
    assert capsys.readouterr().err == ""
    (tmp_path / "grey" / "class-3").rename(tmp_path / "grey" / "fog")
    check(asked)
    assert "2 classes are left out" in (said := capsys.readouterr().err) and "class-3, fog" in said
    with pytest.raises(UsageError, match=r"evaluate\.domains: there is no folder"):
        check(load(None, ["evaluate.domains=absent"]))


@pytest.mark.parametrize("protocol", ["datasets", "domains", "propagation", "keypoints", "segmentation", "detection"])
@pytest.mark.parametrize("name", ["~no-such-user/data", "absent"])
def test_a_folder_that_is_not_there_is_named_whatever_its_protocol(protocol: str, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        check(load(None, [f"evaluate.{protocol}={name}"]))


@pytest.mark.parametrize(
    "changed",
    [
        [],
        {},
        {"dataset": "a"},
        {"dataset": "a", "knn": 0.5},
        {"dataset": "a", "knn": 0.5, "floor_knn": None},
        {"knn": 0.5},
    ],
)
def test_a_result_that_was_changed_by_hand_is_named_as_broken(changed: Any, store: Store) -> None:
    store.write_json("evaluate/a.json", {"dataset": "a", "knn": 0.5, "floor_knn": float("nan")})
    assert evaluate._together(store, {"datasets": "evaluate/a.json"})["knn"] == 0.5
    store.write_json("evaluate/a.json", changed)
    with pytest.raises(
        StageError, match=r"'evaluate/a\.json' of the store .* is broken, delete it to compute it again"
    ):
        evaluate._together(store, {"datasets": "evaluate/a.json"})
