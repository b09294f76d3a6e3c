"""`infoaug embed` on a real Ray: the same files as by one process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infoaug.orchestrator.embedding import embed as embedding
from infoaug.orchestrator.embedding.embed import embed
from tests.orchestrator.embedding.conftest import backbone, folder, write_clip

__all__ = ["backbone", "folder", "write_clip"]

pytestmark = pytest.mark.usefixtures("ray_cluster", "one_thread")


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "features").iterdir()}


def test_a_cluster_writes_the_files_of_one_process_and_goes_on_where_parts_are_missing(
    backbone: Path, folder: Path, write_clip: Callable[[str, int], Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(embedding, "PART_ROWS", 6)
    (folder / "c" / "15.png").write_bytes(b"no image")
    Image.fromarray(np.full((40, 40), 900, np.uint16)).save(folder / "c" / "deep.png")
    for name, count in (("a", 8), ("b", 12), ("c", 3)):
        clips = write_clip(f"{name}.avi", count).parent
    (clips / "b0.avi").write_bytes(b"no clip")
    for what, data in (("images", folder), ("frames", clips)):
        given = {"every": 2, "stride": 8} if what == "frames" else {}
        here, there = tmp_path / f"{what}-here", tmp_path / f"{what}-there"
        alone = embed(str(backbone), str(data), here, batch_size=4, **given)
        shared = embed(str(backbone), str(data), there, batch_size=4, cluster="local", **given)
        assert content(here) == content(there) and len(content(here)) > 1
        assert (shared.rows, shared.unreadable) == (alone.rows, alone.unreadable)
        (there / "features" / "part-00001.parquet").unlink()
        capsys.readouterr()
        embed(str(backbone), str(data), there, batch_size=4, cluster="local", **given)
        assert f"{len(content(here))} parts, {len(content(here)) - 1} already there" in capsys.readouterr().err
        assert content(here) == content(there)
