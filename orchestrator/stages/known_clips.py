"""By what the extract stage knows a clip again: its fingerprints, kept on the store beside its scan."""

from pathlib import Path
from typing import Any

from infoaug.estimators.video import clips, shots
from infoaug.estimators.video.manifest import Clip, is_url
from infoaug.orchestrator.config import ExtractConfig
from infoaug.orchestrator.runtime.store import BrokenFileError, StageFolder, Store, file_name
from infoaug.orchestrator.stages import remote_clips


def folder_and_scan(stage_folder: StageFolder, clip: Clip, settings: ExtractConfig) -> tuple[str, shots.Scan]:
    """The name of a clip's files in the extract stage, and its scan, from the store while the clip is what it was.

    A clip on disk is what it was while the sizes and times of its files are, or else, while all its bytes are. A clip
    at a URL is what it was while its state is; if not, it is copied, and known again as the copy is.

    Args:
        stage_folder: of the extract stage.
        clip: a video file or a folder of frames; one at a URL with its state.
        settings: how long to wait for the clip's disk, and the room for copies.

    Raises:
        ClipError: the path is not a clip, or the clip cannot be read.
        StageError: the store cannot be read or written to, or what holds the clip does not answer.
    """
    if not is_url(clip.path):
        return _on_disk(stage_folder, clip.clip_id, clip.path, settings.read_timeout)
    store, known_at = stage_folder.store, stage_folder.path("known", f"{file_name(clip.clip_id, clip.state)}.json")
    known = _read_json(store, known_at)
    if known and (scan := _stored_scan(stage_folder, known["folder"])):
        return known["folder"], scan
    with remote_clips.local_copy(clip.path, clip.state, settings.cache) as copy:
        folder, scan = _on_disk(stage_folder, clip.clip_id, copy, settings.read_timeout)
    store.write_json(known_at, {"folder": folder})
    return folder, scan


def _on_disk(stage_folder: StageFolder, clip_id: str, path: str, limit: float) -> tuple[str, shots.Scan]:
    """The same for a clip on disk; `limit`: seconds to wait for it."""
    store = stage_folder.store
    digest = clips.digest(path, limit)
    # Another name than `known` is needed if frames of some unchanged clips are ever decoded to other pixels.
    known_at = stage_folder.path("known", f"{file_name(clip_id, digest)}.json")
    known = _read_json(store, known_at)
    signature = clips.signature(path, limit)
    if known and known.get("signature") == signature and (scan := _stored_scan(stage_folder, known["folder"])):
        return known["folder"], scan
    content = clips.content(path, limit)
    if known and known.get("content") == content:
        folder = known["folder"]
    else:
        # The name that earlier versions gave, too. The digest is quick and may miss a change, so another content of the
        # same digest is told apart by the whole of it. Frames that were once stored interlaced or squeezed are others.
        changed = [] if known is None else [content]
        folder = file_name(clip_id, digest, *clips.conversions(path, limit), *changed)
    scan = _stored_scan(stage_folder, folder)
    if scan is None or (known is None and Path(path).is_dir()):  # earlier versions took any folder of images for a clip
        scan = shots.scan(path, limit)
        store.write_json(stage_folder.path("clips", f"{folder}.json"), vars(scan))
    store.write_json(known_at, {"folder": folder, "content": content, "signature": signature})
    return folder, scan


def _stored_scan(stage_folder: StageFolder, folder: str) -> shots.Scan | None:
    stored = _read_json(stage_folder.store, stage_folder.path("clips", f"{folder}.json"))
    return shots.Scan(**stored) if stored else None


def _read_json(store: Store, path: str) -> dict[str, Any] | None:
    """Read a JSON object from the store: None for a missing file, an empty one for a damaged file."""
    try:
        if not store.exists(path):
            return None
        found = store.read_json(path)
    except BrokenFileError:
        return {}
    return found if isinstance(found, dict) else {}
