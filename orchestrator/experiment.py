"""An experiment: its stages in order, each done or found done, timed, and tracked in one MLflow run."""

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow.compute as pc
from rich.markup import escape

from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.evaluation import datasets
from infoaug.orchestrator.reporting import figures, inspection, report
from infoaug.orchestrator.runtime import cluster, console, mlflow_runs
from infoaug.orchestrator.runtime.store import Store, digest_of, file_name
from infoaug.orchestrator.stages import evaluate, extract, pretrain, score, training

STAGES = ("extract", "score", "pretrain", "evaluate", "report")
EXAMPLES = 3  # clips with pictures in the report


@dataclass(frozen=True)
class RunResult:
    """A report, where its page lies, and where MLflow keeps the rest."""

    report: report.Report
    page: str
    tracking_uri: str


def run(config: ExperimentConfig, stages: Sequence[str] = STAGES, *, resume: bool = True) -> RunResult | None:
    """Run stages of an experiment. Each does only what is missing; what comes before the first must be there.

    Args:
        config: the experiment.
        stages: some of `STAGES`, in order.
        resume: False trains anew although a checkpoint or a finished model is there.

    Returns:
        The report, if it was among the stages.

    Raises:
        UsageError: the config cannot be carried out; nothing was started.
        StageError: a stage failed; what is complete stays, and the same command goes on from there.
    """
    store = Store(config.store)
    if "extract" in stages:
        extract.count(config)
    if "pretrain" in stages:
        pretrain.check(config)
    if "evaluate" in stages or ("pretrain" in stages and config.evaluate.every):
        evaluate.check(config)
    tracked = mlflow_runs.Run(config)
    status, made = "FAILED", None
    try:
        with cluster.session(config.ray):
            tracked.files({"config.yaml": config.to_yaml().encode()})
            tracked.sources(sources(config))
            for name in stages:
                if name == "report":
                    made = _report(config, store, tracked)
                else:
                    _timed(name, config, store, tracked, resume)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        # What went wrong first is what the user must hear of.
        with nullcontext() if status == "FINISHED" else suppress(StageError):
            tracked.finish(status)
    return made


def plan(config: ExperimentConfig) -> dict[str, str]:
    """What `run` would do or reuse, a sentence a stage; nothing is computed or written.

    Raises:
        UsageError: the clips are not to be found, or the training cannot be built.
    """
    pretrain.check(config)
    store = Store(config.store)
    said: dict[str, str] = {}
    try:
        extracted = extract.load(config, store)
        said["extract"] = (
            f"reuse {len(extracted.windows)} windows of {len(extracted.ledger)} clips, after a look at them"
        )
        scored = score.load(config, store)
        said["score"] = f"reuse {scored.counts['patches']} patches, {scored.counts['twin']} with a twin"
        place = pretrain.stage(config, scored)
        if store.exists(place.path("train")) and not store.exists(place.path("history.json")):
            said["pretrain"] = f"go on from the last checkpoint in {store.url(place.path('train'))}"
        trained = pretrain.load(config, store)
        said["pretrain"] = f"reuse the model in {store.url(trained.stage.folder)}"
        evaluated = evaluate.load(config, store)
        said["evaluate"] = f"reuse the accuracies on {', '.join(r['dataset'] for r in evaluated.results)}"
    except StageError:
        pass  # from here on nothing is there
    settings = config.pretrain
    size = config.extract.image_size
    fresh = {
        "extract": f"{extract.count(config)} clips, windows of {config.extract.window} frames",
        "score": f"{config.score.policy} by {config.score.estimator}, k={config.score.k}",
        "pretrain": f"{settings.framework} on {settings.backbone} at {size} pixels, {settings.epochs} epochs",
        "evaluate": ", ".join(config.evaluate.datasets + config.evaluate.domains),
        "report": "a page and figures",
    }
    return {name: said.get(name, f"do: {what}") for name, what in fresh.items()}


def sources(config: ExperimentConfig) -> list[mlflow_runs.Source]:
    """The data that an experiment reads."""
    video = config.clips.path or "scenes (synthetic)"
    found = [mlflow_runs.Source(video, extract.source(config), video, "training")]
    for name in (*config.evaluate.datasets, *config.evaluate.domains):
        found.append(mlflow_runs.Source(name, digest_of([name, datasets.fingerprint(name)]), name, "evaluation"))
    return found


def folder(config: ExperimentConfig) -> str:
    """The folder of what is told of an experiment, relative to the store."""
    return f"experiments/{config.name}-{mlflow_runs.identity(config)}"


