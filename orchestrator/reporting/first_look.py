"""A first look at clips: the twins of a few windows, whether the clips are worth training on, and what to try next."""

import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from infoaug.orchestrator.reporting.page import in_percent
from infoaug.orchestrator.runtime import console
from infoaug.orchestrator.runtime.store import file_name
from infoaug.orchestrator.stages import remote_clips

MOST_FRAMES = 1_500  # of a clip that are read: more would take longer than a first look may
GOOD, POOR = 0.05, 0.01  # shares of patches with a twin; in the study's clips it is 0.077
ENOUGH = 1_000  # patches with a twin; the study has 6,672
COMMON = 0.15  # share of patches from which on a reason gets advice
# What a common reason says of the clips, the setting to try (`_settings`), and the clips that would be better.
ADVICE = {
    "static": ("Much of the picture is static", "longer", "clips with more motion"),
    "lost": ("Many tracks end early", "shorter", "clips with calmer motion"),
    "textureless": ("Much of the picture is plain, with nothing to track", "", "other clips"),
    "no candidate": ("Many patches have no other one to pair with", "closer", "larger pictures"),
    "not significant": (
        "Many patches move without a significant pair",
        "longer",
        "clips in which more things move together",
    ),
    "not mutual": ("Many patches are among the best of no partner", "mutual", "other clips"),
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
        paths: what was to be looked at.
        found: how many clips that is.
        clips: those that were looked at, by name.
        seen: the windows, at least one.
        run: the arguments of `infoaug run` for the same settings.
    """

    config: ExperimentConfig
    paths: Sequence[str]
    found: int
    clips: Mapping[str, inspection.Clip]
    seen: list[Seen]
    run: Sequence[str] = ("clips",)

    @property
    def windows(self) -> int:
        """Number of windows of the clips that were looked at."""
        return sum(len(clip.first_frames) for clip in self.clips.values())

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


def look(
    paths: Sequence[str],
    config: ExperimentConfig,
    windows: int,
    seconds: float,
    out: Path,
    run: Sequence[str] = ("clips",),
) -> FirstLook:
    """Track and score a few windows, spread over clips, in this process, and write an explorer of each.

    Args:
        paths: clips, as `remote_clips.find_clips` takes them.
        config: its `extract` and `score` settings are used.
        windows: how many windows; of more clips than that, so many are looked at.
        seconds: no window is begun that would probably end later.
        out: folder of the explorers.
        run: see `FirstLook`.

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
        name = clip.clip_id
        if name in failed or (name in opened and turn >= len(opened[name].first_frames)):
            continue
        took = time.monotonic() - began
        if seen and took + slowest > seconds:
            console.say(f"after {took:.0f} s no further window is begun")
            break
        try:
            if name not in opened:
                console.say(f"reading {escape(name)}")
                opened[name] = _opened(clip, config)
            start = time.monotonic()
            seen.append(_seen(clip, opened[name], _spread(len(opened[name].first_frames), turns)[turn], config, out))
            slowest = max(slowest, time.monotonic() - start)
        except UsageError as error:
            failed[name] = str(error)
            console.say(f"[yellow]left out[/] {escape(name)}: {escape(str(error))}")
    if not seen:
        raise UsageError(next(iter(failed.values())))
    return FirstLook(config, paths, len(found), {one.clip: opened[one.clip] for one in seen}, seen, run)


def table(first: FirstLook) -> Table:
    """How many patches have a twin, and why the others have none."""
    shown = Table()
    for column in ("patches", "share"):
        shown.add_column(column, justify="right")
    shown.add_column("what they are")
    for reason, words in REASONS.items():
        if count := first.counts[reason]:
            shown.add_row(f"{count:,}", in_percent(count / first.counts.total(), 1), words)
    return shown


def sentences(first: FirstLook) -> list[str]:
    """What was found, the verdict, and what to try next, in plain sentences."""
    return [_looked_at(first), *_strong(first), verdict(first), *advice(first)]


def verdict(first: FirstLook) -> str:
    """Whether the clips are worth training on, by two numbers: see docs/start.md."""
    where = "these clips" if len({seen.clip for seen in first.seen}) > 1 else "this clip"
    have = f"{in_percent(first.share, 1)} of patches have a twin"
    number = f"about {first.expected:,} patches of {where}"
    if not first.counts["twin"]:
        return "Verdict: not worth training on as it is. No patch has a twin."
    if first.share < POOR:
        return f"Verdict: not worth training on as it is. Only {have} (less than {in_percent(POOR)}), {number}."
    if first.share < GOOD:
        text = f"Verdict: perhaps worth training on. {have} ({in_percent(POOR)} to {in_percent(GOOD)}), {number}"
    else:
        text = f"Verdict: worth training on. {have} ({in_percent(GOOD)} or more), {number}"
    more = f"; training wants some {ENOUGH:,}: add more clips like {'it' if where == 'this clip' else 'them'}"
    return text + (more if first.expected < ENOUGH else "") + "."


def advice(first: FirstLook) -> list[str]:
    """What to try next, by the reasons why most patches have no twin."""
    total, known, found = first.counts.total(), _settings(first), []
    common = [reason for reason, count in first.counts.most_common() if reason in ADVICE and count >= COMMON * total]
    for reason in common[:2]:
        what, setting, better = ADVICE[reason]
        remedies = [known.pop(setting), better] if setting in known else [better]
        if setting in ("longer", "shorter"):  # the commoner reason decides between the two
            known = {name: text for name, text in known.items() if name not in ("longer", "shorter")}
        found.append(f"{what}. Try {' or '.join(remedies)}.")
    if first.share >= POOR:
        path = first.paths[0] if len(first.paths) == 1 else "CLIPS"
        given = shlex.join([*first.run, "--set", f"clips.path={path}", "--set", "pretrain.twin_share=0.5"])
        found.append(
            f"To train: infoaug run {given} (half of every batch has a twin; docs/study.md says what twins gained and "
            "what not)."
        )
    return found


def _settings(first: FirstLook) -> dict[str, str]:
    """Settings to try, by the names in `ADVICE`; a window is no longer than the shortest clip."""
    window, cell, least = first.config.extract.window, first.config.extract.cell, first.config.score.min_frames + 1
    longer = min(2 * window, *(clip.scan.frames for clip in first.clips.values()))
    shorter = max(window // 2, least)
    found = {"closer": f"more patches (--set extract.spacing={max(4, cell // 2)})"} if cell > 4 else {}
    if longer > window:
        found["longer"] = f"longer windows (--set extract.window={longer})"
    if shorter < window:
        found["shorter"] = f"shorter windows (--set extract.window={shorter})"
    if first.config.score.mutual:
        found["mutual"] = "twins that are less sure (--set score.mutual=0)"
    return found


def _looked_at(first: FirstLook) -> str:
    names = list(dict.fromkeys(seen.clip for seen in first.seen))
    which = names[0] if len(names) == first.found == 1 else f"{len(names)} of {first.found} clips"
    shares, length = [seen.share for seen in first.seen], first.config.extract.window
    text = f"Looked at {len(shares)} of {first.windows} windows with {length} frames each, of {which}."
    if shortened := [name for name, clip in first.clips.items() if clip.scan.frames == MOST_FRAMES]:
        text += f" Only the first {MOST_FRAMES:,} frames of {', '.join(shortened)} were read."
    if len(shares) > 1 and max(shares):
        fewest, most = (in_percent(share, 1) for share in (min(shares), max(shares)))
        text += f" Between {fewest} and {most} of a window's patches have a twin."
    return text


def _strong(first: FirstLook) -> list[str]:
    """How strong the twins are, as the correlation of two Gaussian motions that share as much."""
    strength = np.concatenate([seen.strength for seen in first.seen])
    if not len(strength):
        return []
    median, dimensions = float(np.median(strength)), first.seen[0].dimensions
    text = f"Half of the patches with a twin share {median:.2f} nats or more with it"
    if first.config.score.rank == "gaussian":
        correlation = np.sqrt(1 - np.exp(-2 * max(median, 0) / dimensions))
        text += f", as motions do that correlate by {correlation:.2f} in every coordinate"
    doubtful = sum(seen.doubtful for seen in first.seen)
    return [f"{text}; {doubtful:,} of {len(strength):,} twins are doubtful."]


def _find(paths: Sequence[str]) -> list[manifest.Clip]:
    try:
        found = list(dict.fromkeys(clip for path in paths for clip in remote_clips.find_clips(path)))
    except ValueError as error:
        raise UsageError(str(error)) from None
    named = Counter(clip.clip_id for clip in found)
    # Clips that are given one by one may have the same name in different folders.
    return [clip if named[clip.clip_id] == 1 else replace(clip, clip_id=clip.path) for clip in found]


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
