"""An experiment: its stages in order, each given the output of the one before, timed, and tracked in one MLflow run."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc
from rich.markup import escape

from infoaug.models import own_code
from infoaug.orchestrator import unused_settings
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.evaluation import opening
from infoaug.orchestrator.identity import identity
from infoaug.orchestrator.reporting import explorer, figures, inspection, report
from infoaug.orchestrator.reporting import look as features
from infoaug.orchestrator.reporting.confusion import MOST_DRAWN, Confusion
from infoaug.orchestrator.runtime import (
    cluster,
    console,
    interruption,
    listings,
    mlflow_client,
    mlflow_runs,
    tensorboard,
)
from infoaug.orchestrator.runtime.store import Store, digest_of, file_name
from infoaug.orchestrator.stages import evaluate, extract, look, pretrain, score
from infoaug.orchestrator.stages.protocol import Output, Stage

STAGES = ("extract", "score", "pretrain", "evaluate", "report")
EXAMPLES = 3  # clips with pictures in the report

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A report, where its page lies, and where MLflow keeps the rest."""

    report: report.Report
    page: str
    tracking_uri: str


def run(config: ExperimentConfig, stages: Sequence[str] = STAGES, *, resume: bool = True) -> RunResult | None:
    """Run stages of an experiment; each computes only what is missing in the store.

    Args:
        config: the experiment.
        stages: some of `STAGES`, in order. Stages before the first must be complete.
        resume: False trains from scratch even if the store has a checkpoint or a finished model.

    Returns:
        The report, if it was among the stages.

    Raises:
        UsageError: the config cannot be carried out, or another command works on it; nothing was started.
        StageError: a stage failed. What is complete stays in the store, and the same command continues from there.
    """
    with listings.kept():
        return _checked_and_run(config, stages, resume)


def _checked_and_run(config: ExperimentConfig, stages: Sequence[str], resume: bool) -> RunResult | None:
    """`run`, which lists clips and masks once."""
    store = Store(config.store)
    if "extract" in stages:
        extract.check(config)
    if "score" in stages:
        score.check(config)
    if "pretrain" in stages:
        pretrain.check(config)
    if "evaluate" in stages or ("pretrain" in stages and config.evaluate.every):
        evaluate.check(config)
    if "pretrain" in stages:
        unused_settings.say(config)
    mlflow_client.connect(mlflow_client.uri_of(config.tracking))  # which is refused before anything is written
    tensorboard.check(config.tracking.tensorboard)
    with store.hold(folder(config), f"the experiment '{config.name}' in the store {store.uri}"):
        return _run(config, stages, store, resume)


def _run(config: ExperimentConfig, stages: Sequence[str], store: Store, resume: bool) -> RunResult | None:
    """`run`, once it is checked and no other command works on the same experiment."""
    tracked, status, result = None, "FAILED", None
    with cluster.session(config.ray):
        try:
            with interruption.held():  # or a run that was just created would stay RUNNING
                tracked = mlflow_runs.Run(config)
            _log.info("%s: stages %s, MLflow run %s at %s", folder(config), ", ".join(stages), tracked.id, tracked.uri)
            _log.debug("the config:\n%s", config.to_yaml())
            if tracked.new:
                _describe(config, tracked)
            outputs = _run_stages(config, stages, store, tracked, resume)
            if "report" in stages:
                result = _report(config, store, tracked, outputs)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            # Before Ray is shut down, which takes seconds: a batch system may kill this process soon. After a failure,
            # an error of MLflow must not hide the error that came first.
            with interruption.held(), nullcontext() if status == "FINISHED" else suppress(StageError):
                if tracked:
                    tracked.finish(status)
            _log.info("%s: %s", folder(config), status)
    return result


def sources(config: ExperimentConfig) -> list[mlflow_runs.Source]:
    """The data that an experiment reads."""
    video = config.clips.path or "scenes (synthetic)"
    read = [mlflow_runs.Source(video, extract.clips_digest(config), video, "training")]
    if images := config.pretrain.stills:
        read.append(mlflow_runs.Source(images, digest_of([images, opening.fingerprint(images)]), images, "training"))
    for name in config.evaluate.names:
        read.append(mlflow_runs.Source(name, digest_of([name, opening.fingerprint(name)]), name, "evaluation"))
    return read


def folder(config: ExperimentConfig) -> str:
    """The folder of an experiment's report, relative to the store."""
    return f"experiments/{config.name}-{identity(config)}"


@dataclass(frozen=True)
class _Pretraining:
    """The stage pretrain within an experiment: its epochs are shown and tracked as they come."""

    tracked: mlflow_runs.Run
    resume: bool

    def check(self, config: ExperimentConfig) -> None:
        pretrain.check(config)

    def load(self, config: ExperimentConfig, scored: score.Scored, /) -> pretrain.Pretrained:
        return pretrain.load(config, scored)

    def run(self, config: ExperimentConfig, scored: score.Scored, /) -> pretrain.Pretrained:
        with self.tracked.system_metrics():
            trained = pretrain.run(config, scored, lambda metrics: _epoch(config, self.tracked, metrics), self.resume)
        if not self.resume:  # accuracies of the model that was replaced
            evaluate.delete(config, trained.stage)
        return trained


