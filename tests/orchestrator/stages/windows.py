"""Windows of a few patches with known twins, as the extract stage leaves them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from infoaug.estimators.video.patches import LEAST_TEXTURE
from infoaug.orchestrator.config import ScoreConfig, load
from infoaug.orchestrator.stages.extract import trajectories_table
from infoaug.orchestrator.stages.twin_table import ScoredWindow
from infoaug.orchestrator.stages.window_scores import score_window

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
