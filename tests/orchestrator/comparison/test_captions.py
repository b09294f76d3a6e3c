"""The words of a comparison are written from its numbers."""

import pytest

from infoaug.orchestrator.comparison import captions
from infoaug.orchestrator.comparison.arms import MI
from infoaug.orchestrator.comparison.effects import blocks_of
from tests.orchestrator.comparison.sweeps import SIMCLR, rich_sweep, sweep, three_frameworks, trial, trials


def test_the_headline_is_written_from_the_numbers() -> None:
    sentence = captions.headline(three_frameworks())
    assert sentence.startswith("Over 3 frameworks and 3 seeds the MI twin changes linear probe accuracy on cifar10 by ")
    mean = (3.0 + 1 / 3 + 2.0) / 3
    assert f"by +{mean:.1f} ± " in sentence
    assert "against none and by " in sentence
    assert "points (n = 2, p = " in sentence


def test_the_headline_of_one_framework_and_seed_claims_no_interval_and_no_test() -> None:
    of = [trial("none", probe=0.5), trial(MI, probe=0.47)]
    sentence = captions.headline(blocks_of(sweep(of))[0])
    assert sentence == (
        "With SimCLR over 1 seed the MI twin changes linear probe accuracy on cifar10 by −3.0 points against none."
    )


def test_where_nothing_can_be_compared_the_headline_says_so() -> None:
    (block, _) = blocks_of(sweep([trial("random")]))
    assert "No trials with and without the MI twin" in captions.headline(block)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": "steps"}, "Every arm trained the same number of steps (20 epochs)"),
        ({"budget": "passes"}, "Every arm saw the same number of images through the backbone (20 epochs)"),
        ({"synthetic": True}, "The video trained on is synthetic"),
        ({}, "after the last epoch of training; mean of 3 seeds ± 95 % interval"),
        ({}, "Untrained backbone: 30.0 ± 0.0 %. Chance: 10 %"),
    ],
)
def test_the_caption_says_what_the_numbers_are(changes: dict[str, object], said: str) -> None:
    of = sweep(trials(SIMCLR), **changes)
    assert said in captions.caption(blocks_of(of)[0], of)


def test_the_caption_says_where_seeds_are_missing_and_real_video_is_not_called_synthetic() -> None:
    of = sweep(trials({"none": [0.5, 0.6, 0.7], MI: [0.5]}))
    caption = captions.caption(blocks_of(of)[0], of)
    assert "mean of 1 to 3 seeds ± 95 % interval, and n where it is not 3" in caption
    assert "synthetic" not in caption


def test_every_trial_that_the_tables_do_not_have_is_named_with_its_reason() -> None:
    of = [trial(seed=0), trial(seed=1, probe=float("nan"))]
    told = captions.lost(sweep(of, failed=[("a", "out of memory")], stopped=[("b", "loss")]))
    assert told == [
        ("a", "failed", "out of memory"),
        ("b", "stopped early", "loss"),
        (
            "SimCLR, twins mutual-information at weight 0.5, seed 1",
            "not counted",
            "linear probe and kNN on cifar10: not a number",
        ),
    ]


def test_what_did_not_come_to_its_end_is_counted() -> None:
    of = rich_sweep(planned=99, stopped=[("b", "loss")])
    assert captions.ended_in_words(of) == (
        f"{len(of.trials)} of 99 planned trials came to the end, 1 failed, 1 stopped early"
    )
