"""Figures say what they were given, and say so in words where there is nothing to draw."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from orchestrator import figures

T = 24
HEIGHT, WIDTH = 120, 160


def window(
    columns: int = 8, rows: int = 6, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64], list[str]]:
    """Made-up tracks on a made-up frame: random walks of several sizes, some still, some lost half-way."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 8, 3), np.uint8)
    frame = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    count = columns * rows
    grid = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), -1).reshape(-1, 1, 2)
    start = grid * (WIDTH / columns, HEIGHT / rows)
    size = np.exp(rng.uniform(-2, 0.7, count))
    size[rng.random(count) < 0.3] = 0.02
    steps = rng.normal(size=(count, T, 2)) * size[:, None, None]
    position = start + np.cumsum(steps, 1) - steps[:, :1]
    visible = np.ones((count, T), bool)
    lost = rng.random(count) < 0.1
    visible[lost, 5:] = False
    visible[1, 8:12] = False
    spread = np.sqrt((position - position.mean(1, keepdims=True)).var(1).sum(-1))
    has = rng.random(count) < 0.5
    reason = [
        "lost" if g else "static" if s < 0.3 else "" if h else "not significant"
        for g, s, h in zip(lost, spread, has, strict=True)
    ]
    return frame, position.astype(np.float32), visible, spread, reason


