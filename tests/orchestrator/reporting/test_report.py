"""The report shows all results of an experiment on a self-contained page, and escapes markup in names."""

import base64
import re
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.reporting import figures, look, report
from infoaug.orchestrator.reporting.confusion import Confusion
from infoaug.orchestrator.stages import extract

VIDEO = {"name": "trial", "clips": {"path": "my/videos"}}
MALICIOUS = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>.mp4'


def result(dataset: str = "cifar10", knn: float = 0.41) -> dict[str, Any]:
    """Made-up accuracies."""
    accuracies = {"knn": knn, "probe": 0.45, "floor_knn": 0.3, "floor_probe": 0.5}
    return {"dataset": dataset, "train": 50000, "test": 10000, "classes": 10, **accuracies}


def clip(name: str, status: str = "ok", reason: str = "", windows: int = 2) -> dict[str, Any]:
    """A made-up row of the ledger."""
    return {"clip_id": name, "path": name, "status": status, "reason": reason} | {
        "frames": 96,
        "windows": list(range(windows)),
    }


def ledger(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([*rows], schema=extract.LEDGER)


def made_up(config: dict[str, Any] | None = None, **changes: Any) -> report.Report:
    """A report with made-up content."""
    counts = {"patches": 200, "tracked": 150, "twin": 40, "lost": 20, "static": 100, "not significant": 40}
    history = [
        {"epoch": n, "loss": 3.0 / n, "view_loss": 2.0 / n, "twin_loss": 2.0 / n, "learning_rate": 0.1, "seconds": 2.0}
        | {"images_per_second": 1234.0, "share_with_twin": 0.2}
        for n in (1, 2)
    ]
    picture = figures.png(figures.draw_reasons(counts))
    whole = report.Report(
        name="demo",
        created="2024-01-02T03:04:05+00:00",
        config_yaml=ExperimentConfig.model_validate(config or {"name": "demo"}).to_yaml(),
        results=[result()],
        counts=counts,
        ledger=ledger(clip("a.mp4"), clip("b.mp4")),
        times={"extract": {"seconds": 83.2, "computed": 4, "resumed": 0}},
        history=history,
        pictures={"reasons": picture, "training": picture, "accuracy": picture},
        examples={"a.mp4, window 0": {"tracks": picture, "twins": picture}},
        packages={"numpy": "2.0.0"},
    )
    return replace(whole, **changes)


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def printed(made: report.Report) -> str:
    """The table as a terminal of 80 columns shows it."""
    console = Console(width=80)
    with console.capture() as captured:
        console.print(report.terminal_table(made))
    return captured.get()


def test_a_window_is_linked_to_its_explorer_beside_the_page() -> None:
    assert 'href="a.html"' in report.page(made_up(explorers={"a.mp4, window 0": "a.html"}))
    assert "Explore" not in report.page(made_up())


def test_the_page_is_self_contained() -> None:
    page = report.page(made_up(ledger=ledger(clip(MALICIOUS, "failed", MALICIOUS, 0), clip("a"))))
    for tag, attributes in Seen(page).tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in page
    assert "@import" not in page


def test_what_features_see_stands_beside_the_baseline_where_there_is_one() -> None:
    assert "What the features see" not in report.page(made_up())
    picture = figures.png(figures.message("x"))
    looks = {"neighbours": {"trained": picture, "baseline": picture}, "components": {"trained": picture}}
    seen = Seen(report.page(made_up(looks=looks)))
    assert "Nearest neighbours of test images: scenes" in seen.text and "Principal components" in seen.text
    said = [alt.partition(":")[0] for tag, of in seen.tags if tag == "img" and (alt := of["alt"])]
    assert [said.count(whose) for whose in ("trained", "random-init baseline")] == [2, 1]


def test_confused_classes_are_a_matrix_or_a_table_and_left_out_where_they_are_not_known() -> None:
    assert "Which classes are confused" not in report.page(made_up())
    many = Confusion([f"class {n}" for n in range(30)], np.array([[0, 0, 6], [0, 29, 2], [3, 3, 1]]))
    few = Confusion(["cat", "dog"], np.array([[0, 1, 3]]))
    right = Confusion(many.classes, many.counts[[0, 2]])
    made = made_up(
        results=[result("cifar100"), result("pets/cats"), result("easy")],
        confusions={"cifar100": many, "pets/cats": few, "easy": right},
        matrices={"pets/cats": figures.png(figures.draw_confusion(few))},
        counts_files={"cifar100": "confusion-cifar100.csv"},
    )
    page = report.page(made)
    seen = Seen(page)
    assert "cifar100: linear probe, trained" in seen.text and "cats: linear probe, trained" in seen.text
    assert "class 0 8 75 % class 29 2 (25 %)" in seen.text
    assert seen.text.count("found instead") == 1, "two classes have a matrix"
    assert "None: the probe finds the class of every test image." in seen.text
    assert sum("columns: the class that the linear probe" in (of.get("alt") or "") for _, of in seen.tags) == 1
    assert page.count('href="confusion-') == 1


def test_every_picture_of_what_features_see_has_a_heading_and_a_caption() -> None:
    assert tuple(report.LOOKS) == look.NAMES
    for name in look.NAMES:
        looks = {name: {"trained": figures.png(figures.message("x"))}}
        assert report.LOOKS[name] in Seen(report.page(made_up(looks=looks))).text


def test_every_picture_is_in_the_page_with_alternative_text() -> None:
    made = made_up()
    images = [attributes for tag, attributes in Seen(report.page(made)).tags if tag == "img"]
    assert len(images) == 5
    for image in images:
        assert base64.b64decode((image["src"] or "").partition("base64,")[2]) == made.pictures["reasons"]
        assert image["alt"]


def test_markup_in_names_and_reasons_is_escaped() -> None:
    made = made_up(
        ledger=ledger(clip(MALICIOUS, "failed", "<b>why</b>", 0), clip("a")),
        results=[result(MALICIOUS)],
        examples={MALICIOUS: {}},
        packages={MALICIOUS: MALICIOUS},
        created=MALICIOUS,
    )
    seen = Seen(report.page(made))
    assert not {"script", "b"} & {tag for tag, _ in seen.tags}
    assert MALICIOUS in seen.text
    assert "<b>why</b>" in seen.text


@pytest.mark.parametrize("count", [1, 300])
def test_every_failed_clip_is_named_with_its_reason(count: int) -> None:
    lost = [clip(f"clip-{n}.mp4", "failed", f"broken at byte {n}.", 0) for n in range(count)]
    lost.append(clip("c", "partial", "window 3: out of memory"))
    text = Seen(report.page(made_up(ledger=ledger(*lost, clip("d"))))).text
    assert all(f"clip-{n}.mp4 failed broken at byte {n}." in text for n in range(count))
    assert "c partial window 3: out of memory" in text
    assert f"{count + 1} of {count + 2} clips" in text


def test_failures_are_not_mentioned_if_all_clips_are_complete() -> None:
    assert "ailed" not in Seen(report.page(made_up())).text


def test_rendered_scenes_are_called_synthetic_and_real_video_is_not() -> None:
    rendered, real = (Seen(report.page(made_up(config))).text for config in (None, VIDEO))
    assert "The video is synthetic : 8 scenes" in rendered
    assert "synthetic" not in real
    assert "Video from my/videos" in real


def test_the_rendered_data_set_is_called_synthetic_on_the_page_and_in_the_terminal() -> None:
    made = made_up(VIDEO, results=[result("scenes"), result("my/scenes")])
    assert [row.dataset for row in report.accuracies(made.results)][::2] == ["scenes (synthetic)", "my/scenes"]
    assert "scenes (synthetic)" in Seen(report.page(made)).text
    assert "scenes (synthetic)" in printed(made)


def test_data_sets_of_one_base_name_are_told_apart_and_what_they_leave_out_is_said() -> None:
    noted = {**result("siteB/images"), "notes": ["3 of 200 images cannot be read: 'x.png' (cut)"]}
    made = made_up(results=[result("siteA/images"), noted])
    assert [row.dataset for row in report.accuracies(made.results)][::2] == ["siteA/images", "siteB/images"]
    assert "3 of 200 images cannot be read" in Seen(report.page(made)).text


def test_a_cross_domain_result_is_labelled_and_shown_with_its_figure_and_caption() -> None:
    across = {**result("data/pacs"), "domains": ["art", "photo"], "left_out": ["fox"]}
    made = made_up(results=[across], domains={"data/pacs": b"\x89PNG of domains"})
    assert [row.dataset for row in report.accuracies(made.results)] == ["pacs (cross-domain)"] * 2
    seen = Seen(report.page(made))
    assert "10 classes (1 more" in re.sub(r"\s+", " ", seen.text)
    assert "data/pacs: cross-domain accuracy" in seen.text
    assert "Off the diagonal" in seen.text
    assert b64encode(b"\x89PNG of domains").decode() in report.page(made)
    assert "cross-domain" not in Seen(report.page(made_up())).text


def test_the_table_has_trained_baseline_and_signed_difference_with_intervals_over_test_images() -> None:
    text = re.sub(r"\s+", " ", Seen(report.page(made_up())).text)
    assert "cifar10 kNN 41.0 % (40.0–42.0) 30.0 % (29.1–30.9) +11.0 (+9.7 to +12.3)" in text
    assert "cifar10 linear probe 45.0 % (44.0–46.0) 50.0 % (49.0–51.0) −5.0 (−6.4 to −3.6)" in text
    assert "random-init baseline" in text and "in brackets: 95 % intervals over the test images" in text
    told = printed(made_up())
    assert re.search(r"41\.0 % +30\.0 % +\+11\.0", told) and "(+9.7 to +12.3)" in told
    assert "Without an interval" not in text
    masks = [{"dataset": "davis", "jf": 0.41, "floor_jf": 0.3, "sequences": {"dog": {}}}]
    assert "one seed: no interval" in Seen(report.page(made_up(results=masks))).text


def test_the_caption_says_what_intervals_of_one_seed_are_over_and_what_has_none() -> None:
    dogs = {"sequences": {f"dog {n}": {"jf": share} for n, share in enumerate((0.4, 0.5))}, "jf": 0.45}
    before = {"sequences": {f"dog {n}": {"jf": share} for n, share in enumerate((0.4, 0.44))}, "jf": 0.42}
    davis = {"dataset": "davis", **dogs, **{f"floor_{key}": of for key, of in before.items()}}
    boxes = {"dataset": "coco", "train": 98, "test": 100, "classes": 76, "map": 0.1, "floor_map": 0.05}
    text = Seen(report.page(made_up(results=[result(), davis, boxes]))).text
    assert "one seed; in brackets: 95 % intervals over the test images or sequences (accuracies: Wilson’s" in text
    assert "J&F: Student’s t; both backbones are compared on the same sequences)" in text
    assert "Without an interval: mAP on coco." in text and "across domains" not in text
    moved = {"map_influence": [0.02, -0.02, 0.0], "floor_map_influence": [0.0, -0.01, 0.01]}
    text = Seen(report.page(made_up(results=[boxes | moved]))).text
    assert "mAP: jackknife, Student’s t over groups of images left out in turn, the same for both backbones)" in text
    assert "Without an interval" not in text and "mAP on coco" in report.conclusion(made_up(results=[boxes | moved]))[0]
    found, _ = report.conclusion(made_up(results=[davis]))
    assert found.startswith("No difference in J&F on davis is shown") and "2 sequences)" in found
    domains = result("pacs") | {"domains": ["a", "b"], "domain_images": [9, 9], "probe_matrix": [[0.5, 0.5]] * 2}
    domains |= {"floor_probe_matrix": [[0.4, 0.4]] * 2}
    text = Seen(report.page(made_up(results=[domains]))).text
    assert "across domains: the same over the images of each domain" in text and "kNN on pacs" in text


def small(trained: float, **changes: Any) -> dict[str, Any]:
    """Accuracies on 300 images, 40 % before training."""
    return {**result(), "test": 300, "probe": trained, "floor_probe": 0.4, **changes}


@pytest.mark.parametrize(
    ("results", "verdict", "next_step"),
    [
        ([small(0.42)], "No difference in linear probe accuracy on cifar10 is shown between this training and the "
         "untrained backbone (+2.0 points, −5.8 to +9.8, 300 test images).", "and test on more images"),
        ([small(0.7)], "This training raises linear probe accuracy on cifar10 compared with the untrained backbone "
         "(+30.0 points, +2", "a sweep over seeds and score.policy none"),
        ([small(0.2)], "This training lowers linear probe accuracy on cifar10", "lower pretrain.learning_rate (0.12)"),
        ([small(0.7), {"dataset": "davis", "jf": 0.5, "floor_jf": 0.3, "sequences": {}}], "; whether this training "
         "changes J&F on davis was not tested against the untrained backbone (+20.0 points, one seed).", "a sweep"),
        ([small(p, seed=p) for p in (0.5, 0.6, 0.7)], "is shown between this training and the untrained backbone "
         "(+20.0 ± 24.8 points, 3 seeds)", ""),
        ([small(0.7, baseline="initial weights")], "compared with the initial weights (", ""),
        ([small(float("nan"))], "was not tested", ""),
        ([], "No verdict: no data set was evaluated.", "evaluate.datasets"),
    ],
)  # fmt: skip
def test_the_report_opens_with_a_verdict_that_its_numbers_bear_and_the_next_thing_to_try(
    results: list[dict[str, Any]], verdict: str, next_step: str
) -> None:
    found, tried = report.conclusion(made_up(VIDEO, results=results))
    assert verdict in found and next_step in tried
    text = Seen(report.page(made_up(VIDEO, results=results))).text
    assert text.index(found) < text.index("What the features are worth")


def test_several_seeds_are_one_row_with_an_interval_and_the_difference_is_taken_within_seeds() -> None:
    seeds = [{**result(knn=0.40 + d), "floor_knn": 0.30 + d} for d in (0.0, 0.02, 0.04)]
    probe, knn = report.accuracies(seeds)
    assert (knn.seeds, knn.trained.mean) == (3, pytest.approx(0.42))
    assert knn.trained.half == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-5)  # Student's t, two degrees of freedom
    assert knn.difference.mean == pytest.approx(0.1)
    assert knn.difference.half == pytest.approx(0, abs=1e-12)
    assert probe.trained.half == 0
    assert report.seeds_in_words(seeds) == "mean of 3 seeds ± 95 % interval"
    assert "42.0 % ± 5.0" in Seen(report.page(made_up(results=seeds))).text


