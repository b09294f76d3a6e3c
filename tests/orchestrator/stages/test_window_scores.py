"""Scoring one window: who gets which twin, and why the others get none."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from infoaug.estimators.information import gpu
from infoaug.estimators.information.entropy import entropy
from infoaug.estimators.information.motion import KINDS, samples
from infoaug.estimators.information.mutual_information import pairwise_mutual_information
from infoaug.estimators.information.twins import control_twins
from infoaug.estimators.video.patches import LEAST_TEXTURE
from infoaug.orchestrator.config import load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.stages import score
from infoaug.orchestrator.stages.twin_table import ScoredWindow
from infoaug.orchestrator.stages.window_scores import score_trajectories, score_window
from tests.orchestrator.stages.windows import FRAMES, HUES, LOST, STATIC, SURROGATES, A, B, Window, settings, window

# ---- twins and reasons


@pytest.mark.parametrize("estimator", ["ksg", "npeet", "3kl"])
def test_a_coupled_pair_find_each_other(estimator: str) -> None:
    scored = window().score(f"estimator={estimator}")
    assert scored.twins.index[A] == B
    assert scored.twins.index[B] == A
    assert scored.twins.candidates[A, 0] == B
    assert scored.p_values is not None
    assert scored.p_values[A, B] == pytest.approx(1 / (1 + SURROGATES))


def test_a_patch_that_stands_still_is_static_and_one_out_of_sight_is_lost() -> None:
    twins = window().score().twins
    assert twins.reason[STATIC] == "static"
    assert twins.reason[LOST] == "lost"
    assert twins.index[[STATIC, LOST]].tolist() == [-1, -1]
    assert not np.isin(twins.candidates, [STATIC, LOST]).any()


def test_a_pair_that_keeps_its_place_on_the_screen_under_a_moving_camera_is_static() -> None:
    w = window()
    shift = np.stack([3.0 * np.arange(FRAMES), 2.0 * np.sin(np.arange(FRAMES) / 5)], axis=1).astype(np.float32)
    moving = replace(w, camera=w.camera + shift, position=w.position + shift)
    logo = 0.02 * np.random.default_rng(1).normal(size=(2, FRAMES, 2)).astype(np.float32)
    moving.position[HUES, :] = moving.position[HUES, :1] + logo
    twins = moving.score().twins
    assert [twins.reason[patch] for patch in HUES] == ["static", "static"]
    assert twins.index[A] == B and twins.index[B] == A


def test_patches_that_only_parallax_moves_are_static_and_a_coupled_pair_among_them_is_found() -> None:
    rng, t, count = np.random.default_rng(0), np.arange(FRAMES), 160
    start = rng.uniform((0, 0), (640, 384), (count, 2))
    shake = np.cumsum(rng.normal(0, 1, (FRAMES, 2)), axis=0)
    pan = np.stack([40 * np.sin(t / 22), 15 * np.sin(t / 16)], axis=1) + shake - shake[:1]
    depth = rng.uniform(-0.3, 0.3, (count, 1, 1))
    start[:2], depth[:2] = [[200, 200], [300, 200]], 0
    pair = np.repeat(np.cumsum(rng.normal(0, 1.5, (1, FRAMES, 2)), axis=1), 2, axis=0)
    position = start[:, None] + pan * (1 + depth) + rng.normal(0, 0.05, (count, FRAMES, 2))
    position[:2] += pair - pair[:, :1]
    position, camera = position.astype(np.float32), (start[:, None] + pan).astype(np.float32)
    visible = np.ones((count, FRAMES), bool)
    twins = score_window(position, camera, visible, settings("surrogates=2000")).twins
    assert twins.index[:2].tolist() == [1, 0]
    assert twins.reason[2:].count("static") > 0.5 * (count - 2), "of which a seventh stay within a pixel"
    left_in = score_window(position, camera, visible, settings("surrogates=200", "camera=ignore")).twins
    assert left_in.reason.count("static") == 0, "nothing is static where the camera's motion is what is scored"


def test_a_point_without_texture_has_no_twin_and_is_none() -> None:
    w = window()
    texture = np.full(8, LEAST_TEXTURE, np.float32)
    enough = score_window(w.position, w.camera, w.visible, settings(), texture=texture).twins
    assert enough.index[A] == B
    texture[[A, STATIC]] *= 0.9
    twins = score_window(w.position, w.camera, w.visible, settings(), texture=texture).twins
    assert (twins.reason[A], twins.reason[STATIC]) == ("textureless", "static")
    assert twins.index[B] == -1 and A not in twins.candidates


def test_independent_patches_have_no_significant_partner() -> None:
    others = [p for p in range(8) if p not in (A, B, STATIC, LOST)]
    found = [window(seed).score().twins for seed in range(8)]
    reasons = [twins.reason[p] for twins in found for p in others]
    assert reasons.count("not significant") >= 28, "of 32: the false discovery rate is held, not nought"


def test_a_pair_whose_coupling_is_taken_away_is_not_found() -> None:
    apart = window()
    apart.position[B] = apart.position[B][::-1]
    assert apart.score().twins.reason[B] == "not significant"


def test_the_matrix_holds_the_pairs_that_were_estimated_and_no_other() -> None:
    scored = window().score()
    assert scored.p_values is not None
    moving = [p for p in range(8) if p not in (STATIC, LOST)]
    expected = np.zeros((8, 8), bool)
    expected[np.ix_(moving, moving)] = True
    np.fill_diagonal(expected, False)
    assert np.array_equal(np.isfinite(scored.mutual_information), expected)
    assert np.array_equal(np.isfinite(scored.p_values), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_mutual_information_is_that_of_the_samples_asked_for(kind: str) -> None:
    w = window()
    path, visible = w.position[[A, B]].astype(np.float64), w.visible[[A, B]]
    if kind == "displacements":
        steps = np.diff(path, axis=1)
        white = np.empty_like(steps)
        for row, step in zip(white, steps, strict=True):
            centred = step - step.mean(0)
            variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
            row[:] = centred @ (axes / np.sqrt(variance))
        seen = visible[:, 1:]
    else:
        moving = [p for p in range(8) if p not in (STATIC, LOST)]  # the gain of a frame is that of all of them
        white, seen = samples(w.position[moving], w.visible[moving], 0.1, kind=kind, block=1)
        white, seen = (part[[moving.index(A), moving.index(B)]] for part in (white, seen))
    expected = pairwise_mutual_information(white, k=5, visible=seen)[0, 1]
    assert w.score(f"samples={kind}").mutual_information[A, B] == pytest.approx(expected, abs=1e-9)
    assert w.score(f"samples={kind}").twins.index[A] == B
    assert w.score().entropy[A] == pytest.approx(entropy(np.diff(path[0], axis=0), k=5), abs=1e-6)


def test_smooth_independent_paths_get_no_twin_whatever_is_compared() -> None:
    for kind in KINDS:
        w, found = window(3), 0
        rng = np.random.default_rng(0)
        for _ in range(6):
            speed = rng.normal(size=(8, FRAMES + 40, 2))
            for t in range(1, FRAMES + 40):
                speed[:, t] += 0.9 * speed[:, t - 1]
            w.position[:] = 50 + speed[:, 40:].cumsum(1)
            w.visible[:] = True
            found += int((w.score(f"samples={kind}").twins.index >= 0).sum())
        assert found <= 6, f"{kind}: of 48 patches"


def test_conditioning_on_the_camera_takes_out_what_it_makes_patches_share() -> None:
    w, rng = window(), np.random.default_rng(1)
    pan = rng.normal(scale=3.0, size=(1, FRAMES, 2)).cumsum(1)
    w.position[:], w.camera[:] = w.position + pan, w.camera + pan
    ignored, conditioned = (w.score(f"camera={c}").mutual_information for c in ("ignore", "condition"))
    others = [p for p in range(8) if p not in (A, B, STATIC, LOST)]
    among = np.ix_(others, others)
    assert np.nanmean(ignored[among]) > 0.3
    assert abs(np.nanmean(conditioned[among])) < 0.15


def test_positions_in_whole_pixels_are_recorded_as_tied_and_score_all_the_same() -> None:
    w = window()
    w.position[:] = np.round(w.position)
    scored = w.score()
    assert scored.tied[A] > 0.9 and scored.twins.index[A] == B
    assert w.score().mutual_information[A, B] == scored.mutual_information[A, B]
    assert window().score().tied[A] == 0


def test_gaps_cost_their_frames_only() -> None:
    w = window()
    w.visible[A, 30], w.visible[B, 10] = False, False
    w.position[A, 30] = w.position[B, 10] = np.nan
    scored = w.score()
    assert scored.twins.index[A] == B
    assert np.isfinite(scored.spread).all()


def test_windows_shorter_than_min_frames_are_refused() -> None:
    with pytest.raises(UsageError, match=r"extract\.window 10 frames are shorter than score\.min_frames 12"):
        score.check(load(None, ["extract.window=10"]))
    score.check(load(None, ["extract.window=10", "score.min_frames=10"]))
    score.check(load(None, ["extract.window=10", "score.policy=none"]))


def test_a_window_shorter_than_min_frames_is_lost_whole() -> None:
    w = window()
    short = Window(*(a[:, :11] for a in vars(w).values()))
    assert short.score().twins.reason == ["lost"] * 8
    assert short.score("min_frames=11").twins.reason[A] != "lost"


def test_min_frames_counts_frames() -> None:
    w = window()
    w.visible[0, 24:] = False  # in 24 frames, so 23 displacements
    assert w.score("min_frames=24").twins.reason[0] != "lost"
    assert w.score("min_frames=25").twins.reason[0] == "lost"


@pytest.mark.parametrize("count", [1, 2])
def test_a_window_of_few_patches_or_of_none_that_moves_is_scored(count: int) -> None:
    w = window(count=count)
    assert w.score().mutual_information.shape == (count, count)
    still = replace(w, position=w.camera)
    scored = still.score()
    assert scored.twins.reason == ["static"] * count
    assert np.isnan(scored.mutual_information).all()
    assert scored.p_values is not None
    assert np.isnan(scored.p_values).all()


# ---- the camera


def pan(seed: int = 3) -> np.ndarray:
    """A camera's path f64[1, FRAMES, 2] from zero."""
    steps = np.random.default_rng(seed).normal(size=(1, FRAMES, 2)) * 4
    return np.cumsum(steps, axis=1) - steps[:, :1]


