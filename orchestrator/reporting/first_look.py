"""A first look at clips: the twins of a few windows, whether the clips are worth training on, and what to try next."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from infoaug.estimators.video import manifest
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.reporting import explorer, inspection
from infoaug.orchestrator.reporting.figures import REASONS
from infoaug.orchestrator.runtime import console
from infoaug.orchestrator.runtime.store import file_name

MOST_FRAMES = 3_000  # of a clip that are read: more would take longer than a first look may
GOOD, POOR = 0.05, 0.01  # shares of patches with a twin; in the study's clips it is 0.077
ENOUGH = 1_000  # patches with a twin; the study has 6,672
COMMON = 0.15  # share of patches from which on a reason gets advice
ADVICE = {
    "static": "Much of the picture is static. Choose clips or parts with more motion; longer windows "
    "(--set extract.window={longer}) count slow motion too",
    "lost": "Many tracks end early. Try shorter windows (--set extract.window={shorter}), or a clip with calmer motion",
    "textureless": "Much of the picture is plain, so that there is nothing to track: other clips help, settings do not",
    "no candidate": "Many patches have no other to pair with. Try more patches (--set extract.spacing={closer})",
    "not significant": "Many patches move, but no pair is significant. Try longer windows "
    "(--set extract.window={longer}), which give more samples",
    "not mutual": "Many patches are among the best of no partner. Try --set score.mutual=0, which gives more twins and "
    "worse ones",
}


@dataclass(frozen=True)
class Seen:
    """One window that was looked at.

    Attributes:
        clip: the clip's name.
        number: of the window in the clip.
        counts: number of patches, by `twin` or the reason why they have none.
        doubtful: number of doubtful twins.
        strength: f64 nats, of the dependence on each twin.
        dimensions: of the trajectories that are scored.
        page: the explorer's file.
    """

    clip: str
    number: int
    counts: Counter[str]
    doubtful: int
    strength: NDArray[np.float64]
    dimensions: int
    page: Path

    @property
    def share(self) -> float:
        """Share of the patches with a twin, 0–1."""
        return self.counts["twin"] / max(self.counts.total(), 1)


@dataclass(frozen=True)
class FirstLook:
    """What a first look has found.

    Attributes:
        config: the settings.
        seen: the windows, at least one.
        windows: number of windows of the clips that were looked at.
        clips: how many clips there are.
        shortened: names of clips of which only the first `MOST_FRAMES` frames were read.
    """

    config: ExperimentConfig
    seen: list[Seen]
    windows: int
    clips: int
    shortened: list[str]

    @property
    def counts(self) -> Counter[str]:
        """Number of patches of all windows, by `twin` or the reason why they have none."""
        return sum((seen.counts for seen in self.seen), Counter())

    @property
    def share(self) -> float:
        """Share of the patches with a twin, 0–1."""
        return self.counts["twin"] / max(self.counts.total(), 1)

    @property
    def expected(self) -> int:
        """Number of patches with a twin to expect in all windows of these clips."""
        return round(self.counts["twin"] / len(self.seen) * self.windows)

    def best(self) -> Seen:
        """The window with the most twins."""
        return max(self.seen, key=lambda seen: seen.counts["twin"])


def look(paths: Sequence[str], config: ExperimentConfig, windows: int, seconds: float, out: Path) -> FirstLook:
    """Track and score a few windows, spread over clips, in this process, and write an explorer of each.

    Args:
        paths: clips, as `manifest.find_clips` takes them.
        config: its `extract` and `score` settings are used.
        windows: how many windows; of more clips than that, so many are looked at.
        seconds: no window is begun that would probably end later.
        out: folder of the explorers.

    Raises:
        UsageError: no clip is found or none can be looked at; or the policy's twins are not of one window alone.
        StageError: the explorers cannot be written.
    """
    began, slowest = time.monotonic(), 0.0
    found = _find(paths)
    chosen = [found[n] for n in _spread(len(found), windows)]
    opened: dict[str, inspection.Clip] = {}
    failed: dict[str, str] = {}
    seen: list[Seen] = []
    for clip, turn, turns in _turns(chosen, windows):
        took = time.monotonic() - began
        if seen and took + slowest > seconds:
            console.say(f"after {took:.0f} s no further window is begun")
            break
        if clip.clip_id in failed:
            continue
        try:
            if clip.clip_id not in opened:
                console.say(f"reading {escape(clip.clip_id)}")
                opened[clip.clip_id] = _opened(clip, config)
            numbers = _spread(len(opened[clip.clip_id].first_frames), turns)
            if turn < len(numbers):
                start = time.monotonic()
                seen.append(_seen(clip, opened[clip.clip_id], numbers[turn], config, out))
                slowest = max(slowest, time.monotonic() - start)
        except UsageError as error:
            failed[clip.clip_id] = str(error)
            console.say(f"[yellow]left out[/] {escape(clip.clip_id)}: {escape(str(error))}")
    if not seen:
        raise UsageError(next(iter(failed.values())))
    looked = {one.clip for one in seen}
    of = [opened[name] for name in looked]
    shortened = [name for name in looked if opened[name].scan.frames == MOST_FRAMES]
    return FirstLook(config, seen, sum(len(clip.first_frames) for clip in of), len(found), shortened)


def table(first: FirstLook) -> Table:
    """How many patches have a twin, and why the others have none."""
    shown = Table()
    for column in ("patches", "share"):
        shown.add_column(column, justify="right")
    shown.add_column("what they are")
    for reason, words in REASONS.items():
        if count := first.counts[reason]:
            shown.add_row(f"{count:,}", f"{count / first.counts.total():.1%}", words)
    return shown


def sentences(first: FirstLook) -> list[str]:
    """What was found, the verdict, and what to try next, in plain sentences."""
    return [_looked_at(first), *_strong(first), verdict(first), *advice(first)]


def verdict(first: FirstLook) -> str:
    """Whether the clips are worth training on, by two numbers: see docs/start.md."""
    where = "these clips" if len({seen.clip for seen in first.seen}) > 1 else "this clip"
    have = f"{first.share:.1%} of patches have a twin"
    number = f"about {first.expected:,} patches of {where}"
    if first.share < POOR:
        return f"Verdict: not worth training on as it is. Only {have} (less than {POOR:.0%}), {number}."
    if first.share < GOOD:
        text = f"Verdict: perhaps worth training on. {have} ({POOR:.0%} to {GOOD:.0%}), {number}"
    else:
        text = f"Verdict: worth training on. {have} ({GOOD:.0%} or more), {number}"
    more = f"; training wants some {ENOUGH:,}: add more clips like {'it' if where == 'this clip' else 'them'}"
    return text + (more if first.expected < ENOUGH else "") + "."


def advice(first: FirstLook) -> list[str]:
    """What to try next, by the reasons why most patches have no twin."""
    extract = first.config.extract
    settings = {
        "longer": 2 * extract.window,
        "shorter": max(first.config.score.min_frames + 1, extract.window // 2),
        "closer": max(4, extract.cell // 2),
    }
    total = first.counts.total()
    common = [reason for reason, count in first.counts.most_common() if reason in ADVICE and count >= COMMON * total]
    found = [ADVICE[reason].format(**settings) + "." for reason in common[:2]]
    if first.share >= POOR:
        found.append(
            "Train with half of every batch patches with a twin: infoaug run clips --set clips.path=CLIPS "
            "--set pretrain.twin_share=0.5 (docs/study.md says what twins gained and what not)."
        )
    return found


def _looked_at(first: FirstLook) -> str:
    names = list(dict.fromkeys(seen.clip for seen in first.seen))
    which = names[0] if len(names) == 1 else f"{len(names)} of {first.clips} clips"
    shares = [seen.share for seen in first.seen]
    text = f"Looked at {len(shares)} of {first.windows} windows of {first.config.extract.window} frames of {which}."
    if first.shortened:
        text += f" Only the first {MOST_FRAMES:,} frames of {', '.join(first.shortened)} were read."
    if len(shares) > 1:
        text += f" Between {min(shares):.1%} and {max(shares):.1%} of a window's patches have a twin."
    return text


def _strong(first: FirstLook) -> list[str]:
    """How strong the twins are, as the correlation of two Gaussian motions that share as much."""
    strength = np.concatenate([seen.strength for seen in first.seen])
    if not len(strength):
        return []
    median, dimensions = float(np.median(strength)), first.seen[0].dimensions
    text = f"Half of the twins share {median:.2f} nats or more"
    if first.config.score.rank == "gaussian":
        correlation = np.sqrt(1 - np.exp(-2 * max(median, 0) / dimensions))
        text += f", as motions do that correlate by {correlation:.2f} in every coordinate"
    doubtful = sum(seen.doubtful for seen in first.seen)
    return [f"{text}; {doubtful:,} of {len(strength):,} twins are doubtful."]


def _find(paths: Sequence[str]) -> list[manifest.Clip]:
    try:
        found = list(dict.fromkeys(clip for path in paths for clip in manifest.find_clips(path)))
    except ValueError as error:
        raise UsageError(str(error)) from None
    named = Counter(clip.clip_id for clip in found)
    # Clips that are given one by one may have the same name in different folders.
    return [clip if named[clip.clip_id] == 1 else manifest.Clip(clip.path, clip.path) for clip in found]


def _opened(clip: manifest.Clip, config: ExperimentConfig) -> inspection.Clip:
    opened, length = inspection.read(clip.path, config, MOST_FRAMES), config.extract.window
    if opened.first_frames:
        return opened
    frames, cuts, least = opened.scan.frames, len(opened.scan.cuts), config.score.min_frames + 1
    shots = f"{cuts + 1} shots" if cuts else "one shot"
    remedy = f"--set extract.window={frames}" if not cuts and frames >= least else "a longer clip"
    raise UsageError(f"'{clip.path}' has {frames} frames in {shots}, too few for a window of {length}: try {remedy}")


def _seen(clip: manifest.Clip, opened: inspection.Clip, number: int, config: ExperimentConfig, out: Path) -> Seen:
    console.say(f"window {number} of {escape(clip.clip_id)}")
    window = inspection.inspect_window(opened, number, config)
    page = explorer.save(window, out / f"{file_name(clip.clip_id)}-{number}.html")
    strength = window.scored.of_twin(window.scored.strength)
    return Seen(
        clip.clip_id,
        number,
        Counter({reason: count for reason, count in window.reasons.items() if count}),
        sum(map(bool, window.doubts)),
        strength[np.isfinite(strength)],
        window.scored.residual.shape[-1],
        page,
    )


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers below `count`, evenly spread."""
    wanted = min(count, wanted)
    return [int((n + 0.5) * count / wanted) for n in range(wanted)]


def _turns(clips: Sequence[manifest.Clip], windows: int) -> Iterator[tuple[manifest.Clip, int, int]]:
    """(clip, turn, number of turns of the clip): every clip has its first turn before any has its second."""
    turns = [windows // len(clips) + (n < windows % len(clips)) for n in range(len(clips))]
    for turn in range(max(turns)):
        yield from ((clip, turn, own) for clip, own in zip(clips, turns, strict=True) if turn < own)