def test_every_metric_that_was_measured_has_its_row_and_its_place_in_the_caption() -> None:
    masks = {"dataset": "davis", "jf": 0.41, "floor_jf": 0.3, "sequences": {"dog": {"j": 0.4}, "cows": {"j": 0.42}}}
    roads = {"dataset": "camvid", "train": 367, "test": 233, "classes": 11, "miou": 0.35, "floor_miou": 0.25}
    joints = {
        "dataset": "badja",
        "sequences": {"dog": {}},
        "pck_10": 0.2,
        "pck_20": 0.45,
        "floor_pck_10": 0.1,
        "floor_pck_20": 0.3,
    }
    tuned = result() | {"fine_tuned": 0.9, "floor_fine_tuned": 0.8}
    boxes = {"dataset": "coco", "train": 98, "test": 100, "classes": 76, "map": 0.1, "floor_map": 0.05}
    boxes |= {"mask_map": 0.08, "floor_mask_map": 0.04}
    made = made_up(results=[tuned, masks, joints, roads, boxes])
    rows = report.accuracies(made.results)
    named = ["linear probe", "kNN", "fine-tuning", "J&F", "PCK@0.2", "PCK@0.1", "mIoU", "mAP", "mask mAP"]
    assert [row.metric for row in rows] == named
    assert [row.chance is not None for row in rows] == [True] * 3 + [False] * 6, "guessing has no known mIoU"
    page = report.page(made)
    assert "mAP of detectors fine-tuned from it" in page and "100 to test, 76 classes" in page
    assert "J&amp;F of masks propagated through clips" in page and "mIoU of linear segmentation" in page
    assert "PCK of joints propagated through clips" in page and "after fine-tuning it" in page
    assert "davis: 2 sequences" in page and "camvid: 367 images to train" in page
    assert "+11.0" in page and "+10.0" in page
    assert "J&amp;F" not in report.page(made_up(results=[result()]))


