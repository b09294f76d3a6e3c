"""What makes two experiments the same."""

from infoaug.orchestrator.config import RUNTIME, ExperimentConfig
from infoaug.orchestrator.runtime.store import digest_of


def identity(config: ExperimentConfig) -> str:
    """Digest of the settings that define an experiment; starting the same config again resumes the same run."""
    return digest_of(config.model_dump(mode="json", exclude=RUNTIME))
