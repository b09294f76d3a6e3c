"""Synthetic sweeps for the tests of comparisons."""

from typing import Any

from infoaug.orchestrator.comparison import effects
from infoaug.orchestrator.comparison.arms import MI, Sweep, TrialResult

MALICIOUS = '"><script>alert(1)</script>|$x_{$ [red] *b* `c` \\'
SIMCLR = {"none": [0.50, 0.52, 0.51], "random": [0.49, 0.52, 0.50], MI: [0.53, 0.54, 0.55]}
MOCO = {"none": [0.60, 0.61, 0.66], "random": [0.60, 0.62, 0.61], MI: [0.61, 0.63, 0.64]}
VICREG = {"none": [0.40, 0.41, 0.43], MI: [0.41, 0.43, 0.46]}


def trial(
    policy: str = MI, seed: int = 0, probe: float | None = 0.5, framework: str = "simclr", **changes: Any
) -> TrialResult:
    """One trial, whose kNN is five points below its probe."""
    result = {} if probe is None else {"probe": probe, "knn": probe - 0.05, "floor_probe": 0.3, "floor_knn": 0.25}
    settings: dict[str, Any] = {"twin_weight": 0.0 if policy == "none" else 0.5, "negatives": "", "seconds": 90.0}
    settings |= {"results": {"cifar10": {**result, "classes": 10}}, "epochs": 20, "passes": 2e6}
    return TrialResult(framework, policy, seed=seed, **{**settings, **changes})


def trials(accuracies: dict[str, list[float]], framework: str = "simclr", **changes: Any) -> list[TrialResult]:
    """By policy, the probe's accuracy of each seed."""
    return [
        trial(policy, seed, probe, framework, **changes)
        for policy, values in accuracies.items()
        for seed, probe in enumerate(values)
    ]


def masks(first: float, second: float, prefix: str = "") -> dict[str, Any]:
    """J&F of two sequences of one object, by their names with this prefix."""
    sequences = {f"{prefix}{name}": {"jf": jf, "objects": [{}]} for name, jf in (("cows", first), ("dog", second))}
    return {"jf": (first + second) / 2, "sequences": sequences}


def sweep(of: list[TrialResult], **changes: Any) -> Sweep:
    """A sweep of these trials."""
    settings: dict[str, Any] = {"name": "demo", "created": "2024-01-02T03:04:05+00:00", "twin_weight": 0.5}
    settings |= {"budget": "steps", "source": "Video from my/videos", "synthetic": False, "planned": len(of)}
    return Sweep(trials=of, **{**settings, **changes})


def three_frameworks() -> effects.EffectTable:
    """The linear-probe table of three frameworks."""
    each = trials(SIMCLR), trials(MOCO, "moco"), trials(VICREG, "vicreg")
    return effects.effect_tables(sweep([trial for group in each for trial in group]))[0]


def rich_sweep(**changes: Any) -> Sweep:
    """Several frameworks, negatives, weights, data sets and domains; some arms and numbers are missing."""
    made = []
    for f, (framework, negatives) in enumerate((("simclr", "all"), ("simclr", "ring"), ("vicreg", ""), ("mine", ""))):
        for seed in range(3):
            for p, (policy, weight) in enumerate(
                (("none", 0.0), ("random", 0.5), ("nearest", 0.5), (MI, 0.25), (MI, 0.5), (MI, 1.0))
            ):
                if framework == "mine" and policy == "random":
                    continue
                probe = 0.4 + 0.03 * f + 0.004 * p + 0.003 * ((7 * seed + seed * p + 3 * f) % 5)
                numbers: dict[str, Any] = {"probe": probe, "knn": probe - 0.04, "validation_probe": probe + 0.002 * p}
                numbers |= {"floor_probe": 0.3, "floor_knn": 0.28, "rank_me": 50 + 100 * probe, "classes": 10}
                crossing = [[probe, 0.2], [0.3, probe + 0.1]]
                results: dict[str, dict[str, Any]] = {"cifar10": numbers, "scenes": {**numbers, "knn": float("nan")}}
                results["paintings"] = {"domains": ["photo", "sketch"], "probe_matrix": crossing}
                made.append(
                    trial(
                        policy, seed, framework=framework, negatives=negatives, twin_weight=weight, results=results,
                        seconds=60.0 + 30 * p + seed, run=f"run-{len(made)}",
                    )
                )  # fmt: skip
    return sweep(made, **{"failed": [("vicreg, seed 7", "out of memory")], **changes})
