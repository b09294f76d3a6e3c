"""Scoring one window: who gets which twin, and why the others get none. No Ray."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chisquare

from infoaug.estimators.information import gpu
from infoaug.estimators.information.entropy import entropy
from infoaug.estimators.information.motion import KINDS, samples
from infoaug.estimators.information.mutual_information import pairwise_mutual_information
from infoaug.estimators.information.twins import control_twins
from infoaug.estimators.video.patches import LEAST_TEXTURE
from infoaug.orchestrator.config import ScoreConfig, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import cluster
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages import extract, score
from infoaug.orchestrator.stages.extract import trajectories_table
from infoaug.orchestrator.stages.score import _score, score_trajectories, score_window
from infoaug.orchestrator.stages.twin_table import COUNTED, TWINS, ScoredWindow, column

FRAMES, SURROGATES = 48, 320
A, B, STATIC, LOST = 1, 4, 2, 6  # a coupled pair, one that stands still, one that is soon lost
HUES = 0, 3  # a pair whose colours change together


def settings(*overrides: str) -> ScoreConfig:
    """Fast enough for a test: KSG, and a null just large enough for one pair of 15 to be significant."""
    fast = ["score.estimator=ksg", f"score.surrogates={SURROGATES}"]
    return load(None, [*fast, *(f"score.{o}" for o in overrides)]).score


@dataclass(frozen=True)
class Window:
    """Trajectories of 8 patches, as extract leaves them."""

    position: np.ndarray
    camera: np.ndarray
    visible: np.ndarray
    colour: np.ndarray

    def score(self, *overrides: str, seed: int = 0) -> ScoredWindow:
        return score_window(self.position, self.camera, self.visible, settings(*overrides), seed, self.colour)

    def table(self, clip_id: str, window: int) -> pa.Table:
        count = len(self.position)
        crops = {"crops": np.zeros((count, 1, 8, 8, 3), np.uint8), "crop_frames": np.zeros((count, 1), np.int32)}
        texture = np.full(count, 2 * LEAST_TEXTURE, np.float32)
        return trajectories_table(clip_id, window, {**vars(self), **crops, "texture": texture})


def window(seed: int = 0, count: int = 8) -> Window:
    """Random walks from a grid of 40 pixels: `A` and `B` coupled by a rotation, `STATIC` and `LOST` as named."""
    rng = np.random.default_rng(seed)
    steps = 1.5 * rng.normal(size=(count, FRAMES - 1, 2))
    quarter_turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    if count > B:
        steps[B] = 0.95 * steps[A] @ quarter_turn + np.sqrt(1 - 0.95**2) * steps[B]
    if count > STATIC:
        steps[STATIC] *= 0.01
    start = np.stack([40.0 * (np.arange(count) % 4) + 20, 40.0 * (np.arange(count) // 4) + 20], axis=1)
    position = start[:, None] + np.concatenate([np.zeros((count, 1, 2)), steps.cumsum(1)], axis=1)
    visible = np.ones((count, FRAMES), bool)
    if count > LOST:
        visible[LOST, 10:] = False
        position[LOST, 10:] = position[LOST, 9]
    camera = np.repeat(start[:, None], FRAMES, axis=1)
    # Colours change as the paths do, but of a pair of their own.
    shade = 0.01 * rng.normal(size=(count, FRAMES, 3)).cumsum(1)
    if count > HUES[1]:
        shade[HUES[1]] = 0.95 * shade[HUES[0]] + 0.3 * shade[HUES[1]]
    colour = 0.5 + shade
    return Window(*(a.astype(np.float32) for a in (position, camera)), visible, colour.astype(np.float32))


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


# ---- from the store


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


def test_a_row_of_the_twins_table_says_what_was_found(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    extracted, place = StageFolder(store, "extract", {}), StageFolder(store, "score", {})
    whole = window().table("clip.mp4", 0)
    store.write_table(extracted.path("trajectories", "clip", "00000.parquet"), whole)
    store.write_table(extracted.path("trajectories", "clip", "00001.parquet"), whole.slice(0, 0))
    rows = [{"folder": "clip", "window": w, "present": present} for w, present in ((0, False), (1, False), (0, True))]
    done = list(_score(place, extracted, settings(), FRAMES, rows))
    assert done[1]["reason"], "a window that cannot be scored does not stop the others"
    assert done[0] == done[2], "a window that was scored before is summed up alike"
    table = store.read_table(place.path("twins", "clip", "00000.parquet"))
    assert (
        done[0]["summary"]["patches"] == len(table) and done[0]["summary"]["twin"] == table["twin"].drop_null().length()
    )
    assert table.schema.equals(TWINS)
    found = table.to_pylist()
    assert (found[A]["twin"], found[A]["candidates"][0], found[A]["reason"]) == (B, B, "")
    assert found[A]["p_value"] == pytest.approx(1 / (1 + SURROGATES))
    for name in ("mutual_information", "p_value", "strength", "distance"):
        assert found[A][name] == pytest.approx(found[A][f"candidate_{name}"][0])
    scored = window().score()
    assert found[A]["strength"] == pytest.approx(scored.strength[A, B], rel=1e-5)
    assert found[A]["distance"] == pytest.approx(np.hypot(40, 40), rel=1e-5)
    assert len(found[A]["candidates"]) == 5 and found[A]["candidate_strength"] == sorted(
        found[A]["candidate_strength"], reverse=True
    )
    assert (found[STATIC]["twin"], found[STATIC]["p_value"], found[STATIC]["candidates"]) == (None, None, [])
    assert found[LOST]["visible_frames"] == 10
    assert found[LOST]["entropy"] is None


def test_controls_are_stored_beside_the_twins(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    extracted, place = StageFolder(store, "extract", {}), StageFolder(store, "score", {})
    w = window()
    store.write_table(extracted.path("trajectories", "clip", "00000.parquet"), w.table("clip.mp4", 0))
    mask = np.zeros((80, 160, 3), np.uint8)
    mask[:40, :120] = 0, 0, 9  # patches 0, 1 and 2; 2 is static
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    row = {"folder": "clip", "window": 0, "present": False}
    for known in ({}, {"mask": str(tmp_path / "mask.png"), "width": 160, "height": 80}):
        list(_score(place, extracted, settings(), FRAMES, [row | known]))
        table = store.read_table(place.path("twins", "clip", "00000.parquet"))
        found = {name: table[name].to_pylist() for name in ("twin", "correlation", "shuffled", "oracle", "object")}
        paired = np.array([twin is not None for twin in found["twin"]])
        assert paired.sum() >= 2 and table["reason"].to_pylist()[A] == ""
        assert ((np.array(found["shuffled"]) >= 0) == paired[:, None]).all()
        assert [twin is not None for twin in found["correlation"]] == paired.tolist()
        alike = w.score().correlation[A]
        others = [p for p in range(8) if p not in (A, STATIC, LOST)]
        assert found["correlation"][A] == max(others, key=lambda p: alike[p])
        assert found["object"] == ([9 << 16] * 3 + [0] * 5 if known else [None] * 8)
        assert set(found["oracle"][A]) == ({0} if known else {-1}), "the only other moving patch on its object"
    scored = score.Scored(place, None, pa.table({}), 0, 0, "oracle", 3)  # type: ignore[arg-type]
    assert score.twins_of(scored, "clip", 0)[0].tolist() == [row[3] for row in found["oracle"]]
    twin = [-1 if partner is None else partner for partner in found["twin"]]
    for policy, expected in (
        ("none", [-1] * 8),
        ("later", [patch if paired[patch] else -1 for patch in range(8)]),
        ("later+mutual-information", twin),
        ("mutual-information", twin),
        ("correlation", [-1 if partner is None else partner for partner in found["correlation"]]),
    ):
        got, among = score.twins_of(replace(scored, policy=policy), "clip", 0)
        assert (got.tolist(), among.tolist()) == (expected, paired.tolist()), policy


@pytest.mark.parametrize("change", ["mutual=0", "mutual=2", "surrogates=0"])
def test_partners_read_from_the_store_are_eligible_and_begin_with_the_twin(change: str, tmp_path: Path) -> None:
    store, asked = Store(str(tmp_path)), settings(change, "alpha=0.5", "candidates=8")
    key = asked.model_dump()
    extracted, place = StageFolder(store, "extract", {}), StageFolder(store, "score", key)
    w = window()
    store.write_table(extracted.path("trajectories", "clip", "00000.parquet"), w.table("clip.mp4", 0))
    list(_score(place, extracted, asked, FRAMES, [{"folder": "clip", "window": 0, "present": False}]))
    found = store.read_table(place.path("twins", "clip", "00000.parquet")).to_pylist()
    scored = score.Scored(place, None, pa.table({}), 0, 0, twins=7)  # type: ignore[arg-type]
    partners, strength = score.partners_of(scored, "clip", 0)
    assert partners.shape == strength.shape == (8, 7)
    several = 0
    for patch, row in enumerate(found):
        given = [p for p in partners[patch].tolist() if p >= 0]
        assert given[:1] == ([] if row["twin"] is None else [row["twin"]])
        at = [row["candidates"].index(p) for p in given]
        assert at == sorted(at) and all((row["candidate_p_value"][i] or 0) <= 0.5 for i in at)
        assert strength[patch, : len(at)].tolist() == [max(0, row["candidate_strength"][i]) for i in at]
        if asked.mutual:
            assert len(given) <= asked.mutual and all(patch in found[p]["candidates"] for p in given)
        several += len(given) > 1
    assert several


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


def test_a_policy_without_twins_in_these_clips_is_refused_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"set clips\.masks"):
        score.check(load(None, ["score.policy=oracle"]))
    with pytest.raises(UsageError, match=r"clips.masks 'nowhere' is no folder"):
        score.check(load(None, ["clips.path=clips", "clips.masks=nowhere"]))
    with pytest.raises(UsageError, match="needs at least two clips"):
        score.check(load(None, ["score.policy=other-clip", "scenes.count=1"]))
    with pytest.raises(UsageError, match="masks are those of clips: set path too"):
        load(None, [f"clips.masks={tmp_path}"])
    score.check(load(None, ["score.policy=other-clip"]))
    for policy in ("later", "later+mutual-information"):
        with pytest.raises(UsageError, match=r"policy later.* another time: set extract\.crops to 2 or more"):
            score.check(load(None, [f"score.policy={policy}", "extract.crops=1"]))
        score.check(load(None, [f"score.policy={policy}"]))


def test_masks_belong_to_the_identity_of_twins_and_to_nothing_else(tmp_path: Path) -> None:
    extracted = extract.Extracted(StageFolder(Store(str(tmp_path)), "extract", {}), pa.table({}), 0, 0)
    given = ["clips.path=/v"], ["clips.path=/v", "clips.masks=/m"]
    assert len({score.stage(load(None, overrides), extracted).hash for overrides in given}) == 2
    assert len({extract.clips_digest(load(None, overrides)) for overrides in given}) == 1


def test_the_mask_of_a_window_is_that_of_its_first_frame(tmp_path: Path) -> None:
    (tmp_path / "bear").mkdir()
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"bear/{number}.png"), np.zeros((2, 2, 3), np.uint8))
    clip = {"clip_id": "bear.mp4", "folder": "b", "frames": 5, "width": 64, "height": 48, "status": "ok"}
    rows = [clip | {"windows": [0, 2], "first_frames": [0, 3]}, clip | {"clip_id": "x", "folder": "x", "windows": []}]
    found = score._first_frames(pa.Table.from_pylist(rows, schema=extract.LEDGER), str(tmp_path))
    assert {key: Path(row["mask"]).stem for key, row in found.items()} == {("b", 0): "0", ("b", 2): "3"}


def test_a_store_that_cannot_be_read_is_no_window_s_fault(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = [{"folder": "clip", "window": 0, "present": False}]
    with pytest.raises(StageError, match=r"^cannot read '.*/trajectories/clip/00000\.parquet' of the store "):
        list(_score(StageFolder(store, "score", {}), StageFolder(store, "extract", {}), settings(), FRAMES, rows))


@pytest.mark.parametrize("damaged", ["trajectories", "twins"])
@pytest.mark.parametrize("content", [b"", b"junk" * 20, None], ids=["empty", "junk", "cut off"])
def test_a_damaged_file_costs_its_window_and_is_computed_anew_next_time(
    tmp_path: Path, damaged: str, content: bytes | None
) -> None:
    store = Store(str(tmp_path))
    extracted, place = StageFolder(store, "extract", {}), StageFolder(store, "score", {})
    for number in range(2):
        store.write_table(extracted.path("trajectories", "clip", f"{number:05d}.parquet"), window().table("c.mp4", 0))
    rows = [{"folder": "clip", "window": number, "present": False} for number in range(2)]
    work = partial(_score, place, extracted, settings(), FRAMES)
    whole = list(work(rows))
    assert [row["reason"] for row in whole] == ["", ""]
    path = {"trajectories": extracted, "twins": place}[damaged].path(damaged, "clip", "00000.parquet")
    store.write_bytes(path, store.read_bytes(path)[:-9] if content is None else content)
    again = list(work([row | {"present": damaged == "twins"} for row in rows]))
    assert again[0]["reason"].startswith(f"'{path}' of the store was damaged and is deleted")
    assert again[1]["reason"] == ""
    assert not store.exists(path), "the next run finds it missing, and computes it"
    if damaged == "twins":
        assert [row["summary"] for row in work(rows)] == [row["summary"] for row in whole]


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


def test_the_cuda_backend_is_refused_where_the_cluster_has_too_few_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "connect", lambda config: None)
    monkeypatch.setattr(cluster, "gpus", lambda: 0)
    monkeypatch.setattr(cluster, "map_windows", lambda *given: pytest.fail("Ray would wait for a GPU"))
    config = load(None, ["score.backend=cuda", "score.gpus_per_task=0.5"])
    stages = (StageFolder(Store(str(tmp_path)), name, {}) for name in ("score", "extract"))
    clips = pa.table({"clip_id": ["a"], "folder": ["a-1"], "windows": [[0]]})
    with pytest.raises(UsageError, match=r"score\.backend.*0\.5 GPUs.*has 0"):
        score._score_clips(config, *stages, clips, score.LEDGER.empty_table())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["score.k=11"], True),
        (["score.estimator=npeet"], True),
        (["score.k=10"], False),
        (["score.k=11", "score.backend=reference"], False),  # as asked for
    ],
)
def test_an_estimate_without_a_compiled_kernel_is_said_to_be_slow(
    overrides: list[str],
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "connect", lambda config: None)
    monkeypatch.setattr(cluster, "gpus", lambda: 0)
    summary = dict.fromkeys(map(column, COUNTED), 0)
    monkeypatch.setattr(cluster, "map_windows", lambda *given: ({("a-1", 0): {"summary": summary}}, {}))
    stages = [StageFolder(Store(str(tmp_path)), name, {}) for name in ("score", "extract")]
    clips = pa.table({"clip_id": ["a"], "folder": ["a-1"], "windows": [[0]]})
    score._score_clips(load(None, overrides), *stages, clips, score.LEDGER.empty_table())
    assert ("has no compiled kernel" in capsys.readouterr().err) == said


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


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["score.surrogates=18"], True),
        (["score.surrogates=19"], False),
        (["score.surrogates=500", "score.alpha=0.001"], True),
        (["score.alpha=0"], True),
        (["score.surrogates=0"], False),
        (["score.surrogates=5", "score.policy=none"], False),
        ([], False),
    ],
)
def test_a_test_that_no_pair_can_pass_is_refused_before_the_start(overrides: list[str], refused: bool) -> None:
    config = load(None, overrides)
    if refused:
        with pytest.raises(UsageError, match=r"no patch would have a twin: set score\.surrogates"):
            score.check(config)
    else:
        score.check(config)