@dataclass(frozen=True)
class _Evaluation:
    """The stage evaluate within an experiment: it also looks at patches and frames, for the report."""

    outputs: Mapping[str, Any]

    def check(self, config: ExperimentConfig) -> None:
        evaluate.check(config)

    def load(self, config: ExperimentConfig, trained: pretrain.Pretrained, /) -> evaluate.Evaluated:
        return evaluate.load(config, trained)

    def run(self, config: ExperimentConfig, trained: pretrain.Pretrained, /) -> evaluate.Evaluated:
        return evaluate.run(config, trained, look.seen(config, self.outputs["score"].extracted))


def _run_stages(
    config: ExperimentConfig, names: Sequence[str], store: Store, tracked: mlflow_runs.Run, resume: bool
) -> dict[str, Any]:
    """Go through the stages up to the last one asked for: run those asked for, load the others.

    Returns:
        The output of each, by its name.
    """
    outputs: dict[str, Any] = {}
    pipeline: dict[str, Stage] = {
        "extract": extract,
        "score": score,
        "pretrain": _Pretraining(tracked, resume),
        "evaluate": _Evaluation(outputs),
    }
    previous: Any = store
    last = max(map(STAGES.index, names), default=-1)
    untracked: list[str] = []
    for name in STAGES[: last + 1]:
        if name not in pipeline:
            continue  # the report, which is put together from the outputs
        if name in names:
            started = time.perf_counter()
            _log.info("%s: started", name)
            output = pipeline[name].run(config, previous)
            _add_time(name, config, store, output, time.perf_counter() - started)
            untracked.append(name)
        else:
            output = pipeline[name].load(config, previous)
        _log.info(
            "%s: %d computed, %d in the store already, in %s",
            name, output.computed, output.resumed, ", ".join(map(store.url, output.folders)),
        )  # fmt: skip
        outputs[name] = previous = output
        if name == "score":
            model = pretrain.stage(config, outputs[name])
            with interruption.held():  # it may create a run
                tracked.of_model(model.hash, anew="pretrain" in names and not (resume and pretrain.begun(model)))
            _describe(config, tracked)
        if "score" in outputs or last < STAGES.index("score"):  # else the run may be that of another model
            for done in untracked:
                _track(done, outputs[done], config, store, tracked)
            untracked = []
    return outputs


def _describe(config: ExperimentConfig, tracked: mlflow_runs.Run) -> None:
    """Log the config and the data to MLflow."""
    tracked.files({"config.yaml": config.to_yaml().encode()})
    tracked.sources(sources(config))


def _track(name: str, output: Output, config: ExperimentConfig, store: Store, tracked: mlflow_runs.Run) -> None:
    """Log a stage's output and the time it took to MLflow."""
    if output.computed:
        tracked.metrics({f"seconds/{name}": _times(config, store)[name]["seconds"]})
    match output:
        case score.Scored():
            tracked.metrics({f"patches/{reason.replace(' ', '_')}": n for reason, n in output.counts.items()})
        case pretrain.Pretrained():
            tracked.epochs(output.history)  # those that the server missed while it was away
            backbone = pretrain.files(output.stage)
            tracked.files(backbone, "backbone")
            if not own_code.is_own(config.pretrain.backbone):  # whose code is not where the model will be loaded
                tracked.model(backbone, config.extract.image_size, config.tracking.register_as)
        case evaluate.Evaluated():
            tracked.results(output.results)


def _add_time(name: str, config: ExperimentConfig, store: Store, output: Output, seconds: float) -> None:
    """Add the time of this command to what the stage took in earlier ones, of which outputs are left.

    A stage that computed nothing took none.
    """
    if not output.computed:
        return
    times = _times(config, store)
    earlier = times.get(name, {}).get("seconds", 0.0) if output.resumed else 0.0
    times[name] = {"seconds": earlier + seconds, "computed": output.computed, "resumed": output.resumed}
    store.write_json(f"{folder(config)}/times.json", times)


def _times(config: ExperimentConfig, store: Store) -> dict[str, dict[str, float]]:
    path = f"{folder(config)}/times.json"
    return store.read_json(path, _are_times) if store.exists(path) else {}


def _are_times(stored: Any) -> bool:
    needed = {"seconds", "computed", "resumed"}
    return isinstance(stored, dict) and all(isinstance(of, dict) and of.keys() >= needed for of in stored.values())


def _epoch(config: ExperimentConfig, tracked: mlflow_runs.Run, metrics: pretrain.Epoch) -> None:
    tracked.epochs([metrics])
    validated = f"  validation kNN {100 * metrics['validation_knn']:.1f} %" if "validation_knn" in metrics else ""
    left = (config.pretrain.epochs - metrics["epoch"]) * metrics["seconds"]
    console.say(
        f"epoch {metrics['epoch']:.0f}/{config.pretrain.epochs}  loss {metrics['loss']:.3f} "
        f"(view {metrics['view_loss']:.3f}, twin {metrics['twin_loss']:.3f})  "
        f"{metrics['images_per_second']:,.0f} images/s  {left:.0f} s left{validated}"
    )