def test_the_page_counts_clips_windows_and_shares_of_patches() -> None:
    text = Seen(report.page(made_up())).text
    for tile in ("2 clips", "192 frames", "4 windows of 48 frames", "200 patches"):
        assert tile in text
    for share in ("75 % tracked through every frame", "50 % static", "20 % with a twin"):
        assert share in text


def test_the_page_lists_every_stage_with_its_time_and_its_computed_and_resumed_units() -> None:
    made = made_up(
        times={
            "extract": {"seconds": 83.2, "computed": 4, "resumed": 1},
            "score": {"seconds": 7300.0, "computed": 4.0, "resumed": 0},
        }
    )
    text = Seen(report.page(made)).text
    assert "extract 1 min 23 s 4 windows 1" in text
    assert "score 2 h 01 min 4 windows 0" in text
    assert "pretrain – nothing all from an earlier run" in text


def test_the_config_can_be_downloaded_from_the_page() -> None:
    made = made_up(VIDEO)
    seen = Seen(report.page(made))
    (link,) = [attributes for _, attributes in seen.tags if "download" in attributes]
    assert base64.b64decode((link["href"] or "").partition("base64,")[2]).decode() == made.config_yaml
    assert link["download"] == "demo.yaml"
    assert "infoaug run demo.yaml" in seen.text
    assert "numpy 2.0.0" in seen.text


