"""What benchmarks/pairs.py measures pairs by: whose patches these are, policies, chance, and intervals over sequences.

*Labels* say what a pixel belongs to: an object's number, or `BACKGROUND`. A patch has two of them, that of its tracked
point (`point`) and that of its stored picture (`picture`, what more than half of the crop shows).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from infoaug.estimators.information import gaussian, motion, twins
from infoaug.estimators.options import MATCHING_WINDOW
from infoaug.orchestrator.config import ScoreConfig
from infoaug.orchestrator.stages import other_windows
from infoaug.orchestrator.stages.twin_table import RANDOM_DRAWS

Float, Int, Bool = NDArray[np.floating], NDArray[np.integer], NDArray[np.bool_]
Columns = dict[str, NDArray[Any]]

BACKGROUND, NOTHING = -1, -2  # labels; NOTHING: no label has more than half of a crop, or it is not known
BINS = np.array([0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 13])  # of distance, crops
SEQUENCES = 3  # fewest sequences of an interval
SENSES = ("point", "crop", "shown")


@dataclass(frozen=True)
class Window:
    """A scored window of T frames and N patches, as benchmarks/pairs.py keeps it.

    Attributes:
        position: f32[N, T, 2] pixels, of the tracked points.
        camera: f32[N, T, 2] pixels, what the camera's motion alone would do to them.
        visible: bool[N, T].
        mutual_information: f64[N, N] nats, NaN for pairs that were not estimated.
        p_values: f64[N, N], NaN for pairs that were not tested.
        excluded: N texts, why a patch can neither have nor be a twin (`lost`, `static`), empty if it can.
        point: int[N], label of the point in the first frame.
        picture: int[N], label of the stored picture, `NOTHING` if it has none.
        last: int[N], label of the point in the last frame; `NOTHING` where it is not visible or labels are unknown.
        seconds: f64[2], of one core, that tracking and scoring took.
    """

    position: Float
    camera: Float
    visible: Bool
    mutual_information: Float
    p_values: Float
    excluded: NDArray[np.str_]
    point: Int
    picture: Int
    last: Int
    seconds: Float

    @property
    def first(self) -> Float:
        """The points in the first frame, f32[N, 2] pixels."""
        return self.position[:, 0]

    @property
    def residual(self) -> Float:
        """The trajectories without the camera's motion, f64[N, T, 2] pixels."""
        return motion.residual(self.position, self.camera)

    @cached_property
    def gaussian(self) -> Float:
        """Gaussian mutual information of the displacements, f64[N, N] nats."""
        return gaussian.mutual_information(*motion.displacement(self.residual, self.visible))


# ---- labels


def labels_at(labels: Int, points: Float) -> Int:
    """The labels int[H, W] at the pixels nearest to points f[N, 2]; outside the frame, those at its edge."""
    x, y = np.clip(np.rint(points).astype(int), 0, np.array(labels.shape[::-1]) - 1).T
    return labels[y, x]


def labels_of_crops(labels: Int, boxes: Int) -> Int:
    """For boxes int[N, 4], (x0, y0, x1, y1) pixels, the label of more than half of the pixels, or `NOTHING`: int[N]."""
    owners = np.full(len(boxes), NOTHING)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        found, count = np.unique(labels[y0:y1, x0:x1], return_counts=True)
        if 2 * count.max() > (x1 - x0) * (y1 - y0):
            owners[number] = found[count.argmax()]
    return owners


def sides(windows: Sequence[Window]) -> dict[str, tuple[Int, Int]]:
    """For each of `SENSES`, `left` and `right` int[N] of all windows' patches: twin j suits i if left[i] = right[j].

    `point`: both points are on the same object, or both on the background. `crop`: both pictures show mostly the same
    object, or both the background. `shown`: both pictures show mostly what the patch's *point* is on.
    """
    point, picture = (np.concatenate([getattr(w, name) for w in windows]) for name in ("point", "picture"))
    unlike = NOTHING - 1  # equals no label
    clear = np.where(picture == NOTHING, unlike, picture)
    return {
        "point": (point, point),
        "crop": (clear, picture),
        "shown": (np.where(picture == point, point, unlike), picture),
    }


# ---- policies


class Policy(NamedTuple):
    """Twins of the same patches as those of mutual information.

    `choose(windows, number, chosen, draw)` gets all windows of a clip, the number of one, and what `find_twins` chose
    in it; it returns int[N], rows of the patches of *all* windows one after another, so that a twin may be of another
    window, or −1. A policy with chance in it is averaged over `draws`.
    """

    choose: Callable[[Sequence[Window], int, twins.Twins, int], Int]
    draws: int = 1


def begin(windows: Sequence[Window], number: int) -> int:
    """The row of a window's first patch among the patches of all windows."""
    return sum(len(window.point) for window in windows[:number])


