"""What is checked of a sweep before anything is started, without Ray."""

from collections.abc import Sequence

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.stages import evaluate, extract, pretrain, score
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.trials import Trial


def check(config: SweepConfig, planned: Sequence[Trial], dry: bool = False) -> None:
    """Check before anything is started that all models can be built, all data exists and twins are possible.

    Args:
        config: the sweep.
        planned: its trials.
        dry: the clips may be missing, and no data set is downloaded.

    Raises:
        UsageError: the first trial that cannot run.
    """
    checked = set()
    # Those with a twin branch first: the model without one is a part of theirs, and building models takes seconds.
    for trial in sorted(planned or [trials.example(config)], key=lambda trial: not trial.has_twins):
        score.check(trial.config)
        if config.sweep.budget == "passes" and trial.config.pretrain.twins_at_once > 1:
            raise UsageError(
                "sweep.budget passes is for arms that show one twin of a patch in a step: set it to steps, or "
                "pretrain.twin_choice to uniform or strength"
            )
        extract.check_tracker(trial.config)
        inputs = trial.config.model_dump_json(include={"clips", "scenes"})
        if not dry and inputs not in checked:
            extract.check(trial.config)
        evaluation = trial.config.evaluate.model_dump_json()
        if evaluation not in checked:
            evaluate.check(trial.config, fetch=not dry)
        if trial.model not in checked:
            pretrain.check(trial.config, fetch=not dry)
        checked |= {inputs, evaluation, trial.model}
