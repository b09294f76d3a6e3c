"""The page of a comparison is complete and self-contained, and escapes markup in user-supplied names."""

import base64
import dataclasses
import random

import pytest

from infoaug.orchestrator.comparison import captions, page
from infoaug.orchestrator.comparison.arms import MI, Sweep
from infoaug.orchestrator.comparison.effects import effect_tables
from tests.orchestrator.comparison.sweeps import MALICIOUS, rich_sweep, sweep, trial, trials
from tests.orchestrator.reporting.test_report import Seen

MARKUP = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>'


def rendered(of: Sweep) -> Seen:
    """The page, without figures."""
    return Seen(page.page(of, {}))


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """All files of a sweep."""
    return page.files(rich_sweep())


def test_files_are_the_page_markdown_two_csv_files_and_every_figure_as_png_and_svg(files: dict[str, bytes]) -> None:
    figures = [
        f"{kind}-{name}"
        for name in ("cifar10", "scenes")
        for kind in ("accuracy", "weights", "settings", "time", "rank-me")
    ]
    names = [f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    assert set(files) == {"comparison.html", "comparison.md", "trials.csv", "summary.csv", *names}
    assert all(files[name].startswith(b"\x89PNG") for name in files if name.endswith("png"))


def test_every_figure_is_in_the_page_as_svg_and_described(files: dict[str, bytes]) -> None:
    images = [attributes for tag, attributes in Seen(files["comparison.html"].decode()).tags if tag == "img"]
    inside = {base64.b64decode((image["src"] or "").partition("base64,")[2]) for image in images}
    assert inside == {content for name, content in files.items() if name.endswith(".svg")}
    assert all(image["alt"] for image in images)


def test_the_page_is_self_contained(files: dict[str, bytes]) -> None:
    page = files["comparison.html"].decode()
    for tag, attributes in Seen(page).tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert tag not in ("script", "link", "iframe", "object")
    assert "url(" not in page
    assert page.lstrip().startswith("<!doctype html>")


@pytest.mark.parametrize("name", [MARKUP, MALICIOUS])
def test_markup_in_user_supplied_names_is_escaped(name: str) -> None:
    results = {name: {"probe": 0.5}, "x": {"domains": [name], "probe_matrix": [[0.5]]}}
    of = [trial("none", results=results, framework=name), trial(results=results, framework=name, run=name)]
    made = sweep(
        of, name=name, created=name, source=name, failed=[(name, name)], packages={name: name}, commit=name,
        config_yaml=name,
    )  # fmt: skip
    seen = rendered(made)
    assert not {"script", "b", "img"} & {tag for tag, _ in seen.tags}
    assert not any(key.startswith("on") for _, attributes in seen.tags for key in attributes)
    assert seen.text.count(name) > 8


def test_tables_headline_and_captions_are_on_the_page() -> None:
    text = rendered(rich_sweep()).text
    of = rich_sweep()
    for part in (
        captions.headline(effect_tables(of)[0]),
        "framework none random nearest MI twin Δ none p Δ random p",
        "all frameworks",
        captions.training_budget(of),
        "chosen weight",
        "trained on photo sketch",
        "vicreg, seed 7 failed out of memory",
    ):
        assert part in text


def test_the_difference_stays_in_sight_and_few_images_are_not_zero_million() -> None:
    seen = rendered(sweep([trial("none", passes=12345.0), trial(passes=12345.0)]))
    kept = [attributes for tag, attributes in seen.tags if "kept" in (attributes.get("class") or "")]
    assert len(kept) == 4, "the column Δ none of two tables"
    assert "24,690 images through the backbone" in seen.text
    assert "138.0 million images through the backbone" in rendered(rich_sweep()).text


def test_the_page_calls_synthetic_video_synthetic_and_real_video_not() -> None:
    of = trials({"none": [0.5], MI: [0.6]})
    assert "synthetic" in rendered(sweep(of, synthetic=True)).text
    assert "synthetic" not in rendered(sweep(of)).text


def test_incomplete_trials_are_reported_and_only_then() -> None:
    of = trials({"none": [0.5], MI: [0.6]})
    assert "planned" not in rendered(sweep(of)).text
    assert "2 of 5 planned trials" in rendered(sweep(of, planned=5)).text
    text = rendered(sweep([*of, trial(seed=5, probe=float("nan"))])).text
    assert "linear probe and kNN on cifar10: not a number" in text


def test_config_and_csv_can_be_downloaded_from_the_page_without_passwords(files: dict[str, bytes]) -> None:
    links = {
        attributes["download"]: base64.b64decode((attributes["href"] or "").partition("base64,")[2])
        for _, attributes in Seen(files["comparison.html"].decode()).tags
        if "download" in attributes
    }
    assert links["trials.csv"] == files["trials.csv"]
    assert links["summary.csv"] == files["summary.csv"]
    secret = sweep([], config_yaml="store: s3://me:hunter2@bucket/x\n", commit="abc123", packages={"numpy": "2.0"})
    made = page.page(secret, {})
    seen = Seen(made)
    (link,) = [a["href"] or "" for _, a in seen.tags if a.get("download") == "demo.yaml"]
    assert base64.b64decode(link.partition("base64,")[2]) == b"store: s3://***@bucket/x\n"
    assert "hunter2" not in made
    assert "infoaug sweep demo.yaml" in seen.text
    assert "commit abc123, numpy 2.0" in seen.text


def test_a_sweep_without_completed_trials_still_has_a_page() -> None:
    made = page.files(sweep([], planned=4, failed=[("a", "why")]))
    text = Seen(made["comparison.html"].decode()).text
    assert "No trial was evaluated" in text
    assert "a failed why" in text


def test_the_order_of_the_trials_changes_no_byte(files: dict[str, bytes]) -> None:
    of = rich_sweep()
    shuffled = dataclasses.replace(of, trials=random.Random(2).sample(list(of.trials), len(of.trials)))
    assert page.files(shuffled) == files


def test_data_sets_with_similar_names_get_different_file_names() -> None:
    names = ["a/pets", "b pets", "a-pets", "…"]
    found = [page.file_name(name, names) for name in names]
    assert len(set(found)) == 4
    assert all(part and set(part) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for part in found)
