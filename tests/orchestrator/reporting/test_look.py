"""What features see is drawn from whatever arrays there are."""

import numpy as np

from infoaug.orchestrator.reporting import look
from tests.orchestrator.conftest import decoded, words

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


LABELLED = {
    "tiles": np.stack([[picture(8, 8) for _ in range(3)] for _ in range(2)]),
    "tile_labels": np.array([[0, 0, 1], [2, 2, 2]]),
    "similarity": np.array([[0.9, 0.8], [0.7, 0.6]], np.float32),
    "map": RNG.normal(size=(9, 2)).astype(np.float32),
    "map_labels": np.arange(9) % 3,
    "classes": np.array(["a", "b", "c"]),
}
PATCHES = {
    "patches": LABELLED["tiles"],
    "patch_names": np.array([["x 0", "y 1", "z 2"]] * 2),
    "patch_similarity": np.array([[0.9, -np.inf], [0.7, 0.6]], np.float32),
}
FRAMES = {
    "frame_names": np.array(["p", "q"]), "frame_0": picture(20, 30), "components_0": picture(3, 4),
    "frame_1": picture(30, 20), "components_1": picture(4, 3),
}  # fmt: skip
MASKS = {"mask_names": np.array(["dog, frame 0", "dog, frame 9", "dog, frame 19"])} | {
    f"{what}_{n}": of
    for n in range(3)
    for what, of in (("masked", picture(20, 30)), ("mask", np.eye(20, 30, dtype=np.uint8)))
}


def test_every_picture_is_drawn_that_there_are_arrays_for() -> None:
    drawn = look.draw({**MASKS, **FRAMES, **PATCHES, **LABELLED}, "trained")
    assert tuple(drawn) == look.NAMES
    assert look.draw({}, "trained") == {} and [*look.draw(FRAMES, "trained")] == ["components"]
    for name, figure in drawn.items():
        image = decoded(figure)
        assert image.std() > 5 and 300 < image.shape[1] < 600, (name, image.shape)  # a phone shows it in its own size
        assert "trained" in words(figure)


def test_the_grid_counts_neighbours_of_the_same_class() -> None:
    figure = look.draw(LABELLED, "baseline")["neighbours"]
    assert "baseline: 75 % of these neighbours right" in words(figure)
    signs = [axes.get_title()[0] for axes in figure.axes]
    assert signs == ["q", "✓", "✗", "q", "✓", "✓"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["a", "a", "b", "c", "c", "c"]


def test_patches_without_as_many_neighbours_leave_the_rest_empty() -> None:
    figure = look.draw(PATCHES, "trained")["patches"]
    assert [bool(axes.images) for axes in figure.axes] == [True, True, False, True, True, True]


def test_masks_are_drawn_over_their_frames() -> None:
    shown = [axes for axes in look.draw(MASKS, "trained")["masks"].axes if axes.images]
    assert [axes.get_title("left") for axes in shown] == MASKS["mask_names"].tolist()
    assert all((axes.images[0].get_array() != MASKS[f"masked_{n}"]).any() for n, axes in enumerate(shown))
