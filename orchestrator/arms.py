"""Arms: the trials of a sweep, put together by what was the same in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Trial:
    """One training of a sweep and what came out of it.

    Attributes:
        framework: as the config names it, such as `moco`.
        policy: of the twins: `none`, `random`, `nearest` or `mutual-information`.
        twin_weight: λ in L = L_view + λ · L_twin; 0 where the policy is none.
        negatives: `all`, `ball`, `ring` or another; empty for a framework without negatives.
        seed: of the training.
        results: by data set as the config names it: `knn`, `probe`, `validation_knn`, `validation_probe`, `floor_knn`,
            `floor_probe` (shares, 0–1), `rank_me`, `floor_rank_me`, `classes`; for a cross-domain one `domains`
            (names), `knn_matrix` and `probe_matrix` (shares; rows trained on, columns tested on). Any may be missing.
        seconds: of training, by the wall clock.
        epochs: trained.
        passes: images that went through the trained backbone in training.
        other: further settings that were swept, by their dotted name.
        run: MLflow's id.

    Raises:
        ValueError: a trial without twins has a twin weight.
    """

    framework: str
    policy: str
    twin_weight: float
    negatives: str
    seed: int
    results: Mapping[str, Mapping[str, Any]]
    seconds: float
    epochs: int
    passes: float
    other: Mapping[str, str] = field(default_factory=dict)
    run: str = ""

    def __post_init__(self) -> None:
        if self.policy == "none" and self.twin_weight:
            raise ValueError(f"a trial with the twin policy none has twin_weight {self.twin_weight:g}: give it 0")


@dataclass(frozen=True)
class Sweep:
    """All that is told of a sweep.

    Attributes:
        name: of the sweep.
        created: when, ISO 8601.
        trials: that came to their end, in any order.
        twin_weight: at which the tables compare the policies.
        budget: what all arms had the same of: `steps` of training, or `passes` of images through the backbone.
        source: one sentence about the video.
        synthetic: whether that video is rendered.
        planned: how many trials there were to be.
        stopped: trials ended early, and why.
        failed: trials that failed, and why.
        config_yaml: the sweep's resolved config.
        packages: versions, by name.
        commit: of this code, empty where unknown.
        seconds: of the whole sweep, by the wall clock; None where unknown.
    """

    name: str
    created: str
    trials: Sequence[Trial]
    twin_weight: float
    budget: Literal["steps", "passes"]
    source: str
    synthetic: bool
    planned: int
    stopped: Sequence[tuple[str, str]] = ()
    failed: Sequence[tuple[str, str]] = ()
    config_yaml: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    seconds: float | None = None
