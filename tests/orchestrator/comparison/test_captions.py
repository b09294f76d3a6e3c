"""Headlines and captions state the numbers of the tables."""

import pytest

from infoaug.orchestrator.comparison import captions, tables
from infoaug.orchestrator.comparison.arms import MI, Sweep
from infoaug.orchestrator.comparison.effects import EffectTable, effect_tables
from tests.orchestrator.comparison.sweeps import SIMCLR, masks, rich_sweep, sweep, three_frameworks, trial, trials


def test_the_headline_states_the_numbers_of_the_table() -> None:
    sentence = captions.headline(three_frameworks())
    assert "3 frameworks and 3 seeds" in sentence
    assert "linear probe accuracy on cifar10" in sentence
    mean = (3.0 + 1 / 3 + 2.0) / 3
    assert f"the MI twin raises linear probe accuracy on cifar10 compared with no twins (+{mean:.1f} ± " in sentence
    assert "; no difference in linear probe accuracy on cifar10 is shown between the MI twin and random twi" in sentence
    assert "points, 2 frameworks, p = " in sentence  # VICReg has no random twins


def test_the_headline_of_one_framework_and_seed_claims_no_interval_and_no_test() -> None:
    of = [trial("none", probe=0.5), trial(MI, probe=0.47)]
    sentence = captions.headline(effect_tables(sweep(of))[0])
    assert sentence == (
        "With SimCLR over 1 seed, whether the MI twin changes linear probe accuracy on cifar10 was not tested against "
        "no twins (−3.0 points, one seed)."
    )


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
    assert "no verdict on the MI twin: there is nothing to compare it with" in captions.headline(table)


GAIN, NEAR, WIDE, LOSS = [0.10, 0.11, 0.12], [0.0, 0.001, -0.001], [-0.1, 0.1, -0.015], [-0.10, -0.11, -0.12]


@pytest.mark.parametrize(
    ("to_none", "to_random", "verdict", "next_step"),
    [
        (GAIN, GAIN, "the MI twin raises", "other video and other data sets"),
        (GAIN, NEAR, "; no difference", "not shown that the choice of the twin matters"),
        (GAIN, None, "the MI twin raises", "the control, score.policy random"),
        (LOSS, None, "the MI twin lowers", "a lower pretrain.twin_weight"),
        (WIDE, None, "no difference in linear probe accuracy on cifar10 is shown", "with more than 100"),
        (NEAR, None, "no difference in linear probe accuracy on cifar10 is shown", "more than 0.2 points are unlikely"),
        (GAIN[:1], None, "was not tested", "at least three seeds"),
        (None, None, "there is nothing to compare it with", "add the arms to compare with"),
    ],
)
def test_a_verdict_is_followed_by_what_to_try_next(
    to_none: list[float] | None, to_random: list[float] | None, verdict: str, next_step: str
) -> None:
    twin = [0.5, 0.55, 0.52][: len(to_none or GAIN)]
    made = {MI: twin}
    for policy, gains in (("none", to_none), ("random", to_random)):
        if gains:
            made[policy] = [accuracy - gain for accuracy, gain in zip(twin, gains, strict=True)]
    of = sweep(trials(made), planned=len(twin) * len(made) + 2, failed=[("a", "why"), ("b", "why")])
    effects = effect_tables(of)
    (found,) = captions.headlines(effects, of)
    assert verdict in found and found.endswith("planned trials completed, 2 failed).")
    assert next_step in captions.next_step(effects)


def test_where_nothing_was_learnt_that_is_what_to_change() -> None:
    of = sweep(trials({"none": [0.29, 0.30, 0.28], MI: [0.30, 0.29, 0.30]}))
    assert "no arm is above the backbone" in captions.next_step(effect_tables(of))
    assert captions.next_step([]) == "Next: see below why no trial was evaluated."


def of_one_seed(twin: float, **changes: object) -> tuple[EffectTable, Sweep]:
    """The first table of a sweep of two trials, and the sweep: no twins find 50 of 100 test images."""
    shared = {"test": 100, "classes": 10, **changes}
    of = sweep([trial(p, results={"cifar10": {"probe": share, **shared}}) for p, share in (("none", 0.5), (MI, twin))])
    return effect_tables(of)[0], of


def test_one_seed_has_the_interval_over_the_test_images() -> None:
    table, of = of_one_seed(0.5)
    assert captions.share(table.rows[0].accuracy[MI]) == "50.0 (40.4–59.6)"  # Wilson's of 50 of 100
    assert tables.difference(table.rows[0].to_none) == "+0.0 (−13.6 to +13.6)"  # √2 times as wide
    caption = captions.caption(table, of)
    assert "training; one seed. In brackets: 95 % interval of one seed over the 100 test images (Wilson’s;" in caption
    assert "of Δ Newcombe’s for independent samples" in caption and "all frameworks" not in caption
    assert "nothing about other seeds" in captions.how_to_read([table])
    assert "nothing about other seeds" not in captions.how_to_read([three_frameworks()])


def test_one_seed_can_show_that_there_may_be_no_difference_but_not_that_there_is_one() -> None:
    near, _ = of_one_seed(0.52)
    assert captions.headline(near) == (
        "With SimCLR over 1 seed, no difference in linear probe accuracy on cifar10 is shown between the MI twin and "
        "no twins (+2.0 points, −11.6 to +15.5, one seed, 100 test images)."
    )
    apart, _ = of_one_seed(0.8)
    assert "was not tested against no twins (+30.0 points, +16.9 to +41.7, one seed, 100" in captions.headline(apart)
    for table in (near, apart):
        assert "at least three seeds" in captions.next_step([table])
    assert tables.lines(apart)[0][-1].text == "–", "no p-value"


def test_one_seed_among_arms_of_several_is_explained() -> None:
    of = sweep(
        [
            trial(policy, seed, results={"x": {"probe": 0.5 + 0.01 * seed, "test": 100}})
            for policy, seed in (("none", 0), ("none", 1), (MI, 1))
        ]
    )
    caption = captions.caption(effect_tables(of)[0], of)
    assert "mean of 1 to 2 seeds ± 95 % interval" in caption and "In brackets: 95 % interval of one seed" in caption


def test_the_caption_says_whether_differences_of_one_seed_are_paired() -> None:
    for prefix, part in (("", "Student’s t; Δ paired within sequences)"), ("other-", "of Δ as for independent sam")):
        of = sweep(
            [trial("none", results={"davis": masks(0.4, 0.5)}), trial(results={"davis": masks(0.55, 0.5, prefix)})]
        )
        caption = captions.caption(effect_tables(of)[0], of)
        assert "of one seed over the 2 sequences (Student’s t" in caption and part in caption


def test_the_interval_of_precision_is_said_to_be_the_jackknifes() -> None:
    results = {"coco": {"map": 0.2, "test": 300, "map_influence": [0.01, -0.01]}}
    other = {"coco": {"map": 0.1, "test": 300, "map_influence": [0.02, -0.02]}}
    of = sweep([trial("none", results=other), trial(results=results)])
    caption = captions.caption(effect_tables(of)[0], of)
    assert "one seed over the 300 test images (jackknife, Student’s t over groups of images left out in turn" in caption
    assert "Δ paired within images" in caption


def test_results_without_what_an_interval_needs_are_said_to_have_none() -> None:
    of = sweep([trial(policy, results={"davis": {"jf": 0.5}}) for policy in ("none", MI)])
    table = effect_tables(of)[0]
    assert "No interval: the results of one seed lack what it needs" in captions.caption(table, of)
    assert "was not tested against no twins (+0.0 points, one seed)" in captions.headline(table)


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
