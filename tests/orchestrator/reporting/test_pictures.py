"""Pictures of a window show what they were given, and say so in words where there is nothing to draw."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infoaug.orchestrator.reporting import figures, pictures
from tests.orchestrator.conftest import decoded, words

T = 24
HEIGHT, WIDTH = 120, 160


Window = tuple[Any, Any, Any, Any, Any, list[str]]


def window(columns: int = 8, rows: int = 6, seed: int = 0) -> Window:
    """Made-up tracks on a made-up frame that a camera pans over: random walks, some still, some lost or hidden."""
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
    visible[1, 8:12] = visible[1, 13:15] = False
    spread = np.sqrt((position - position.mean(1, keepdims=True)).var(1).sum(-1))
    has = rng.random(count) < 0.5
    reason = [
        "lost" if g else "static" if s < 0.3 else "" if h else "not significant"
        for g, s, h in zip(lost, spread, has, strict=True)
    ]
    camera = start + np.arange(T)[:, None] * (1.5, -0.5)
    return frame, position.astype(np.float32), visible, camera.astype(np.float32), spread, reason


def lines(figure: Figure, dashed: bool) -> list[LineCollection]:
    """The collections of tracks in a figure that are dashed, or those that are solid."""
    found = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    return [c for c in found if (c.get_linestyle()[0][1] is not None) == dashed]


def pixels(position: Any) -> set[tuple[float, float]]:
    """Points as a set, to a thousandth of a pixel."""
    return {(round(float(x), 3), round(float(y), 3)) for x, y in position}


def points(collections: list[LineCollection]) -> set[tuple[float, float]]:
    """All points that lines go through."""
    every = np.concatenate([np.asarray(path.vertices) for c in collections for path in c.get_paths()])
    return pixels(every[np.isfinite(every).all(1)])


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
    """A picture of each kind, of made-up input."""
    mi, p, twin = mutual_information()
    images = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8)
    best, chance = mi[np.arange(9), twin], p[np.arange(9), twin]
    draws: dict[str, Callable[[], Figure]] = {
        "tracks": lambda: pictures.draw_tracks(*window()),
        "mutual information": lambda: pictures.draw_mutual_information(mi, p, twin),
        "twins": lambda: pictures.draw_twins(images, twin, best, chance),
    }
    return draws[kind]()


KINDS = ("tracks", "mutual information", "twins")
NONE, UNKNOWN = np.full(4, -1), np.full(4, np.nan)
FRAME = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
NOWHERE = np.full((48, T, 2), np.nan)
ALL_LOST = (FRAME, NOWHERE, np.zeros((48, T), bool), np.zeros((48, T, 2)), np.full(48, np.nan), ["lost"] * 48)
NO_PATCH: tuple[Any, ...] = (FRAME, np.zeros((0, T, 2)), np.zeros((0, T), bool), np.zeros((0, T, 2)), np.zeros(0), [])
NOTHING = [
    (pictures.draw_tracks, NO_PATCH, "0 patches over 24 frames, none moving"),
    (pictures.draw_tracks, ALL_LOST, "48 lost\n0 textureless"),
    (pictures.draw_mutual_information, (np.full((4, 4), np.nan), None, NONE), "No mutual information was estimated"),
    (pictures.draw_mutual_information, (np.zeros((0, 0)), None, NONE[:0]), "no two of the 0 patches"),
    (
        pictures.draw_twins,
        (np.zeros((4, 8, 8, 3), np.uint8), NONE, UNKNOWN, UNKNOWN),
        "None of the 4 patches has a twin",
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_becomes_a_png_that_is_not_blank(kind: str) -> None:
    image = decoded(draw(kind))
    assert image.std() > 10
    assert 500 < image.shape[1] < 800  # to be read on a phone, and alike


@pytest.mark.parametrize(("function", "given", "sentence"), NOTHING, ids=[sentence for *_, sentence in NOTHING])
def test_a_picture_without_data_says_why_it_is_empty(
    function: Callable[..., Figure], given: tuple[Any, ...], sentence: str
) -> None:
    figure = function(*given)
    assert sentence in words(figure)
    assert decoded(figure).std() > 1


def test_the_legend_of_tracks_counts_every_patch_once() -> None:
    *_, reason = drawn = window()
    text = words(pictures.draw_tracks(*drawn))
    counts = {
        "with a twin": "",
        "moving, no twin": "not significant",
        "static": "static",
        "lost": "lost",
        "textureless": "textureless",
    }
    assert all(f"{reason.count(why)} {name}" in text for name, why in counts.items())
    assert "48 patches over 24 frames" in text


def test_a_line_joins_each_patch_to_its_twin_and_the_strongest_have_their_numbers() -> None:
    drawn = window(rows=1)
    twin, doubtful = np.array([1, 0, 5, -1, -1, -1, -1, -1]), np.arange(8) == 2
    strength = np.where(twin >= 0, 1.0, np.nan)
    plain, joined = pictures.draw_tracks(*drawn), pictures.draw_tracks(*drawn, twin, strength, doubtful)
    start = drawn[1][:, 0]
    added = points(lines(joined, dashed=False)) - points(lines(plain, dashed=False))
    assert added <= pixels(start[[0, 1, 2, 5]])
    assert pixels(start[[2, 5]]) <= points(lines(joined, dashed=True))
    assert [text.get_text() for text in joined.axes[0].texts if text.get_text().isdigit()] == ["0", "1", "2"]
    assert "to a doubtful twin (1)" in words(joined) and "twin (1)" not in words(plain)


def test_tracks_that_move_are_coloured_by_their_spread_and_the_others_grey() -> None:
    *_, spread, reason = drawn = window()
    coloured = [c for c in lines(pictures.draw_tracks(*drawn), dashed=False) if c.get_array() is not None]
    assert len(coloured) == 1
    expected = [s for s, why in zip(spread, reason, strict=True) if why not in ("static", "lost")]
    np.testing.assert_allclose(np.asarray(coloured[0].get_array()), expected)


def test_a_track_is_solid_where_it_is_visible_and_nowhere_else() -> None:
    _, position, visible, *_ = drawn = window()
    assert points(lines(pictures.draw_tracks(*drawn), dashed=False)) == pixels(position[visible])


def test_a_hidden_stretch_is_dashed_from_where_the_patch_was_seen_to_where_it_is_seen_again() -> None:
    _, position, *_ = drawn = window()
    dashed = points(lines(pictures.draw_tracks(*drawn), dashed=True))
    assert dashed >= pixels(position[1, 7:16])
    assert not dashed & pixels(np.delete(position[1], np.r_[7:16], axis=0))
    assert not dashed & pixels(position[[n for n in range(48) if n != 1]].reshape(-1, 2))


def test_two_hidden_stretches_are_not_joined_over_the_visible_one_between_them() -> None:
    frame, position, visible, camera, spread, reason = window()
    visible[1, 8:18] = [False, False, True, True, False, True, False, True, True, True]
    dashed = points(lines(pictures.draw_tracks(frame, position, visible, camera, spread, reason), dashed=True))
    middle = (position[1, 1:] + position[1, :-1]) / 2
    assert pixels(middle[[7, 8, 9, 11, 12, 13, 14]]) <= dashed
    assert not dashed & pixels(middle[[6, 10, 15]])


def test_a_patch_is_not_drawn_after_it_was_last_visible() -> None:
    frame, position, visible, camera, spread, reason = window()
    visible[4, 9:] = False
    position[4, 9:] = 1e4
    everything = pictures.draw_tracks(frame, position, visible, camera, spread, reason)
    drawn = points(lines(everything, dashed=False)) | points(lines(everything, dashed=True))
    assert pixels(position[4, :9]) <= drawn
    assert not drawn & pixels(position[4, 9:])


def test_temporarily_hidden_patches_are_counted_and_lost_ones_are_not() -> None:
    frame, position, visible, *rest = window()
    assert "1 temporarily hidden" in words(pictures.draw_tracks(frame, position, visible, *rest))
    visible[1, 8:] = False
    assert "hidden" not in words(pictures.draw_tracks(frame, position, visible, *rest))


@given(arrays(bool, (5, 12)))
def test_hidden_frames_are_those_between_two_visible_frames(visible: NDArray[np.bool_]) -> None:
    expected = [[not row[t] and row[:t].any() and row[t:].any() for t in range(12)] for row in visible]
    np.testing.assert_array_equal(pictures.hidden(visible), expected)
    np.testing.assert_array_equal(pictures.hidden(visible[:, ::-1]), np.fliplr(expected))


def camera_path(figure: Figure) -> Any:
    """The line of the camera's arrow, [T, 2]."""
    (line,) = figure.axes[0].lines
    return line.get_xydata()


