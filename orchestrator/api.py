"""What `infoaug` offers to Python beside the estimators and models: the command's work as functions.

A function imports what it needs when it is called, so that importing this module loads neither PyTorch nor Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infoaug.orchestrator.errors import UsageError

if TYPE_CHECKING:
    from infoaug.orchestrator.config import ExperimentConfig, TrackingConfig
    from infoaug.orchestrator.experiment import RunResult
    from infoaug.orchestrator.reporting.inspection import Window
    from infoaug.orchestrator.sweep.compared import Compared
    from infoaug.orchestrator.sweep.config import SweepConfig

__all__ = ["compare", "inspect", "load_config", "run", "sweep"]


def load_config(
    path_or_name: str | os.PathLike[str] | None = None, overrides: Iterable[str] | Mapping[str, Any] = ()
) -> ExperimentConfig | SweepConfig:
    """Read a config, put overrides on top, and validate it.

    Args:
        path_or_name: a YAML file, as `infoaug run` takes it; None for the defaults.
        overrides: `"key=value"` texts as `--set` takes them, or a mapping of dotted keys to values,
            such as `{"score.k": 3}`.

    Returns:
        A `SweepConfig` if there is a section `sweep`, otherwise an `ExperimentConfig`. Both are immutable; `to_yaml()`
        gives the resolved config.

    Raises:
        UsageError: the file cannot be read, a key is unknown (the nearest known one is named), or a value is not of
            its setting's type or range.
    """
    from infoaug.orchestrator import settings
    from infoaug.orchestrator.config import ExperimentConfig
    from infoaug.orchestrator.sweep.config import SweepConfig

    path = None if path_or_name is None else os.fspath(path_or_name)
    if isinstance(overrides, Mapping):
        values = settings.read_values(path)
        for key, value in overrides.items():
            if not isinstance(key, str) or not key:
                raise UsageError(f"overrides map dotted names of settings to values, got the key {key!r:.60}")
            settings.put(values, key, os.fspath(value) if isinstance(value, os.PathLike) else value, "overrides")
    else:
        values = settings.read_values(path, [overrides] if isinstance(overrides, str) else overrides)
    model = ExperimentConfig if values.get("sweep") is None else SweepConfig
    return settings.checked(model, values, path or "settings")


def run(
    config: ExperimentConfig | str | os.PathLike[str],
    stages: Sequence[str] = ("extract", "score", "pretrain", "evaluate", "report"),
    resume: bool = True,
) -> RunResult | None:
    """Run an experiment, as `infoaug run` does; what its store already holds is reused.

    Args:
        config: what `load_config` returned, or what it takes.
        stages: which stages, in order; those before the first must be complete.
        resume: False trains from scratch even if the store has a checkpoint or a finished model.

    Returns:
        The report, the path of its page and the MLflow server; None if `report` is not among the stages.

    Raises:
        UsageError: the config cannot be carried out; nothing was started.
        StageError: a stage failed; what is complete stays in the store.
    """
    from infoaug.orchestrator import experiment
    from infoaug.orchestrator.sweep.config import SweepConfig

    resolved = _resolved(config)
    if isinstance(resolved, SweepConfig):
        raise UsageError(f"'{resolved.name}' is the config of a sweep: give it to infoaug.sweep")
    names = [stages] if isinstance(stages, str) else list(stages)
    if unknown := [name for name in names if name not in experiment.STAGES]:
        raise UsageError(f"unknown stage {unknown[0]!r}: choose among {', '.join(experiment.STAGES)}")
    return experiment.run(resolved, names, resume=resume)


def sweep(config: SweepConfig | str | os.PathLike[str], resume: bool = True) -> Compared:
    """Run all trials of a sweep and compare them, as `infoaug sweep` does; finished trials are reused.

    Args:
        config: what `load_config` returned, or what it takes.
        resume: False trains from scratch even if the store has a checkpoint or a finished model.

    Returns:
        The comparison, its files, the path of its page and the MLflow server.

    Raises:
        UsageError: the config cannot be carried out; nothing was started.
        StageError: no trial has finished, or the store or MLflow cannot be written to.
    """
    from infoaug.orchestrator.sweep import runner
    from infoaug.orchestrator.sweep.config import SweepConfig

    resolved = _resolved(config)
    if not isinstance(resolved, SweepConfig):
        raise UsageError(f"'{resolved.name}' has no section sweep: give it to infoaug.run")
    return runner.run(resolved, resume)


def compare(
    name: str,
    tracking: TrackingConfig | str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Compared:
    """Compare the trials of a sweep that MLflow has kept, as `infoaug compare` does.

    Args:
        name: an MLflow experiment, of which the newest sweep is taken, or a sweep's run by its name or id.
        tracking: URI of the MLflow server or database, or the section `tracking` of a config; None for
            `MLFLOW_TRACKING_URI`, or `sqlite:///mlflow.db` where that is not set.
        out: folder for the files; None for `comparison/NAME`.

    Returns:
        The comparison, its files, the path of its page and the MLflow server.

    Raises:
        UsageError: MLflow has no such sweep, or not its config.
        StageError: no trial has finished, or MLflow or `out` cannot be written to.
    """
    from infoaug.orchestrator.config import TrackingConfig
    from infoaug.orchestrator.sweep import compared

    if tracking is None or isinstance(tracking, str):
        tracking = TrackingConfig(uri=tracking)
    return compared.from_mlflow(name, tracking, Path("comparison") / name if out is None else Path(out))


def inspect(
    clip: str | os.PathLike[str],
    window: int = 0,
    settings: ExperimentConfig | Iterable[str] | Mapping[str, Any] | None = None,
) -> Window:
    """Extract and score one window of a clip in this process, without Ray and without a store.

    Args:
        clip: a video file or a folder of frames.
        window: number of the window in the clip, from 0.
        settings: a config, or overrides of the defaults as `load_config` takes them, such as `{"extract.window": 32}`
            or `["score.k=3"]`; the sections `extract` and `score` are used.

    Returns:
        For the N patches of the window of T frames: `position` f32[N, T, 2 or 3] and `camera` f32[N, T, 2] in pixels,
        `visible` bool[N, T], `images` u8[N, S, S, 3], `mutual_information` f64[N, N] in nats, `p_values` f64[N, N] or
        None, `twins.index` int64[N] (−1 for none), `twins.reason`, N texts that say why a patch has no twin, and
        `doubts`, N texts that say why a twin is doubtful.

    Raises:
        UsageError: the clip cannot be read, has no such window or is too small, or a setting is wrong.
    """
    from infoaug.orchestrator.config import ExperimentConfig
    from infoaug.orchestrator.reporting import inspection

    config = settings if isinstance(settings, ExperimentConfig) else load_config(None, settings or ())
    return inspection.inspect_window(os.fspath(clip), window, config)


def _resolved(config: ExperimentConfig | str | os.PathLike[str]) -> ExperimentConfig | SweepConfig:
    from infoaug.orchestrator.config import ExperimentConfig

    return config if isinstance(config, ExperimentConfig) else load_config(config)
