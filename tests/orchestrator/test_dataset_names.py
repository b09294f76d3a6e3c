"""Short names of data sets, each its own."""

import pytest

from infoaug.orchestrator.dataset_names import titles


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["data/pets"], ["pets"]),
        (["scenes", "cifar10", "c/pets.npz"], ["scenes", "cifar10", "pets.npz"]),
        (["siteA/images", "siteB/images"], ["siteA/images", "siteB/images"]),
        (["/x/siteA/images/", "/x/siteB/images/", "other"], ["siteA/images", "siteB/images", "other"]),
        (["/a/x/images", "/b/x/images"], ["a/x/images", "b/x/images"]),
        (["images", "more/images"], ["images", "more/images"]),
        (["scenes", "my/scenes"], ["scenes", "my/scenes"]),
        (["scenes", "./scenes"], ["scenes", "./scenes"]),
        (["a/p", "a/p"], ["p"]),
        (["..", "."], ["..", "."]),
    ],
)
def test_a_name_is_the_shortest_end_of_the_path_that_no_other_has(names: list[str], expected: list[str]) -> None:
    assert [*titles(names).values()] == expected


def test_names_differ_as_they_are_written() -> None:
    found = titles(["a/photos 1", "b/photos_1"], lambda text: text.replace(" ", "_").replace("/", "_"))
    assert [*found.values()] == ["a_photos_1", "b_photos_1"]