def test_the_arrow_is_the_path_of_the_patch_nearest_to_the_centre_in_true_length() -> None:
    frame, position, visible, camera, spread, reason = window()
    figure = pictures.draw_tracks(frame, position, visible, camera, spread, reason)
    central = np.linalg.norm(camera[:, 0] - (WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5), axis=1).argmin()
    np.testing.assert_allclose(camera_path(figure), camera[central], atol=1e-4)
    assert "camera motion at the centre: 36 px" in words(figure)  # 23 steps of √(1.5² + 0.5²)
    assert "camera motion" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_still_camera_has_no_arrow() -> None:
    frame, position, visible, camera, spread, reason = window()
    figure = pictures.draw_tracks(frame, position, visible, camera[:, :1].repeat(T, 1), spread, reason)
    assert "camera still" in words(figure)
    assert "camera motion" not in words(figure)
    assert not figure.axes[0].lines


def test_a_camera_that_returns_is_described_with_the_length_of_its_path() -> None:
    frame, position, visible, camera, spread, reason = window()
    back = np.concatenate([camera[:, : T // 2], camera[:, : T // 2][:, ::-1]], axis=1)
    assert "camera motion at the centre: 0.0 px, on a path of 35 px" in words(
        pictures.draw_tracks(frame, position, visible, back, spread, reason)
    )


def test_an_arrow_that_leaves_the_picture_ends_at_its_edge_and_says_so() -> None:
    frame, position, visible, camera, spread, reason = window()
    far = camera[:, :1] + 10 * (camera - camera[:, :1])
    figure = pictures.draw_tracks(frame, position, visible, far, spread, reason)
    assert "364 px, out of the picture" in words(figure)
    path = camera_path(figure)
    assert 1 < len(path) < T
    assert ((path >= 0) & (path <= (WIDTH - 1, HEIGHT - 1))).all()


@pytest.mark.parametrize(("columns", "rows"), [(5, 3), (50, 40)])
def test_few_and_many_patches_make_pictures_of_one_size(columns: int, rows: int) -> None:
    image = decoded(pictures.draw_tracks(*window(columns, rows)))
    assert image.std() > 10
    assert 500 < image.shape[1] < 800


@pytest.mark.parametrize("spread", [0.0, 1e-9, 3.0, 1e6])
def test_tracks_of_equal_spread_still_have_a_scale(spread: float) -> None:
    *seen, _, _ = window(2, 1)
    figure = pictures.draw_tracks(*seen, np.full(2, spread), ["", ""])
    assert decoded(figure).std() > 5


def test_mutual_information_shows_the_patches_that_were_compared_and_marks_every_twin() -> None:
    mi, p, twin = mutual_information()
    real = np.zeros((9, 9), bool)
    real[3, 7] = real[7, 3] = True
    figure = pictures.draw_mutual_information(mi, p, twin, real)
    kept = [0, 1, 3, 4, 6, 7, 8]
    image: Any = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(image, np.nan), mi[np.ix_(kept, kept)])
    columns, rows = map(np.asarray, figure.axes[0].lines[-1].get_data())
    assert [(kept[int(r)], kept[int(c)]) for r, c in zip(rows, columns, strict=True)] == [(i, twin[i]) for i in kept]
    dots = figure.axes[0].lines[0]
    assert sorted(zip(*dots.get_data(), strict=True)) == [
        (kept.index(3), kept.index(7)),
        (kept.index(7), kept.index(3)),
    ]
    assert dots.get_label() == "significant pair (1)"
    assert len(pictures.draw_mutual_information(mi, p, twin).axes[0].lines) == 2, "no marks where nothing was tested"
    assert "7 of 9 patches, 21 pairs, 7 twins\n21 pairs at p ≤ 0.05, 1 expected by chance" in words(figure)


def test_patch_numbers_are_thinned_where_they_would_overlap() -> None:
    mi = np.random.default_rng(0).random((150, 150))
    labels = pictures.draw_mutual_information(mi, None, np.full(150, -1)).axes[0].get_yticklabels()
    numbers = [int(label.get_text()) for label in labels]
    assert 8 <= len(numbers) <= 16
    assert numbers == [round(label.get_position()[1]) for label in labels]


def test_the_best_twins_come_first_and_a_mutual_pair_is_shown_once() -> None:
    twin = np.array([1, 0, 0, -1, 2])
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    figure = pictures.draw_twins(
        images, twin, np.array([1.5, 1.5, 0.7, np.nan, 2.25]), np.array([0.0005] * 4 + [np.nan])
    )
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["4 → 2\n2.25 nats", "0 ↔ 1\n1.50 nats, p 0.0005", "2 → 0\n0.70 nats, p 0.0005"]
    first = np.asarray(figure.axes[0].images[0].get_array())
    assert (first[:, :8] == 4).all()
    assert (first[:, -8:] == 2).all()


def test_a_patch_that_is_its_own_twin_is_shown_at_another_time() -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    nothing = np.full(3, np.nan)
    figure = pictures.draw_twins(images, np.array([0, -1, 2]), nothing, nothing, images + 200)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["0, later", "2, later"]
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert (shown[:, :8] == 0).all() and (shown[:, -8:] == 200).all()


def test_no_more_twins_are_shown_than_asked_for() -> None:
    twin = (np.arange(30) + 1) % 30
    figure = pictures.draw_twins(np.zeros((30, 8, 8, 3), np.uint8), twin, np.linspace(0, 1, 30), np.zeros(30), count=5)
    assert sum(bool(axes.get_title()) for axes in figure.axes) == 5


def test_pictures_leave_no_trace_in_matplotlibs_global_state() -> None:
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    for kind in KINDS:
        figures.png(draw(kind))
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs


def test_a_hidden_stretch_is_interpolated_and_all_else_stays() -> None:
    position = np.random.default_rng(0).normal(size=(2, 8, 2)).astype(np.float32)
    visible = np.ones((2, 8), bool)
    visible[0, [2, 3, 6, 7]] = False
    found = pictures.bridged(position, visible)
    assert found[0, 2:4] == pytest.approx(
        position[0, 1] + (position[0, 4] - position[0, 1]) * np.array([[1 / 3], [2 / 3]]), abs=1e-6
    )
    kept = np.ones((2, 8), bool)
    kept[0, 2:4] = False
    assert np.array_equal(found[kept], position[kept].astype(float))
