"""Headlines and captions state the numbers of the tables."""

import pytest

from infoaug.orchestrator.comparison import captions
from infoaug.orchestrator.comparison.arms import MI
from infoaug.orchestrator.comparison.effects import effect_tables
from tests.orchestrator.comparison.sweeps import SIMCLR, rich_sweep, sweep, three_frameworks, trial, trials


def test_the_headline_states_the_numbers_of_the_table() -> None:
    sentence = captions.headline(three_frameworks())
    assert "3 frameworks and 3 seeds" in sentence
    assert "linear probe accuracy on cifar10" in sentence
    mean = (3.0 + 1 / 3 + 2.0) / 3
    assert f"the MI twin changes linear probe accuracy on cifar10 by +{mean:.1f} ± " in sentence
    assert "relative to no twins" in sentence
    assert "; no difference is shown between the MI twin and random twins (" in sentence
    assert "points, 2 frameworks, p = " in sentence  # VICReg has no random twins


def test_the_headline_of_one_framework_and_seed_claims_no_interval_and_no_test() -> None:
    of = [trial("none", probe=0.5), trial(MI, probe=0.47)]
    sentence = captions.headline(effect_tables(sweep(of))[0])
    assert "SimCLR over 1 seed," in sentence
    assert "no difference in linear probe accuracy on cifar10 is shown" in sentence
    assert "between the MI twin and no twins (−3.0 points, one seed, no test)." in sentence
    assert "±" not in sentence
    assert "p =" not in sentence
    assert "changes" not in sentence


def test_a_difference_that_is_not_significant_is_not_stated_as_an_effect() -> None:
    of = trials({"none": [0.50, 0.55, 0.52], "random": [0.53, 0.50, 0.55], MI: [0.53, 0.52, 0.54]})
    sentence = captions.headline(effect_tables(sweep(of))[0])
    assert sentence.startswith("With SimCLR over 3 seeds, no difference in linear probe accuracy on cifar10 is shown")
    assert "no twins (+0.7 ± " in sentence and "or random twins (+0.3 ± " in sentence
    assert "changes" not in sentence


def test_the_headline_names_the_arms_that_do_not_exceed_the_untrained_backbone() -> None:
    worse = {"none": [0.31, 0.32, 0.30], "random": [0.29, 0.28, 0.30], MI: [0.30, 0.30, 0.30]}  # untrained: 0.3
    of = [*trials(SIMCLR), *trials(worse, "moco")]
    sentence = captions.headline(effect_tables(sweep(of))[0])
    assert sentence.endswith("Not above the untrained backbone (30.0 ± 0.0 %): MoCo v2 (random, MI twin).")
    assert "untrained" not in captions.headline(three_frameworks())


def test_the_headline_says_that_nothing_can_be_compared() -> None:
    (table, _) = effect_tables(sweep([trial("random")]))
    assert "No trials with and without the MI twin" in captions.headline(table)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"budget": "steps"}, "same number of steps (20 epochs)"),
        ({"budget": "passes"}, "same number of images through the backbone (20 epochs)"),
        ({"synthetic": True}, "synthetic"),
        ({}, "mean of 3 seeds ± 95 % interval"),
        ({}, "Random-init baseline: 30.0 ± 0.0 %. Chance: 10 %"),
    ],
)
def test_the_caption_states_budget_seeds_baseline_and_chance(changes: dict[str, object], part: str) -> None:
    of = sweep(trials(SIMCLR), **changes)
    assert part in captions.caption(effect_tables(of)[0], of)


def test_the_caption_reports_missing_seeds_and_does_not_call_real_video_synthetic() -> None:
    of = sweep(trials({"none": [0.5, 0.6, 0.7], MI: [0.5]}))
    caption = captions.caption(effect_tables(of)[0], of)
    assert "mean of 1 to 3 seeds" in caption
    assert "not 3" in caption
    assert "synthetic" not in caption


def test_excluded_trials_are_named_with_their_reasons() -> None:
    of = [trial(seed=0), trial(seed=1, probe=float("nan"))]
    excluded = captions.excluded_trials(sweep(of, failed=[("a", "out of memory")], stopped=[("b", "loss")]))
    assert excluded == [
        ("a", "failed", "out of memory"),
        ("b", "stopped early", "loss"),
        (
            "SimCLR, twins mutual-information at weight 0.5, seed 1",
            "excluded",
            "linear probe and kNN on cifar10: not a number",
        ),
    ]


def test_completed_failed_and_stopped_trials_are_counted() -> None:
    of = rich_sweep(planned=99, stopped=[("b", "loss")])
    assert captions.completion(of) == f"{len(of.trials)} of 99 planned trials completed, 1 failed, 1 stopped early"