def _report(config: ExperimentConfig, store: Store, tracked: mlflow_runs.Run, outputs: dict[str, Any]) -> RunResult:
    """Make the report from the stages' outputs, write it to the store, and log it to MLflow."""
    scored: score.Scored = outputs["score"]
    history, results = outputs["pretrain"].history, outputs["evaluate"].results
    console.say("report: drawing the figures and writing the pages")
    drawn = {
        "accuracy": figures.draw_accuracy(results),
        "reasons": figures.draw_reasons(scored.counts),
        "training": figures.draw_training(history),
    }
    examples, explorers = _examples(config, scored)
    confusions = {
        name: Confusion(of["classes"].tolist(), of["confusion"])
        for name, of in evaluate.confusions(config, outputs["pretrain"].stage).items()
    }
    few = {name: of for name, of in confusions.items() if len(of.classes) <= MOST_DRAWN}
    contents = report.Report(
        name=config.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config_yaml=config.to_yaml(),
        results=results,
        counts=scored.counts,
        ledger=scored.extracted.ledger,
        times=_times(config, store),
        history=history,
        images=pretrain.images(outputs["pretrain"].stage),
        pictures={name: figures.png(figure) for name, figure in drawn.items()},
        domains={r["dataset"]: figures.png(figures.draw_domains(r)) for r in results if "domains" in r},
        confusions=confusions,
        matrices={name: figures.png(figures.draw_confusion(of)) for name, of in few.items()},
        counts_files={name: f"confusion-{file_name(name)}.csv" for name in confusions},
        looks=_looks(config, outputs),
        examples=examples,
        explorers={title: f"{file_name(title)}.html" for title in explorers},
    )
    files = {"report.html": report.page(contents).encode()}
    files |= {f"{name}.png": png for name, png in contents.pictures.items()}
    files |= {f"domains-{file_name(name)}.png": png for name, png in contents.domains.items()}
    files |= {f"confusion-{file_name(name)}.png": png for name, png in contents.matrices.items()}
    files |= {contents.counts_files[name]: of.csv().encode() for name, of in confusions.items()}
    for name, of in contents.looks.items():
        files |= {f"{name}-{whose}.png": png for whose, png in of.items()}
    for title, pictures in contents.examples.items():
        files |= {f"{file_name(title)}-{name}.png": png for name, png in pictures.items()}
    files |= {contents.explorers[title]: page.encode() for title, page in explorers.items()}
    for name, content in files.items():
        store.write_bytes(f"{folder(config)}/{name}", content)
    tracked.files(files, "report")
    page = store.url(f"{folder(config)}/report.html")
    _log.info("report: %s", page)
    return RunResult(contents, page, tracked.uri)


def _looks(config: ExperimentConfig, outputs: Mapping[str, Any]) -> dict[str, dict[str, bytes]]:
    """PNG pictures of what features see, by name, of the `trained` backbone and of the `baseline`, if it has one."""
    called = {"trained": "trained", "baseline": report.baseline_name(outputs["evaluate"].results)}
    seen = look.seen(config, outputs["score"].extracted)
    found: dict[str, dict[str, bytes]] = {}
    for arrays in evaluate.pictured(config, outputs["pretrain"].stage, seen):
        for whose, of in arrays.items():
            for name, figure in features.draw(of, called[whose]).items():
                found.setdefault(name, {})[whose] = figures.png(figure)
    return {name: found[name] for name in features.NAMES if "trained" in found.get(name, {})}


def _examples(config: ExperimentConfig, scored: score.Scored) -> tuple[dict[str, dict[str, bytes]], dict[str, str]]:
    """PNG pictures of some windows, and the page of the explorer of each, by their titles."""
    examples, explorers = {}, {}
    for clip_id, window in _best_windows(scored):
        try:
            seen, title = inspection.stored_window(scored, config, clip_id, window), f"{clip_id}, window {window}"
            examples[title] = {name: figures.png(figure) for name, figure in inspection.draw(seen).items()}
            explorers[title] = explorer.page(seen)
        except StageError as error:
            console.say(escape(f"no pictures of {clip_id}: {error}"))
    return examples, explorers


def _best_windows(scored: score.Scored) -> list[tuple[str, int]]:
    """(clip_id, window): of each of the `EXAMPLES` clips with the most twins, the window with the most."""
    ledger = scored.ledger.filter(pc.equal(scored.ledger["reason"], ""))
    ranked = ledger.select(["clip_id", "window", "twin"]).sort_by([("twin", "descending"), ("window", "ascending")])
    best = ranked.group_by("clip_id", use_threads=False).aggregate([("window", "first")])
    return [(row["clip_id"], row["window_first"]) for row in best[:EXAMPLES].to_pylist()]