def test_camera_motion_changes_nothing_where_it_is_removed() -> None:
    still, moved = window(), window()
    moved = replace(
        moved,
        position=(moved.position + pan()).astype(np.float32),
        camera=(moved.camera + pan()).astype(np.float32),
    )
    expected, found = still.score(), moved.score()
    assert found.twins.reason == expected.twins.reason
    assert np.array_equal(found.twins.index, expected.twins.index)
    assert found.spread == pytest.approx(expected.spread, abs=1e-3)
    assert found.residual == pytest.approx(still.position.astype(np.float64), abs=1e-3)


def test_camera_motion_makes_everything_a_twin_where_it_is_left_in() -> None:
    w = window()
    w = replace(w, position=(w.position + pan()).astype(np.float32), camera=(w.camera + pan()).astype(np.float32))
    left_in = w.score("camera=ignore")
    assert left_in.twins.reason[STATIC] == ""
    assert (left_in.twins.index >= 0).sum() > (w.score().twins.index >= 0).sum() + 2
    assert np.array_equal(left_in.residual, w.position)


# ---- what is scored


def test_colour_alone_pairs_what_changes_colour_together() -> None:
    scored = window().score("trajectory=colour", "surrogates=800")  # 21 pairs: nobody's colour is lost but LOST's
    assert scored.twins.index[[*HUES]].tolist() == [HUES[1], HUES[0]]
    assert scored.twins.index[A] != B
    assert scored.residual.shape == (8, FRAMES, 3)