def decoded(figure: Figure) -> NDArray[np.uint8]:
    """The picture in a figure's PNG bytes, as u8[H, W, 3]."""
    image = cv2.imdecode(np.frombuffer(figures.png(figure), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.uint8)


def words(figure: Figure) -> str:
    """All that is written in a figure beside its axes."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    return "\n".join([*(axes.get_title("left") for axes in figure.axes), *(text.get_text() for text in texts)])


def result(dataset: str = "cifar10", knn: float = 0.41, probe: float = 0.45) -> dict[str, object]:
    """Made-up accuracies."""
    return {"dataset": dataset, "train": 500, "test": 100, "classes": 10} | {
        "knn": knn,
        "probe": probe,
        "floor_knn": 0.3,
        "floor_probe": 0.35,
    }


def epoch(number: int, loss: float = 2.0) -> dict[str, float]:
    """A made-up epoch."""
    return {"epoch": number, "loss": loss, "view_loss": 0.7 * loss, "twin_loss": 0.6 * loss, "images_per_second": 900.0}


def mutual_information(
    count: int = 9, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """A symmetric matrix with patches 2 and 5 left out, p-values, and twins."""
    rng = np.random.default_rng(seed)
    mi = rng.exponential(0.3, (count, count))
    mi = (mi + mi.T) / 2
    mi[[2, 5]] = mi[:, [2, 5]] = np.nan
    np.fill_diagonal(mi, np.nan)
    twin = np.where(np.isfinite(mi).any(1), np.nan_to_num(mi, nan=-1).argmax(1), -1)
    return mi, np.where(np.isfinite(mi), 0.01, np.nan), twin


def draw(kind: str) -> Figure:
    """A figure of each kind, of made-up input."""
    mi, p, twin = mutual_information()
    images = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8)
    best, chance = mi[np.arange(9), twin], p[np.arange(9), twin]
    draws: dict[str, Callable[[], Figure]] = {
        "tracks": lambda: figures.draw_tracks(*window()),
        "mutual information": lambda: figures.draw_mutual_information(mi, p, twin),
        "twins": lambda: figures.draw_twins(images, twin, best, chance),
        "reasons": lambda: figures.draw_reasons({"twin": 5, "static": 3, "lost": 1}),
        "training": lambda: figures.draw_training([epoch(1, 3.0), epoch(2, 2.0)]),
        "accuracy": lambda: figures.draw_accuracy([result()]),
    }
    return draws[kind]()


KINDS = ("tracks", "mutual information", "twins", "reasons", "training", "accuracy")
NONE, UNKNOWN = np.full(4, -1), np.full(4, np.nan)
FRAME = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
ALL_LOST = (FRAME, np.full((48, T, 2), np.nan), np.zeros((48, T), bool), np.full(48, np.nan), ["lost"] * 48)
NO_PATCH: tuple[Any, ...] = (FRAME, np.zeros((0, T, 2)), np.zeros((0, T), bool), np.zeros(0), [])
NOTHING = [
    (figures.draw_tracks, NO_PATCH, "0 patches over 24 frames: none of them moves"),
    (figures.draw_tracks, ALL_LOST, "48 lost"),
    (figures.draw_mutual_information, (np.full((4, 4), np.nan), None, NONE), "No mutual information was estimated"),
    (figures.draw_mutual_information, (np.zeros((0, 0)), None, NONE[:0]), "no two of the 0 patches"),
    (
        figures.draw_twins,
        (np.zeros((4, 8, 8, 3), np.uint8), NONE, UNKNOWN, UNKNOWN),
        "None of the 4 patches has a twin",
    ),
    (figures.draw_reasons, ({"patches": 0, "tracked": 0, "twin": 0},), "There are no patches"),
    (figures.draw_training, ([],), "No epoch was trained"),
    (figures.draw_accuracy, ([],), "No data set was evaluated"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_becomes_a_png_with_something_in_it(kind: str) -> None:
    image = decoded(draw(kind))
    assert image.std() > 10
    assert 500 < image.shape[1] < 800  # to be read on a phone, and alike


@pytest.mark.parametrize(("function", "given", "sentence"), NOTHING, ids=[sentence for *_, sentence in NOTHING])
def test_where_there_is_nothing_to_draw_the_figure_says_so(
    function: Callable[..., Figure], given: tuple[Any, ...], sentence: str
) -> None:
    figure = function(*given)
    assert sentence in words(figure)
    assert decoded(figure).std() > 1


def test_the_legend_of_tracks_counts_every_patch_once() -> None:
    *_, reason = drawn = window()
    text = words(figures.draw_tracks(*drawn))
    counts = {"with a twin": "", "moving, no twin": "not significant", "static": "static", "lost": "lost"}
    assert all(f"{reason.count(why)} {name}" in text for name, why in counts.items())
    assert "48 patches over 24 frames" in text


def test_invisible_stretches_of_a_track_are_not_drawn() -> None:
    frame, position, visible, spread, reason = window()
    figure = figures.draw_tracks(frame, position, visible, spread, reason)
    lines = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    points = np.concatenate([np.asarray(path.vertices) for c in lines for path in c.get_paths()])
    drawn = {tuple(point) for point in np.round(points[np.isfinite(points).all(1)], 3)}
    rounded = np.round(position.astype(float), 3)
    assert {tuple(point) for point in rounded[visible]} == drawn


def test_tracks_that_move_are_coloured_by_their_spread_and_the_others_grey() -> None:
    frame, position, visible, spread, reason = window()
    figure = figures.draw_tracks(frame, position, visible, spread, reason)
    (coloured,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection) and c.get_array() is not None]
    expected = [s for s, why in zip(spread, reason, strict=True) if why not in ("static", "lost")]
    np.testing.assert_allclose(np.asarray(coloured.get_array()), expected)


@pytest.mark.parametrize("spread", [0.0, 1e-9, 3.0, 1e6])
def test_tracks_of_one_and_the_same_spread_have_a_scale_all_the_same(spread: float) -> None:
    frame, position, visible, *_ = window(2, 1)
    figure = figures.draw_tracks(frame, position, visible, np.full(2, spread), ["", ""])
    assert decoded(figure).std() > 5


def test_mutual_information_shows_the_patches_that_were_compared_and_marks_every_twin() -> None:
    mi, p, twin = mutual_information()
    figure = figures.draw_mutual_information(mi, p, twin)
    kept = [0, 1, 3, 4, 6, 7, 8]
    image: Any = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(image, np.nan), mi[np.ix_(kept, kept)])
    columns, rows = map(np.asarray, figure.axes[0].lines[-1].get_data())
    assert [(kept[int(r)], kept[int(c)]) for r, c in zip(rows, columns, strict=True)] == [(i, twin[i]) for i in kept]
    assert "7 of 9 patches, 21 pairs, 7 twins\n21 pairs at p ≤ 0.05, by chance alone 1" in words(figure)


def test_patch_numbers_are_thinned_where_they_would_run_into_each_other() -> None:
    mi = np.random.default_rng(0).random((150, 150))
    labels = figures.draw_mutual_information(mi, None, np.full(150, -1)).axes[0].get_yticklabels()
    numbers = [int(label.get_text()) for label in labels]
    assert 8 <= len(numbers) <= 16
    assert numbers == [round(label.get_position()[1]) for label in labels]


def test_the_best_twins_come_first_and_a_mutual_pair_comes_once() -> None:
    twin = np.array([1, 0, 0, -1, 2])
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    figure = figures.draw_twins(
        images, twin, np.array([1.5, 1.5, 0.7, np.nan, 2.25]), np.array([0.0005] * 4 + [np.nan])
    )
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["4 → 2\n2.25 nats", "0 ↔ 1\n1.50 nats, p 0.0005", "2 → 0\n0.70 nats, p 0.0005"]
    first = np.asarray(figure.axes[0].images[0].get_array())
    assert (first[:, :8] == 4).all()
    assert (first[:, -8:] == 2).all()


def test_no_more_twins_are_shown_than_asked_for() -> None:
    twin = (np.arange(30) + 1) % 30
    figure = figures.draw_twins(np.zeros((30, 8, 8, 3), np.uint8), twin, np.linspace(0, 1, 30), np.zeros(30), count=5)
    assert sum(bool(axes.get_title()) for axes in figure.axes) == 5


def test_shares_of_the_reasons_are_of_the_patches_and_totals_are_no_reason() -> None:
    figure = figures.draw_reasons(
        {"patches": 1000, "tracked": 900, "twin": 250, "static": 700, "lost": 50, "no candidate": 0}
    )
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ["250  (25.0%)", "50  (5.0%)", "700  (70.0%)"]
    assert "1,000 patches" in words(figure)


def test_training_curves_go_through_every_epoch_and_survive_a_loss_that_is_no_number() -> None:
    figure = figures.draw_training([epoch(1), epoch(2, np.nan), epoch(3, 1.0)])
    total = figure.axes[0].lines[0]
    assert list(np.asarray(total.get_xdata())) == [1, 2, 3]
    np.testing.assert_array_equal(total.get_ydata(), [2.0, np.nan, 1.0])
    assert decoded(figure).std() > 5


def test_accuracy_of_one_seed_is_said_to_have_no_interval() -> None:
    figure = figures.draw_accuracy([result(), result("scenes")])
    assert "One seed: no interval" in words(figure)
    assert [t.get_text() for t in figure.axes[0].texts[:2]] == ["41.0%", "45.0%"]


def test_accuracy_of_several_seeds_is_drawn_with_its_mean_and_interval() -> None:
    figure = figures.draw_accuracy([result(knn=0.40), result(knn=0.42), result(knn=0.44)])
    assert figure.axes[0].texts[0].get_text() == "42.0% ± 5.0%"  # t(0.975, 2) · 0.02 / √3
    assert "3 seeds" in words(figure)


@pytest.mark.parametrize("name", ["$\\broken_{$ mathtext", "[red]markup", "a/long/path/to/images"])
def test_any_name_of_a_data_set_can_be_written_in_a_figure(name: str) -> None:
    figure = figures.draw_accuracy([result(name)])
    assert decoded(figure).std() > 5
    assert figure.axes[0].get_yticklabels()[0].get_text() == f"{name.rpartition('/')[2]}\nkNN"


def test_figures_leave_no_trace_in_matplotlibs_global_state() -> None:
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    for kind in KINDS:
        figures.png(draw(kind))
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs
