"""Twins by the policies `same-clip` and `other-clip`, which are drawn from all windows of the scored clips.

They are drawn when training reads the twins and not stored with a window: which windows there are depends on the set of
clips, and windows of one clip are shared by all sets that it is in.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infoaug.orchestrator.errors import StageError

Bools = Sequence[NDArray[np.bool_]]


def drawn(policy: str, clips: ArrayLike, paired: Bools, eligible: Bools, seed: int) -> list[NDArray[np.int64]]:
    """A twin for every patch that has one, drawn uniformly from the patches that could be one.

    Args:
        policy: `same-clip`, any other patch of any window of the clip; or `other-clip`, a patch of any other clip.
        clips: of W windows, the clip that each belongs to: its name, or a number in the order of the names.
        paired: of W windows bool[N], which patches get a twin.
        eligible: of W windows bool[N], which patches could be a twin; all that get one could.
        seed: of the draw.

    Returns:
        For each window int64[N], rows among the patches of all windows one after another, −1 for none.

    Raises:
        StageError: `other-clip`, and no other clip has a patch that could be a twin.
    """
    counts = [len(window) for window in paired]
    clip = np.repeat(np.unique(np.array(clips), return_inverse=True)[1], counts)
    patches, could = (np.flatnonzero(np.concatenate(which)) for which in (paired, eligible))
    could = could[np.argsort(clip[could], kind="stable")]  # those of a clip follow each other
    first, end = (np.searchsorted(clip[could], clip[patches], side) for side in ("left", "right"))
    own = end - first  # patches of the own clip, of which a patch is one itself
    uniform = np.random.default_rng(seed).random(len(patches))
    if policy == "same-clip":
        place = np.empty(len(clip), np.int64)
        place[could] = np.arange(len(could))
        chosen = first + (uniform * (own - 1)).astype(np.int64)
        chosen += chosen >= place[patches]
    else:
        if (own == len(could)).any():
            raise StageError(
                "score.policy other-clip needs patches that could be twins in at least two clips: add clips, or choose "
                "another policy"
            )
        chosen = (uniform * (len(could) - own)).astype(np.int64)
        chosen += np.where(chosen >= first, own, 0)
    twin = np.full(len(clip), -1, np.int64)
    twin[patches] = could[chosen]
    return np.split(twin, np.cumsum(counts)[:-1])
