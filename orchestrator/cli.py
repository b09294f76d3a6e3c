"""The command `infoaug`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from infoaug.orchestrator.errors import StageError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Visual features from video, with positive pairs chosen by the mutual information of trajectories.",
    epilog="Example:  infoaug run configs/demo.yaml",
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The experiment.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. score.k=3; may be repeated."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and what would be done or reused.")]
Resume = Annotated[bool, typer.Option(help="Go on from the last checkpoint, or train anew.")]


class Format(StrEnum):
    """What a backbone can be exported to."""

    timm = "timm"
    torchscript = "torchscript"
    onnx = "onnx"


def _run(config: Path, overrides: list[str] | None, stages: tuple[str, ...], resume: bool = True) -> None:
    from infoaug.orchestrator import experiment
    from infoaug.orchestrator.config import load
    from infoaug.orchestrator.reporting import report
    from infoaug.orchestrator.runtime import console

    try:
        made = experiment.run(load(config, overrides or ()), stages, resume=resume)
    except KeyboardInterrupt:
        raise typer.Exit(_end("interrupted; what is complete is kept, and the same command goes on", 130)) from None
    if made:
        lost = [row for row in made.report.ledger if row["status"] != "ok"]
        console.show(report.terminal_table(made.report))
        if lost:
            typer.echo(f"{len(lost)} of {len(made.report.ledger)} clips failed, wholly or in part; the report says why")
        typer.echo(f"report   {made.page}")
        typer.echo(f"runs     mlflow ui --backend-store-uri {made.tracking_uri}")


@app.command(
    epilog="Example:  infoaug run configs/clips.yaml --set clips.path=my/videos --set evaluate.datasets=cifar10"
)
def run(config: Config, overrides: Overrides = None, dry_run: DryRun = False, resume: Resume = True) -> None:
    """The whole pipeline: extract, score, pretrain, evaluate, report. Run again, it does only what is missing."""
    from infoaug.orchestrator import experiment
    from infoaug.orchestrator.config import load

    if not dry_run:
        return _run(config, overrides, experiment.STAGES, resume)
    resolved = load(config, overrides or ())
    typer.echo(resolved.to_yaml())
    for stage, what in experiment.plan(resolved).items():
        typer.echo(f"{stage:9} {what}")


@app.command(epilog="Example:  infoaug extract configs/clips.yaml --set clips.path='videos/*.mp4'")
def extract(config: Config, overrides: Overrides = None) -> None:
    """Clips to trajectories and patch images."""
    _run(config, overrides, ("extract",))


@app.command(epilog="Example:  infoaug score configs/demo.yaml --set score.k=3")
def score(config: Config, overrides: Overrides = None) -> None:
    """Trajectories to mutual information and twins."""
    _run(config, overrides, ("score",))


@app.command(epilog="Example:  infoaug pretrain configs/demo.yaml --set pretrain.twin_weight=0.2 --no-resume")
def pretrain(config: Config, overrides: Overrides = None, resume: Resume = True) -> None:
    """Two-branch training on the patches and their twins."""
    _run(config, overrides, ("pretrain",), resume)


@app.command(epilog="Example:  infoaug evaluate configs/demo.yaml --set evaluate.datasets=[scenes,cifar10]")
def evaluate(config: Config, overrides: Overrides = None) -> None:
    """Weighted kNN and a linear probe on the frozen backbone, beside the untrained one."""
    _run(config, overrides, ("evaluate",))


@app.command(epilog="Example:  infoaug report configs/demo.yaml")
def report(config: Config, overrides: Overrides = None) -> None:
    """One self-contained page with the table and the figures."""
    _run(config, overrides, ("report",))


@app.command(epilog="Example:  infoaug sweep configs/laptop.yaml --set clips.path=my/videos --dry-run")
def sweep(config: Config, overrides: Overrides = None, dry_run: DryRun = False, resume: Resume = True) -> None:
    """Many experiments side by side, compared: frameworks, twin policies, weights, seeds. Run again, it goes on."""
    from infoaug.orchestrator.runtime import console
    from infoaug.orchestrator.sweep import plan, runner
    from infoaug.orchestrator.sweep.config import load

    resolved = load(config, overrides or ())
    if dry_run:
        typer.echo(resolved.to_yaml())
        return console.show(plan.plan(resolved))
    try:
        compared = runner.run(resolved, resume)
    except KeyboardInterrupt:
        raise typer.Exit(_end("interrupted; what is complete is kept, and the same command goes on", 130)) from None
    for table in compared.tables():
        console.show(table)
    typer.echo(f"comparison   {compared.page}")
    typer.echo(f"runs         mlflow ui --backend-store-uri {compared.tracking_uri}")


@app.command(epilog="Example:  infoaug compare infoaug --out comparison")
def compare(
    sweep: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT",
            help="An MLflow experiment, of which the newest sweep is taken, or a sweep's name or run.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="By default comparison/EXPERIMENT.")] = None,
    overrides: Overrides = None,
) -> None:
    """The trials of a sweep as MLflow has them: tables, figures and one page, logged with the sweep."""
    from infoaug.orchestrator.config import load
    from infoaug.orchestrator.runtime import console
    from infoaug.orchestrator.sweep import compared

    found = compared.again(sweep, load(None, overrides or ()).tracking, out or Path("comparison") / sweep)
    for table in found.tables():
        console.show(table)
    typer.echo(f"comparison   {found.page}")


@app.command(epilog="Example:  infoaug submit configs/paper.yaml --set clips.path=/shared/videos")
def submit(
    config: Config,
    overrides: Overrides = None,
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_API_SERVER_ADDRESS", help="The cluster's job server, as `ray dashboard` makes it reachable."
        ),
    ] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option(help="Follow the job's log to its end.")] = True,
) -> None:
    """A config as a job of a Ray cluster: it is run there, or swept, and goes on when this command ends."""
    from infoaug.orchestrator import submit as submitting

    job = submitting.submit(config, overrides or (), address)
    typer.echo(f"job {job.id} {'runs already' if job.found else 'is submitted'}: {job.remedy()}", err=True)
    if not wait:
        return
    try:
        submitting.follow(job)
    except KeyboardInterrupt:
        raise typer.Exit(_end(f"job {job.id} goes on: {job.remedy()}", 130)) from None


@app.command(epilog="Example:  infoaug inspect my/video.mp4 --window 2 --out pictures --animate tracks.gif")
def inspect(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="A video or a folder of frames.", show_default=False)],
    window: Annotated[int, typer.Option(min=0, help="Which of the clip's windows.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("inspect"),
    animate: Annotated[
        Path | None, typer.Option(metavar="FILE.gif|FILE.mp4", help="Show the tracks over the moving clip as well.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Take the settings of this experiment.")] = None,
    overrides: Overrides = None,
) -> None:
    """Pictures of one window of a clip: tracks, mutual information, the best twins, and why others have none."""
    from infoaug.orchestrator.config import load
    from infoaug.orchestrator.reporting import animation, inspection

    if animate:
        animation.checked(animate)
    inspected = inspection.inspect_window(clip, window, load(config, overrides or ()))
    for path in inspection.save(inspection.draw(inspected), out, f"{Path(clip).stem}-{window}"):
        typer.echo(path)
    if animate:
        typer.echo(animation.save(inspection.movie(inspected), animate))
    typer.echo(", ".join(f"{count} {reason}" for reason, count in inspected.reasons.items() if count))


@app.command(epilog="Example:  infoaug export configs/demo.yaml --to onnx --out my/folder")
def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A config file, a folder with a saved backbone, or an MLflow run.", show_default=False
        ),
    ],
    to: Annotated[Format, typer.Option(help="What shall load it.")] = Format.timm,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="By default export/NAME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another export in that folder.")] = False,
    overrides: Overrides = None,
) -> None:
    """The trained backbone as files that load without infoaug."""
    from infoaug.orchestrator.exporting import export as exporting

    exported = exporting.export(run, to, out, force=force, overrides=overrides or ())
    for path in exported.files:
        typer.echo(path)
    typer.echo("\nLoad it, without infoaug:\n")
    for line in exported.loading:
        typer.echo(f"    {line}")


def main() -> None:
    """Run the command; 0 if it did its work, 1 if it failed, 2 if it was not asked for well, 130 if interrupted."""
    try:
        app()
    except UsageError as error:
        sys.exit(_end(str(error), 2))
    except StageError as error:
        sys.exit(_end(str(error), 1))


def _end(sentence: str, code: int) -> int:
    typer.echo(f"infoaug: {sentence}", err=True)
    return code
