"""A dry run of an experiment: what it would do and take, without Ray and MLflow."""

import logging
from collections.abc import Mapping

from infoaug.orchestrator import estimate, unused_settings
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime import listings
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, extract, initial_weights, pretrain, score

_log = logging.getLogger(__name__)


def lines(config: ExperimentConfig) -> list[tuple[str, str]]:
    """What `run` would do and take, by what a line is of. Nothing is computed or written.

    Raises:
        UsageError: as `plan`.
    """
    with listings.kept():
        return outlook(config, plan(config))


def plan(config: ExperimentConfig) -> dict[str, str]:
    """What `run` would compute or reuse, a sentence for each stage. Nothing is computed or written.

    Raises:
        UsageError: the clips do not exist, no twin is possible, the training or a data set cannot be used, or the
            patches, if they are scored already, are too few for a batch.
    """
    extract.check_tracker(config)
    score.check(config)
    pretrain.check(config, fetch=False)
    evaluate.check(config, fetch=False)
    unused_settings.say(config)
    store = Store(config.store)
    reused: dict[str, str] = {}
    try:
        extracted = extract.load(config, store)
        windows, clips = len(extracted.windows), len(extracted.ledger)
        reused["extract"] = f"reuse {windows} windows of {clips} clips, after checking that the clips are unchanged"
        scored = score.load(config, extracted)
        reused["score"] = f"reuse {scored.counts['patches']} patches, {scored.counts['twin']} with a twin"
        if not initial_weights.is_known(config):
            raise StageError(f"the published weights of {config.pretrain.backbone} are not in the cache")
        model = pretrain.stage(config, scored)
        if store.exists(model.path("train")) and not store.exists(model.path("history.json")):
            reused["pretrain"] = f"continue from the last checkpoint in {store.url(model.path('train'))}"
        if not store.exists(model.path("history.json")):
            pretrain.check_patches(config, scored)
        trained = pretrain.load(config, scored)
        reused["pretrain"] = f"reuse the model in {store.url(trained.stage.folder)}"
        evaluated = evaluate.load(config, trained)
        reused["evaluate"] = f"reuse the accuracies on {', '.join(r['dataset'] for r in evaluated.results)}"
    except StageError as missing:
        _log.debug("nothing to reuse from here on: %s", missing)
    settings, size = config.pretrain, config.extract.image_size
    beside = f" with '{settings.stills}' in {100 * settings.image_share:.0f} % of a batch" if settings.stills else ""
    todo = {
        "extract": f"{extract.count(config)} clips, windows of {config.extract.window} frames",
        "score": f"{config.score.policy} by {config.score.estimator}, k={config.score.k}",
        "pretrain": f"{settings.framework} on {settings.backbone} at {size} pixels, {settings.epochs} epoch"
        + f"{'s' * (settings.epochs != 1)}{beside}"
        + (f", from the weights of '{settings.init}'" if settings.init else "")
        + ("" if initial_weights.is_known(config) else ", which have to be fetched"),
        "evaluate": ", ".join(config.evaluate.names),
        "report": "a page and figures",
    }
    return {name: reused.get(name, f"do: {what}") for name, what in todo.items()}


def outlook(config: ExperimentConfig, planned: Mapping[str, str]) -> list[tuple[str, str]]:
    """What `run` would do, as `plan` says it, and take: lines by what they are of. Nothing is computed or written."""
    store = Store(config.store)
    scored, clips = estimate.scored(config, store), estimate.video(config)
    trained = planned["pretrain"].startswith("reuse")
    if scored is None and clips is None:
        unknown = "not estimated: no clip was looked at, because all are at a URL or cannot be read"
        return [*planned.items(), ("time", unknown)]
    left = estimate.of_run(config, scored, clips, trained)
    too_few = pretrain.too_few_patches(config, round(clips.patches)) if clips and not (scored or trained) else ""
    return [
        ("clips", str(clips or "not looked at, because they are extracted already")),
        *planned.items(),
        *([("", f"the run will probably be refused: about {too_few}")] if too_few else []),
        *left.lines(config),
    ]