def _timed(name: str, config: ExperimentConfig, store: Store, tracked: mlflow_runs.Run, resume: bool) -> None:
    """Run one stage, log what it left, and add its time to what the stage took before."""
    started = time.perf_counter()
    done: Any
    if name == "extract":
        done = extract.run(config, store)
    elif name == "score":
        done = score.run(config, extract.load(config, store))
        tracked.metrics({f"patches/{reason.replace(' ', '_')}": n for reason, n in done.counts.items()})
    elif name == "pretrain":
        done = pretrain.run(config, score.load(config, store), partial(_epoch, config, tracked), resume)
        if not resume:
            store.delete(evaluate.stage(config, done.stage).folder)  # of the model that was there
        tracked.epochs(done.history)  # what the tracking server may have missed on the way
        tracked.files(pretrain.files(done.stage), "backbone")
    else:
        done = evaluate.run(config, pretrain.load(config, store))
        tracked.results(done.results)
    if done.computed:
        times = _times(config, store)
        spent = times.get(name, {}).get("seconds", 0.0) + time.perf_counter() - started
        times[name] = {"seconds": spent, "computed": done.computed, "resumed": done.resumed}
        store.write_json(f"{folder(config)}/times.json", times)
        tracked.metrics({f"seconds/{name}": spent})


def _times(config: ExperimentConfig, store: Store) -> dict[str, dict[str, float]]:
    path = f"{folder(config)}/times.json"
    return store.read_json(path) if store.exists(path) else {}


def _epoch(config: ExperimentConfig, tracked: mlflow_runs.Run, metrics: training.Epoch) -> None:
    tracked.epochs([metrics])
    validated = f"  validation kNN {metrics['validation_knn']:.1%}" if "validation_knn" in metrics else ""
    left = (config.pretrain.epochs - metrics["epoch"]) * metrics["seconds"]
    console.say(
        f"epoch {metrics['epoch']:.0f}/{config.pretrain.epochs}  loss {metrics['loss']:.3f} "
        f"(view {metrics['view_loss']:.3f}, twin {metrics['twin_loss']:.3f})  "
        f"{metrics['images_per_second']:,.0f} images/s  {left:.0f} s left{validated}"
    )


def _report(config: ExperimentConfig, store: Store, tracked: mlflow_runs.Run) -> RunResult:
    """Put the report together, keep it on the store, and log it."""
    scored, trained = score.load(config, store), pretrain.load(config, store)
    results = evaluate.load(config, store).results
    drawn = {
        "accuracy": figures.draw_accuracy(results),
        "reasons": figures.draw_reasons(scored.counts),
        "training": figures.draw_training(trained.history),
    }
    examples = {}
    for clip_id, window in _examples(scored):
        try:
            drawn_window = inspection.draw(inspection.stored_window(scored, config, clip_id, window))
            examples[f"{clip_id}, window {window}"] = {n: figures.png(f) for n, f in drawn_window.items()}
        except StageError as error:
            console.say(escape(f"no pictures of {clip_id}: {error}"))
    made = report.Report(
        name=config.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config_yaml=config.to_yaml(),
        results=results,
        counts=scored.counts,
        ledger=scored.extracted.ledger.select(["clip_id", "status", "reason", "frames", "windows"]).to_pylist(),
        times=_times(config, store),
        history=trained.history,
        pictures={name: figures.png(figure) for name, figure in drawn.items()},
        domains={r["dataset"]: figures.png(figures.draw_domains(r)) for r in results if "domains" in r},
        examples=examples,
    )
    files = {"report.html": report.page(made).encode(), **{f"{name}.png": png for name, png in made.pictures.items()}}
    files |= {f"domains-{file_name(name)}.png": png for name, png in made.domains.items()}
    for title, pictures in examples.items():
        files |= {f"{file_name(title)}-{name}.png": png for name, png in pictures.items()}
    for name, content in files.items():
        store.write_bytes(f"{folder(config)}/{name}", content)
    tracked.files(files, "report")
    return RunResult(made, store.url(f"{folder(config)}/report.html"), tracked.uri)


def _examples(scored: score.Scored) -> list[tuple[str, int]]:
    """Of the clips with the most twins, the window with the most: what a reader wants to see first."""
    ledger = scored.ledger.filter(pc.equal(scored.ledger["reason"], ""))
    ranked = ledger.sort_by([("twin", "descending"), ("window", "ascending")])
    best = ranked.group_by("clip_id", use_threads=False).aggregate([("window", "first")])
    return [(row["clip_id"], row["window_first"]) for row in best[:EXAMPLES].to_pylist()]
