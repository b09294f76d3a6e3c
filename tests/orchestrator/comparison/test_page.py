"""The page of a comparison tells all of it, needs nothing beside it, and runs nothing that it was given."""

import base64
import dataclasses
import random

import pytest

from infoaug.orchestrator.comparison import page
from infoaug.orchestrator.comparison.arms import MI, Sweep
from tests.orchestrator.comparison.sweeps import MALICIOUS, rich_sweep, sweep, trial, trials
from tests.orchestrator.reporting.test_report import Seen

MARKUP = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>'


def told(of: Sweep) -> Seen:
    """The page, without figures."""
    return Seen(page.page(of, {}))


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """All files of a sweep."""
    return page.files(rich_sweep())


def test_there_is_a_page_a_text_two_tables_and_every_figure_as_png_and_svg(files: dict[str, bytes]) -> None:
    figures = [
        f"{kind}-{name}" for name in ("cifar10", "scenes") for kind in ("accuracy", "weights", "time", "rank-me")
    ]
    names = [f"{name}.{kind}" for name in (*figures, "estimation-time") for kind in ("png", "svg")]
    assert set(files) == {"comparison.html", "comparison.md", "trials.csv", "summary.csv", *names}
    assert all(files[name].startswith(b"\x89PNG") for name in files if name.endswith("png"))


def test_every_figure_is_in_the_page_as_svg_and_described(files: dict[str, bytes]) -> None:
    images = [attributes for tag, attributes in Seen(files["comparison.html"].decode()).tags if tag == "img"]
    inside = {base64.b64decode((image["src"] or "").partition("base64,")[2]) for image in images}
    assert inside == {content for name, content in files.items() if name.endswith(".svg")}
    assert all(image["alt"] for image in images)


def test_the_page_needs_nothing_beside_it(files: dict[str, bytes]) -> None:
    page = files["comparison.html"].decode()
    for tag, attributes in Seen(page).tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert tag not in ("script", "link", "iframe", "object")
    assert "url(" not in page
    assert page.lstrip().startswith("<!doctype html>")


@pytest.mark.parametrize("name", [MARKUP, MALICIOUS])
def test_names_are_shown_as_they_are_and_never_run(name: str) -> None:
    results = {name: {"probe": 0.5}, "x": {"domains": [name], "probe_matrix": [[0.5]]}}
    of = [trial("none", results=results, framework=name), trial(results=results, framework=name, run=name)]
    made = sweep(
        of, name=name, created=name, source=name, failed=[(name, name)], packages={name: name}, commit=name,
        config_yaml=name,
    )  # fmt: skip
    seen = told(made)
    assert not {"script", "b", "img"} & {tag for tag, _ in seen.tags}
    assert not any(key.startswith("on") for _, attributes in seen.tags for key in attributes)
    assert seen.text.count(name) > 8


def test_the_tables_the_headline_and_their_captions_are_on_the_page() -> None:
    text = told(rich_sweep()).text
    for said in (
        "Over 3 frameworks and 3 seeds the MI twin changes linear probe accuracy on cifar10 by",
        "framework none random nearest MI twin Δ none p Δ random p",
        "all frameworks",
        "Every arm trained the same number of steps (20 epochs)",
        "chosen weight",
        "Across domains",
        "trained on photo sketch",
        "vicreg, seed 7 failed out of memory",
    ):
        assert said in text


def test_synthetic_video_is_called_so_and_real_video_is_not() -> None:
    of = trials({"none": [0.5], MI: [0.6]})
    assert "The video is synthetic" in told(sweep(of, synthetic=True)).text
    assert "synthetic" not in told(sweep(of)).text


def test_where_all_trials_ended_nothing_is_said_of_failures_and_where_some_are_missing_it_is() -> None:
    of = trials({"none": [0.5], MI: [0.6]})
    assert "planned" not in told(sweep(of)).text
    assert "2 of 5 planned trials came to the end ." in told(sweep(of, planned=5)).text.replace("end.", "end .")
    text = told(sweep([*of, trial(seed=5, probe=float("nan"))])).text
    assert "linear probe and kNN on cifar10: not a number" in text


def test_config_and_numbers_can_be_taken_from_the_page_without_passwords(files: dict[str, bytes]) -> None:
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
    assert base64.b64decode(link.partition("base64,")[2]) == b"store: s3://bucket/x\n"
    assert "hunter2" not in made
    assert "infoaug sweep demo.yaml" in seen.text
    assert "commit abc123, numpy 2.0" in seen.text


def test_a_sweep_of_which_nothing_came_still_has_all_files() -> None:
    made = page.files(sweep([], planned=4, failed=[("a", "why")]))
    assert "No trial came to an accuracy" in Seen(made["comparison.html"].decode()).text
    assert "estimation-time.svg" in made


def test_the_order_of_the_trials_changes_no_byte(files: dict[str, bytes]) -> None:
    of = rich_sweep()
    shuffled = dataclasses.replace(of, trials=random.Random(2).sample(list(of.trials), len(of.trials)))
    assert page.files(shuffled) == files


def test_data_sets_of_alike_names_have_files_of_their_own() -> None:
    names = ["a/pets", "b pets", "a-pets", "…"]
    found = [page.file_name(name, names) for name in names]
    assert len(set(found)) == 4
    assert all(part and set(part) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for part in found)