def test_secrets_in_urls_are_masked_wherever_they_stand() -> None:
    config = {
        "tracking": {"uri": "https://me:hunter2@mlflow.example"},
        "store": "s3://key:hunter3@bucket/x?secret_key=hunter4",
        "clips": {"path": "https://host/x?sig=hunter5"},
    }
    failed = {"clip_id": "a", "status": "failed", "reason": "no answer from s3://k:hunter6@b", "windows": []}
    page = report.page(made_up(config, ledger=ledger(failed)))
    assert "Video from https://host/x?sig=***" in Seen(page).text
    (encoded,) = re.findall(r"data:application/yaml;base64,([\w+/=]+)", page)
    for text in (page, base64.b64decode(encoded).decode()):
        assert "hunter" not in text
        assert "***" in text


def test_an_experiment_without_results_still_has_a_page() -> None:
    empty = made_up(results=[], counts={}, ledger=ledger(), times={}, history=[], pictures={}, examples={})
    assert "no data set was evaluated" in Seen(report.page(empty)).text
    assert "no data set was evaluated" in printed(empty)


def test_versions_include_python_and_the_packages_that_change_results() -> None:
    assert {"python", "numpy", "torch", "ray"} <= set(report.versions())


def test_the_page_says_which_images_were_trained_on_beside_the_video() -> None:
    beside = {"images": "my/<images>", "count": 50000, "share": 0.375, "shown": 110000}
    page = " ".join(report.page(replace(made_up(VIDEO), images=beside)).split())
    assert "Trained on video and on 50,000 images of <code>my/&lt;images&gt;</code>: they are 37.5 %" in page
    assert "and were shown 2.2 times each on average" in page
    alone = report.page(replace(made_up(VIDEO), images={**beside, "share": 1.0}))
    assert "Trained without video, on 50,000 images" in " ".join(alone.split())
    assert "of every batch" not in report.page(made_up(VIDEO))