def _in_window(name: str, windows: Sequence[Window], number: int, chosen: twins.Twins, draw: int) -> Int:
    """A policy of `estimators/information/twins.py`, whose twins are in the same window."""
    window = windows[number]
    options: dict[str, Any] = {"position": window.first.astype(float), "objects": window.point - BACKGROUND}
    if name == "correlation":
        options[name] = gaussian.correlation(*motion.displacement(window.residual, window.visible))
    index = twins.control_twins(chosen, name, seed=draw, **options)
    return np.where(index < 0, -1, index + begin(windows, number))


def _same_clip(windows: Sequence[Window], number: int, chosen: twins.Twins, draw: int) -> Int:
    """The policy `same-clip`: any patch of any window of the clip that is tracked and not static."""
    eligible = [window.excluded == "" for window in windows]
    paired = [np.zeros_like(could) for could in eligible]
    paired[number] = chosen.index >= 0
    return other_windows.drawn("same-clip", ["this"] * len(windows), paired, eligible, draw)[number]


POLICIES = {
    "mutual-information": Policy(partial(_in_window, "mutual-information")),
    "correlation": Policy(partial(_in_window, "correlation")),
    "nearest": Policy(partial(_in_window, "nearest")),
    "shuffled": Policy(partial(_in_window, "shuffled"), RANDOM_DRAWS),
    "random": Policy(partial(_in_window, "random"), RANDOM_DRAWS),
    "same-clip": Policy(_same_clip, RANDOM_DRAWS),
    "oracle": Policy(partial(_in_window, "oracle"), RANDOM_DRAWS),
}


def choose(window: Window, settings: ScoreConfig, min_distance: float) -> twins.Twins:
    """The twins of mutual information as the score stage chooses them, at least `min_distance` pixels away.

    `settings.min_distance` holds too.
    """
    return twins.find_twins(
        window.mutual_information,
        p_values=window.p_values if settings.surrogates else None,
        rank=window.gaussian if settings.rank == "gaussian" else None,
        mutual=settings.mutual,
        position=window.first,
        alpha=settings.alpha,
        min_distance=max(min_distance, settings.min_distance),
        candidates=settings.candidates,
        excluded=window.excluded.tolist(),
    )


# ---- measures


def pairs_of(windows: Sequence[Window], settings: ScoreConfig, size: int, apart: float) -> dict[str, Columns]:
    """For each policy, columns over the patches of a clip that have a twin `apart` crops of `size` pixels away or more.

    `object`: whether the patch's point is on an object; `distance` to the twin, pixels; `close`: whether it is below
    `MATCHING_WINDOW`; and for each of `SENSES`, `SENSE`: whether twin and patch belong together, `SENSE_chance`: the
    share of those among all other patches of the window in the twin's bin of distance (`BINS`), and `SENSE_allowed`:
    among those of them that could be twins. A column is NaN where it is not defined: a patch of another window has no
    distance.
    """
    parts: dict[str, list[Columns]] = {name: [] for name in POLICIES}
    both = sides(windows)
    for number, window in enumerate(windows):
        chosen = choose(window, settings, apart * size)
        patches = np.flatnonzero(chosen.index >= 0)
        distance = np.linalg.norm(window.first[:, None] - window.first, axis=-1)
        for name, policy in POLICIES.items():
            draws = []
            for draw in range(policy.draws):
                twin = policy.choose(windows, number, chosen, draw)[patches]
                draws.append(_judged(patches, twin, begin(windows, number), distance, size, chosen.admissible, both))
            mean = {key: _mean([one[key] for one in draws]) for key in draws[0]}
            parts[name].append({"object": window.point[patches] >= 0, **mean})
    return {name: {key: np.concatenate([one[key] for one in part]) for key in part[0]} for name, part in parts.items()}


def _judged(
    patches: Int, twin: Int, start: int, distance: Float, size: int, allowed: Bool, both: dict[str, tuple[Int, Int]]
) -> Columns:
    """The columns of some patches int[P] of a window whose rows begin at `start`, and their twins, rows int[P]."""
    has, local = twin >= 0, twin - start
    here = has & (local >= 0) & (local < len(distance))
    local = np.where(here, local, 0)
    far = np.where(here, distance[patches, local], np.nan)
    columns: Columns = {"distance": far, "close": np.where(here, far < MATCHING_WINDOW, np.nan)}
    binned = np.digitize(distance / size, BINS)
    others = (binned[patches] == binned[patches, local][:, None]) & here[:, None]
    others[np.arange(len(patches)), patches] = others[np.arange(len(patches)), local] = False
    for sense, (left, right) in both.items():
        columns[sense] = np.where(has, left[start + patches] == right[twin], np.nan)
        alike = left[start + patches][:, None] == right[start : start + len(distance)]
        columns[f"{sense}_chance"] = _share(alike, others)
        columns[f"{sense}_allowed"] = _share(alike, others & allowed[patches])
    return columns


def _share(alike: Bool, among: Bool) -> Float:
    """Of the entries `among` in every row, the share that is alike; NaN of none."""
    count = among.sum(1)
    return np.where(count > 0, (alike & among).sum(1) / np.maximum(count, 1), np.nan)


