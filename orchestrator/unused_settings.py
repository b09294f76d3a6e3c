"""Settings of an experiment that have no effect beside its others, or not the one that their name promises.

None of them is an error: an arm of a comparison shares its settings with arms that use them. A command that runs a
single experiment says so in a line.
"""

from collections.abc import Iterator

from pydantic import BaseModel
from rich.markup import escape

from infoaug.estimators.options import CLASSICAL_TRACKERS
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.runtime import console


def notes(config: ExperimentConfig) -> list[str]:
    """A sentence for each cause, about settings that are not at their defaults."""
    unused = [
        f"{' and '.join(named)} {'have' if len(named) > 1 else 'has'} no effect: {why}"
        for named, why in _unused(config)
        if named
    ]
    extract = config.extract
    if extract.image_size <= extract.patch_size:
        return unused
    enlarged = (
        f"crops of {extract.patch_size} pixels (extract.patch_size) are enlarged to {extract.image_size} "
        f"(extract.image_size), which shows nothing more: set extract.patch_size to {extract.image_size} or more"
    )
    return [*unused, enlarged]


def say(config: ExperimentConfig) -> None:
    """Print `notes`."""
    for note in notes(config):
        console.say(escape(note))


def _unused(config: ExperimentConfig) -> Iterator[tuple[list[str], str]]:
    """Settings that are not at their defaults, and why they have no effect; none for a cause that does not apply."""
    extract, score, pretrain = config.extract, config.score, config.pretrain
    of_twins = _changed("pretrain", pretrain, "twin_time", "twins", "twin_choice")
    if extract.tracker in ("auto", *CLASSICAL_TRACKERS):
        yield _changed("extract", extract, "tracker_weights"), f"extract.tracker '{extract.tracker}' has no weights"
    if pretrain.images is None:
        yield _changed("pretrain", pretrain, "image_share"), "pretrain.images names no images"
    elif not pretrain.image_share:
        yield ["pretrain.images"], "pretrain.image_share is 0, so the images are neither checked nor read"
    if score.policy == "none":
        weight = _changed("pretrain", pretrain, "twin_weight")
        yield weight + of_twins, "by score.policy none there are no twins"
    elif not pretrain.twin_weight:
        policy = _changed("score", score, "policy")
        yield policy + of_twins, "pretrain.twin_weight is 0, so there is no twin branch"
    elif score.policy == "later":
        yield of_twins, "by score.policy later a patch is its own twin"
    elif pretrain.twins == 1:
        yield _changed("pretrain", pretrain, "twin_choice"), "pretrain.twins is 1, so there is no choice"
    if not config.evaluate.fine_tune:
        rate = _changed("evaluate", config.evaluate, "fine_tune_rate", "fine_tune_batch")
        yield rate, "evaluate.fine_tune is null, so nothing is fine-tuned"


def _changed(section: str, settings: BaseModel, *names: str) -> list[str]:
    """Those of a section's settings that are not at their defaults."""
    fields = type(settings).model_fields
    return [f"{section}.{name}" for name in names if getattr(settings, name) != fields[name].default]
