"""Configs and overrides: whatever is written there, a whole config comes out or one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from infoaug.orchestrator.config import RUNTIME, ExperimentConfig, load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime.store import digest_of
from infoaug.orchestrator.stages import extract
from infoaug.orchestrator.sweep import config as sweep_config
from tests.fuzz.hostile import check_sentence, examples, nearly

ROOT = Path(__file__).parents[2]
SHIPPED = [path.read_bytes() for path in sorted((ROOT / "configs").rglob("*.yaml"))]
KEYS = sorted(ExperimentConfig().flat())
SECTIONS = sorted(ExperimentConfig.model_fields)

# Texts that YAML takes for something else than it looks like, or that only look like a value.
ODD = [
    *("~", "null", "yes", "on", "0o17", "0x", "0x_", "0b_", "._", "-", "?", "=", "<<", "1:60:60", "190:20:30.15"),
    *("2001-99-99", "2001-12-14t21:59:43.10-05:00", ".nan", "-.inf", "1e999", "-1e999", "9" * 30, "9" * 5000, "1_000"),
    *("0x" + "f" * 5000, "!!int x", "!!float x", "!!bool x", "!!timestamp x", "!!binary x", "!!binary /9j/"),
    *("!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!python/name:os.system ", "!<tag:x> y", "&a *a", "*a"),
    *('"\\ud800"', '"\\0"', '"\\x1b[2J"', '"a\\nb"', "[", "{", "}", "]", "%YAML 9.9"),
    *("{a: 1, a: 2}", "{1: 2, a: 3}", "{[1]: 2}", "{? {a: b} : c}", "{~: 1}", "{true: 1}", "{1.5: 1}", "[1, [2, [3]]]"),
    *("[" * 60 + "]" * 60, "{a: " * 60 + "1" + "}" * 60, "[" * 3000, "{a: " * 3000, "- " * 3000, "x" * 20_000),
    *("&a [*a]", "&a {b: *a}", "`", "1e3", "...", "\t", "@", "!!null x", "--- a\n--- b"),
]  # fmt: skip
scalars = st.sampled_from(ODD) | st.text(max_size=30) | st.floats().map(str) | st.integers().map(str)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs") / "config.yaml"


def check(read: Callable[[], ExperimentConfig], place: Path | None, *named: Any) -> ExperimentConfig | None:
    """Either a config that can be kept, hashed and read back, or one sentence."""
    try:
        config = read()
    except UsageError as error:
        check_sentence(error, *named)
        return None
    text = config.to_yaml()
    text.encode()
    digest_of(config.model_dump(exclude=RUNTIME))
    digest_of(config.model_dump(mode="json"))
    assert "\0" not in "".join(str(value) for value in config.flat().values())
    if place:
        place.write_text(text, encoding="utf-8")
        assert type(config).model_validate(yaml.safe_load(text)) == load_as(type(config), place) == config
    return config


def load_as(kind: type[ExperimentConfig], place: Path) -> ExperimentConfig:
    return (sweep_config.load if kind is sweep_config.SweepConfig else load)(place)


def of_bytes(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    check(lambda: load(place), place, place)
    place.write_bytes(content)
    check(lambda: sweep_config.load(place), place, place)


@examples(60)
@given(st.sampled_from(SHIPPED).flatmap(nearly))
def test_a_config_with_a_few_wrong_bytes_is_read_or_refused(place: Path, content: bytes) -> None:
    of_bytes(place, content)


@examples(40)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\xef\xbb\xbfname: x\n")
@example("name: x\n".encode("utf-16"))
@example(b"\0" * 1000)
def test_any_bytes_are_read_or_refused(place: Path, content: bytes) -> None:
    of_bytes(place, content)


@examples(100)
@given(st.lists(st.tuples(st.sampled_from(KEYS + SECTIONS) | st.text(max_size=20), scalars), min_size=1, max_size=4))
def test_any_text_as_the_value_of_any_key_is_read_or_refused(place: Path, pairs: list[tuple[str, str]]) -> None:
    lines = []
    for key, text in pairs:
        *sections, last = key.split(".")
        lines += ["  " * depth + section + ":" for depth, section in enumerate(sections)]
        lines.append("  " * len(sections) + f"{last}: {text}")
    of_bytes(place, "\n".join(lines).encode("utf-8", "replace"))


@examples(60)
@given(st.dictionaries(st.sampled_from(SECTIONS) | st.text(max_size=9), values, max_size=4))
def test_any_mapping_is_read_or_refused(place: Path, content: dict[str, Any]) -> None:
    of_bytes(place, yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))


@examples(60)
@given(st.sampled_from(KEYS), values)
def test_any_value_of_a_known_key_is_read_or_refused(place: Path, key: str, value: Any) -> None:
    content: Any = value
    for part in reversed(key.split(".")):
        content = {part: content}
    of_bytes(place, yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))


@examples(150)
@given(st.lists(st.tuples(st.sampled_from(KEYS) | st.text(max_size=12), scalars | st.none()), min_size=1, max_size=3))
def test_any_override_is_taken_or_refused(place: Path, pairs: list[tuple[str, str | None]]) -> None:
    overrides = [key if text is None else f"{key}={text}" for key, text in pairs]
    check(lambda: load(None, overrides), place)


def odd_cases() -> list[Any]:
    """(key, text) for each odd text and each kind of key. The text that takes a second to parse is fast for one key."""
    keys = ("name", "seed", "score", "pretrain.framework_settings", "evaluate.datasets", "x")
    slow = {(key, "[" * 3000) for key in keys[1:]}
    return [
        pytest.param(key, text, id=f"{key}-{number}", marks=pytest.mark.slow if (key, text) in slow else ())
        for key in keys
        for number, text in enumerate(ODD)
    ]


@pytest.mark.parametrize(("key", "text"), odd_cases())
def test_every_odd_text_is_read_or_refused(place: Path, key: str, text: str) -> None:
    check(lambda: load(None, [f"{key}={text}", "x.y.z=" + text]), place)
    check(lambda: load(None, [f"{key}={text}"]), place)


@pytest.mark.parametrize("key", ["pretrain.framework_settings", "x", "score", "name", "evaluate.datasets"])
@pytest.mark.parametrize("levels", [9, 60])
def test_a_few_lines_that_stand_for_a_billion_are_refused_before_they_are_written_out(
    place: Path, key: str, levels: int
) -> None:
    section, _, name = key.partition(".")
    lists = ["x0: &x0 [lol, lol]", *(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, levels))]
    mappings = ["x0: &x0 {a: lol}", *(f"x{n}: &x{n} {{a: *x{n - 1}, b: *x{n - 1}}}" for n in range(1, levels))]
    merged = ["x0: &x0 {a: lol}", *(f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 9)}]}}" for n in range(1, levels))]
    for lines in (lists, mappings, merged):
        end = f"{section}:" + (f" {{{name}: *x{levels - 1}}}" if name else f" *x{levels - 1}")
        place.write_text("\n".join([*lines, end]))
        with pytest.raises(UsageError) as caught:
            load(place)
        check_sentence(caught.value, place)


@examples(30)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(-(2**70), 2**70)), min_size=1, max_size=5))
def test_whole_numbers_of_any_size_are_read_or_refused(place: Path, pairs: list[tuple[str, int]]) -> None:
    config = check(lambda: load(None, [f"{key}={number}" for key, number in pairs]), place)
    if config:
        assert extract.clips_digest(config)