def test_position_and_colour_together_pair_what_shares_either() -> None:
    scored = window().score("trajectory=both")
    assert scored.residual.shape == (8, FRAMES, 5)
    assert scored.twins.index[[*HUES]].tolist() == [HUES[1], HUES[0]]
    assert scored.twins.index[[A, B]].tolist() == [B, A]


def test_a_change_of_light_is_no_shared_colour_unless_it_is_left_in() -> None:
    w = window()
    light = 1 + 0.3 * np.random.default_rng(5).normal(size=(1, FRAMES, 1)).cumsum(1) / FRAMES**0.5
    lit = replace(w, colour=(w.colour * light).astype(np.float32))
    expected, removed, left_in = (
        scored.mutual_information
        for scored in (
            w.score("trajectory=colour"),
            lit.score("trajectory=colour"),
            lit.score("trajectory=colour", "remove_lighting=false"),
        )
    )
    assert np.nanmax(np.abs(removed - expected)) < 0.25
    assert np.nanmedian(left_in) > np.nanmedian(expected) + 0.25


def test_depth_is_scored_in_units_of_its_own_noise() -> None:
    w = window()
    depth = 0.02 * np.random.default_rng(7).normal(size=(8, FRAMES, 1)).cumsum(1)
    depth[B] = depth[A]
    deep = replace(w, position=np.concatenate([w.position, depth], axis=2).astype(np.float32))
    scored = deep.score("depth_noise=0.01", "noise=0.1")
    assert scored.residual[..., 2] == pytest.approx(10 * depth[..., 0], abs=1e-5)
    assert scored.mutual_information[A, B] > w.score().mutual_information[A, B] + 0.1
    assert scored.twins.index[A] == B


