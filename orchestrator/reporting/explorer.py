"""The explorer of a window: one HTML page, without a network, on which its patches, tracks and twins are looked at.

The page holds the window's frames as small pictures, and the tracks, the matrix of mutual information and the twins as
compressed JSON. The script in `templates/explorer.js` draws them.
"""

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.reporting import pictures
from infoaug.orchestrator.reporting.figures import REASONS
from infoaug.orchestrator.reporting.inspection import Window
from infoaug.orchestrator.reporting.page import data_url, in_percent, source, template

FRAME_BYTES = 1_000_000  # of all frames of a page, before base64
# Longer side, pixels, and quality of the frames: the first is taken that `FRAME_BYTES` allows.
SIZES = ((960, 75), (800, 70), (640, 70), (560, 65), (480, 60), (400, 55), (320, 50), (240, 40), (160, 30))
SAMPLED = 3  # frames by which a size is judged
MOST_COMPARED = 800  # patches of which the whole matrix is on the page; of more, only the best partners are
PARTNERS = 8  # a patch's partners with all their numbers
STEP = 4  # positions are stored in so many parts of a pixel
DECADE = 50  # and p-values in so many of a power of ten
MI_STEP = 100  # and mutual information in so many of a nat


def page(window: Window) -> str:
    """Render the explorer of a window as one self-contained HTML page, without the secrets of URLs."""
    script = source("explorer.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    packed = zlib.compress(json.dumps(_content(window), separators=(",", ":"), allow_nan=False).encode(), 9)
    last = window.first + window.position.shape[1] - 1
    return _TEMPLATE.render(
        clip=window.clip,
        number=window.number,
        frames=f"{window.first} to {last}",
        sentence=sentence(window),
        script=Markup(script),
        digest=digest,
        data=Markup(base64.b64encode(packed).decode()),
        settings=window.config,
    )


def save(window: Window, path: Path) -> Path:
    """Write the explorer of a window, and return its path.

    Raises:
        StageError: the file cannot be written.
    """
    content = page(window)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise StageError(f"cannot write the page '{path}': {error.strerror}") from None
    return path


def sentence(window: Window) -> str:
    """How many patches have a twin, and how many of these are doubtful."""
    count, twins = len(window.twins.index), window.reasons["twin"]
    doubtful = sum(map(bool, window.doubts))
    text = f"{twins:,} of {count:,} patches ({in_percent(twins / count, 1)}) have a twin"
    return f"{text}, {doubtful:,} of them a doubtful one." if doubtful else f"{text}."


def _content(window: Window) -> dict[str, Any]:
    """All that the script shows, as JSON takes it: None stands for what is not known."""
    frames, size = _frames(window.frames)
    position = pictures.bridged(window.position[..., :2], window.visible)
    grid = np.round(np.nan_to_num(position) * STEP).astype(np.int64)
    steps = np.diff(grid, axis=1, prepend=0)  # small numbers, which compress well
    hidden = pictures.hidden(window.visible)
    state = np.where(window.visible, 1, np.where(hidden, 2, 0))
    scored, twins, mi = window.scored, window.twins, window.mutual_information
    estimated = np.flatnonzero(np.isfinite(mi).any(axis=0) | np.isfinite(mi).any(axis=1))
    return {
        "size": list(window.frames.shape[2:0:-1]),
        "shown": size,
        "frames": frames,
        "fps": window.fps,
        "first": window.first,
        "patchSize": window.config.extract.patch_size,
        "step": STEP,
        "decade": DECADE,
        "miStep": MI_STEP,
        "x": steps[..., 0].tolist(),
        "y": steps[..., 1].tolist(),
        "state": ["".join(map(str, row)) for row in state],
        "reason": [reason or "twin" for reason in twins.reason],
        "words": REASONS,
        "doubt": window.doubts,
        "spread": _rounded(scored.spread, 2),
        "texture": _rounded(window.texture, 1),
        "tied": _rounded(scored.tied, 2),
        "twin": twins.index.tolist(),
        "strength": _rounded(scored.of_twin(scored.strength), 3),
        "partners": [_partners(window, patch) for patch in range(len(mi))],
        "estimated": estimated.tolist(),
        "tested": scored.p_values is not None,
        "matrix": _matrix(window, estimated) if len(estimated) <= MOST_COMPARED else None,
    }


def _matrix(window: Window, estimated: NDArray[np.int64]) -> dict[str, Any]:
    """The upper triangle of the matrix over the patches that were compared, row by row, and the significant pairs."""
    pairs, upper = np.ix_(estimated, estimated), np.triu_indices(len(estimated), 1)
    mi, p = window.mutual_information[pairs][upper], window.p_values
    rows = window.twins.significant[pairs] if p is not None else np.zeros((len(estimated), 0))
    return {
        "mi": _rounded(mi * MI_STEP, 0),
        "p": None if p is None else _rounded(-DECADE * np.log10(np.maximum(p[pairs][upper], 1e-12)), 0),
        "significant": [np.flatnonzero(row).tolist() for row in rows],
    }


def _partners(window: Window, patch: int) -> list[list[Any]]:
    """A patch's twin and its partners of highest strength: number, MI, strength, p-value, distance, significant."""
    scored, twins = window.scored, window.twins
    strength = np.where(twins.admissible[patch], np.nan_to_num(scored.strength[patch], nan=-np.inf), -np.inf)
    ranked = [int(j) for j in np.argsort(-strength, kind="stable")[:PARTNERS] if np.isfinite(strength[j])]
    twin = int(twins.index[patch])
    if 0 <= twin != patch:
        ranked = [twin, *(j for j in ranked if j != twin)][:PARTNERS]
    first = window.position[:, 0, :2].astype(float)
    distance = np.linalg.norm(first[ranked] - first[patch], axis=1).round().astype(int).tolist()
    p = [None] * len(ranked) if scored.p_values is None else _significant_digits(scored.p_values[patch, ranked])
    numbers = (_rounded(scored.mutual_information[patch, ranked], 3), _rounded(scored.strength[patch, ranked], 3))
    tested = twins.significant[patch, ranked].astype(int).tolist()
    return [list(row) for row in zip(ranked, *numbers, p, distance, tested, strict=True)]


def _rounded(values: ArrayLike, digits: int) -> list[Any]:
    array = np.asarray(values, float)
    kept = np.where(np.isfinite(array), array, 0).round(digits)
    numbers = (kept.astype(np.int64) if digits == 0 else kept).tolist()
    return [number if known else None for number, known in zip(numbers, np.isfinite(array).tolist(), strict=True)]


def _significant_digits(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{value:.2g}") if np.isfinite(value) else None for value in values]


def _frames(frames: NDArray[np.uint8]) -> tuple[list[str], list[int]]:
    """The frames as data URLs of WebP pictures, and their width and height; smaller the more frames there are."""
    longest = max(frames.shape[1:3])
    sample = frames[np.linspace(0, len(frames) - 1, min(SAMPLED, len(frames))).astype(int)]
    for rung in SIZES:
        side, quality = min(rung[0], longest), rung[1]
        each = sum(len(_encoded(frame, side, quality)) for frame in sample) / len(sample)
        if each * len(frames) <= FRAME_BYTES:
            break
    height, width = _resized(frames[0], side).shape[:2]
    return [data_url("image/webp", _encoded(frame, side, quality)) for frame in frames], [width, height]


def _resized(frame: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    scale = longest / max(frame.shape[:2])
    if scale >= 1:
        return frame
    width, height = (max(1, round(side * scale)) for side in frame.shape[1::-1])
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _encoded(frame: NDArray[np.uint8], longest: int, quality: int) -> bytes:
    turned = cv2.cvtColor(_resized(frame, longest), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".webp", turned, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


_TEMPLATE = template("explorer.html", {})