def _mean(draws: list[Float]) -> Float:
    """The mean over draws of what is not NaN, NaN of nothing."""
    values = np.array(draws, float)
    known = ~np.isnan(values)
    return np.where(known.any(0), np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def counts_of(
    windows: Sequence[Window], settings: ScoreConfig, size: int, apart: float, fps: float
) -> dict[str, float]:
    """Numbers of a clip's patches, and its seconds of video and of one core."""
    count = dict.fromkeys(
        ("patches", "twin", "lost", "object", "object_twin", "object_lost", "pictured", "seen", "stayed"), 0.0
    )
    count |= {"video": 0.0, "frames": 0.0, "tracking": 0.0, "scoring": 0.0}
    for window in windows:
        owned, lost = window.point >= 0, window.excluded == "lost"
        twin = choose(window, settings, apart * size).index >= 0
        seen = owned & (window.last != NOTHING)
        new = {"patches": len(owned), "twin": twin.sum(), "lost": lost.sum(), "object": owned.sum()}
        new |= {"object_twin": (owned & twin).sum(), "object_lost": (owned & lost).sum()}
        new |= {"pictured": (owned & (window.picture == window.point)).sum()}
        new |= {"seen": seen.sum(), "stayed": (seen & (window.last == window.point)).sum()}
        length = window.visible.shape[1]
        new |= {"video": length / fps, "frames": length, "tracking": window.seconds[0], "scoring": window.seconds[1]}
        count = {name: count[name] + float(new[name]) for name in count}
    return count


def yields(counts: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Shares and rates from the numbers of S clips, each with its interval over them."""

    def of(top: str, bottom: str) -> list[float]:
        return ratio([count[top] for count in counts], [count[bottom] for count in counts])

    row: dict[str, Any] = {
        name: int(sum(c[name] for c in counts)) for name in ("patches", "twin", "object", "object_twin")
    }
    row |= {"twins_a_second": of("twin", "video"), "with_twin": of("twin", "patches"), "lost": of("lost", "patches")}
    row |= {"object_share": of("object_twin", "twin"), "object_with_twin": of("object_twin", "object")}
    row |= {"object_lost": of("object_lost", "object"), "stayed": of("stayed", "seen")}
    row |= {"pictured": of("pictured", "object")}
    return row | {name: of("frames", name)[0] for name in ("tracking", "scoring")}  # frames a second of one core


def judged(
    pairs: Sequence[dict[str, Columns]], policy: str, on_object: bool, counts: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """How good a policy's twins are, from the columns of S clips and their numbers; each with its interval over clips.

    For each of `SENSES`: `twin`, the share of twins that belong to their patch; `chance` and `allowed`; `excess`, twin
    minus chance; `lead`, the share of the first of `POLICIES` minus this; and `right_a_second` of video.
    """

    def column(name: str, of: str = policy) -> list[Float]:
        return [np.asarray(clip[of][name], float)[clip[of]["object"] | (not on_object)] for clip in pairs]

    distance, video = np.concatenate(column("distance")), [count["video"] for count in counts]
    row: dict[str, Any] = {"n": len(distance), "sequences": sum(len(c) > 0 for c in column("distance"))}
    row |= {"distance": float(np.nanmedian(distance)) if len(distance) else np.nan, "close": mean(column("close"))}
    for sense in SENSES:
        twin, chance, best = column(sense), column(f"{sense}_chance"), column(sense, next(iter(POLICIES)))
        row[sense] = {"twin": mean(twin), "chance": mean(chance)[0], "allowed": mean(column(f"{sense}_allowed"))[0]}
        row[sense] |= {"excess": mean([a - b for a, b in zip(twin, chance, strict=True)])}
        row[sense] |= {"lead": mean([a - b for a, b in zip(best, twin, strict=True)])}
        row[sense] |= {"right_a_second": ratio([np.nansum(values) for values in twin], video)}
    return row


def ratio(top: Sequence[float] | Float, bottom: Sequence[float] | Float) -> list[float]:
    """Sum of `top` over sum of `bottom`, each over S sequences, with a 95 % interval: [value, low, high].

    The interval is Student's t with S − 1 degrees of freedom and the linearised variance of a ratio (Cochran 1977,
    Sampling Techniques, eq. 6.13), without independence within a sequence. Sequences with nothing below do not count.
    NaN: of nothing, and bounds of fewer than `SEQUENCES` sequences.
    """
    above, below = np.asarray(top, float), np.asarray(bottom, float)
    above, below = above[below > 0], below[below > 0]
    if not (count := len(below)):
        return [np.nan] * 3
    value = above.sum() / below.sum()
    error = (count / max(1, count - 1) * ((above - value * below) ** 2).sum()) ** 0.5 / below.sum()
    half = t.ppf(0.975, count - 1) * error if count >= SEQUENCES else np.nan
    return [float(value), float(value - half), float(value + half)]


def mean(values: Sequence[Float]) -> list[float]:
    """The mean of what is not NaN in the values of S sequences, f[n] each, with its interval: see `ratio`."""
    return ratio([np.nansum(v) for v in values], [(~np.isnan(v)).sum() for v in values])