def test_colour_that_is_not_there_is_asked_for() -> None:
    w = window()
    with pytest.raises(ValueError, match="trajectory is 'both'"):
        score_window(w.position, w.camera, w.visible, settings("trajectory=both"))


# ---- settings


def test_policy_none_gives_no_twins_but_the_same_numbers() -> None:
    w = window()
    none, mutual = w.score("policy=none"), w.score()
    assert (none.twins.index == -1).all()
    assert none.twins.reason[A] == "policy none"
    assert none.twins.reason[STATIC] == "static"
    assert np.array_equal(none.mutual_information, mutual.mutual_information, equal_nan=True)


@pytest.mark.parametrize("policy", ["random", "nearest"])
def test_a_control_gives_the_same_patches_a_twin(policy: str) -> None:
    control, mutual = window().score(f"policy={policy}").twins, window().score().twins
    assert np.array_equal(control.index >= 0, mutual.index >= 0)
    assert control.reason == mutual.reason


def test_without_surrogates_there_are_no_p_values_and_every_moving_patch_has_a_twin() -> None:
    scored = window().score("surrogates=0")
    assert scored.p_values is None
    moving = [p for p in range(8) if p not in (STATIC, LOST)]
    assert (scored.twins.index[moving] >= 0).all()
    assert scored.twins.index[A] == B


def test_the_spread_gate_can_be_moved() -> None:
    scored = window().score()
    assert scored.spread[STATIC] < 0.2 < 1.0 < scored.spread[A]
    assert window().score("min_spread=0").twins.reason[STATIC] != "static"
    assert window().score("min_spread=1000").twins.reason[A] == "static"


def test_the_entropy_gate_counts_patches_of_little_entropy_as_static() -> None:
    w = window()
    content = w.score("min_spread=0").entropy
    assert np.isnan(content[LOST])
    assert content[STATIC] < content[A] - 5
    gated = w.score("min_spread=0", f"min_entropy={content[STATIC] + 1}")
    assert gated.twins.reason[STATIC] == "static"
    assert gated.twins.reason[A] == ""
    assert gated.twins.reason[LOST] == "lost"
    assert w.score(f"min_entropy={np.nanmax(content) + 1}").twins.reason[A] == "static"


def test_min_distance_counts_from_the_first_frame() -> None:
    w = window()
    apart = float(np.linalg.norm(w.position[A, 0] - w.position[B, 0]))
    assert w.score(f"min_distance={apart - 0.1}").twins.index[A] == B
    assert w.score(f"min_distance={apart + 0.1}").twins.index[A] != B


def test_patches_that_share_what_the_tracker_matches_are_no_twins_by_default() -> None:
    w = window()
    for apart, twin in ((20.9, False), (21.0, True)):
        shift = w.position[A, 0] + (apart, 0) - w.position[B, 0]
        position, camera = w.position.copy(), w.camera.copy()
        position[B] += shift.astype(np.float32)
        camera[B] += shift.astype(np.float32)
        found = replace(w, position=position, camera=camera).score().twins
        assert (found.index[A] == B) == twin and found.admissible[A, B] == twin


def test_as_many_candidates_are_listed_as_asked_for() -> None:
    assert window().score("candidates=2").twins.candidates.shape == (8, 2)
    assert window(count=2).score("candidates=5").twins.candidates.shape == (2, 5)


# ---- as it is stored


def same(one: ScoredWindow, other: ScoredWindow) -> bool:
    assert one.p_values is not None
    assert other.p_values is not None
    return (
        np.array_equal(one.mutual_information, other.mutual_information, equal_nan=True)
        and np.array_equal(one.p_values, other.p_values, equal_nan=True)
        and np.array_equal(one.twins.index, other.twins.index)
    )


def test_a_stored_window_scores_as_the_arrays_do() -> None:
    w = window()
    stored = score_trajectories(w.table("clip.mp4", 0), settings())
    direct = w.score()
    assert np.array_equal(stored.mutual_information, direct.mutual_information, equal_nan=True)
    assert stored.twins.index[A] == B


def test_the_order_in_which_windows_are_scored_does_not_matter() -> None:
    tables = [window(seed).table(f"clip-{seed // 2}", seed % 2) for seed in range(4)]
    forwards = [score_trajectories(table, settings("policy=random")) for table in tables]
    np.random.seed(1)  # whatever ran before on this worker
    backwards = [score_trajectories(table, settings("policy=random")) for table in reversed(tables)]
    assert all(same(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


@pytest.mark.parametrize(
    ("clip_id", "number", "override"),
    [("other.mp4", 0, "seed=0"), ("clip.mp4", 1, "seed=0"), ("clip.mp4", 0, "seed=1")],
)
def test_each_clip_window_and_seed_draws_surrogates_of_its_own(clip_id: str, number: int, override: str) -> None:
    w = window()
    one = score_trajectories(w.table("clip.mp4", 0), settings("seed=0"))
    other = score_trajectories(w.table(clip_id, number), settings(override))
    assert np.array_equal(one.mutual_information, other.mutual_information, equal_nan=True)
    assert not np.array_equal(one.p_values, other.p_values, equal_nan=True)  # type: ignore[arg-type]


def test_the_rank_of_partners_can_be_the_estimate_that_is_tested() -> None:
    w = window()
    by_samples, by_gaussian = w.score("rank=samples"), w.score()
    assert np.array_equal(by_samples.strength, by_samples.mutual_information, equal_nan=True)
    assert np.array_equal(by_samples.mutual_information, by_gaussian.mutual_information, equal_nan=True)
    assert by_gaussian.strength[A, B] == by_gaussian.strength[B, A] > 1
    assert by_gaussian.twins.candidates[A, 0] == B
    assert np.isnan(by_gaussian.strength[LOST]).all() and by_gaussian.twins.index[A] == B


def test_the_rank_is_given_the_camera_where_mutual_information_is() -> None:
    w = window()
    steps = 20 * np.random.default_rng(5).normal(size=(FRAMES, 2)).cumsum(0).astype(np.float32)
    shaken = replace(w, position=w.position + steps, camera=w.camera + steps)
    ignored, given = (shaken.score(f"camera={how}").strength for how in ("ignore", "condition"))
    assert ignored[A, 0] > 3 > given[A, B] > 1 > given[A, 0]


# ---- backends


def test_the_cuda_backend_estimates_both_the_pairs_and_their_null(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    path = rng.normal(size=(5, 48, 2)).cumsum(1).astype(np.float32)
    arrays = path, np.zeros_like(path), np.ones((5, 48), bool)
    cpu = score_window(*arrays, settings("surrogates=200"))
    calls = []

    def on_cpu(*given: object, **options: object) -> np.ndarray:
        calls.append(options)
        return real(*given, **options, device="cpu")

    real = gpu.all_pairs
    monkeypatch.setattr(gpu, "all_pairs", on_cpu)
    cuda = score_window(*arrays, settings("surrogates=200", "backend=cuda"))
    assert len(calls) >= 2, "the pairs, and the shifted pairs of the null"
    assert cuda.mutual_information == pytest.approx(cpu.mutual_information, abs=1e-9, nan_ok=True)
    assert cuda.p_values == pytest.approx(cpu.p_values, abs=1e-9, nan_ok=True)


def test_random_twins_do_not_know_mutual_information_although_ties_and_surrogates_share_their_seed() -> None:
    ranks = []
    for seed in range(40):
        rng = np.random.default_rng(10**6 + seed)
        path = np.round(3 * rng.normal(size=(6, FRAMES, 2)).cumsum(1)).astype(np.float32)  # whole pixels: all are tied
        scored = score_window(
            path,
            np.zeros_like(path),
            np.ones((6, FRAMES), bool),
            settings("surrogates=0", "samples=displacements", "min_distance=0"),
            seed,
        )
        twins = control_twins(scored.twins, "random", seed=seed)
        mi = np.where(scored.twins.admissible, scored.mutual_information, -np.inf)
        ranks += [int((mi[i] > mi[i, twins[i]]).sum()) for i in range(6)]
    assert chisquare(np.bincount(ranks, minlength=5)).pvalue > 0.01
