"""The command `infoaug`."""

import logging
import re
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

import infoaug
from infoaug.orchestrator import named_configs, places
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.masking import without_secrets
from infoaug.orchestrator.runtime import interruption, logs

if TYPE_CHECKING:
    from infoaug.orchestrator.config import ExperimentConfig

_Misused: Any = typer.BadParameter.__mro__[1]  # what typer raises for arguments that a command does not take
_SPACED = re.compile(r"unexpected extra argument\S* \(=")
_SETTING = re.compile(r"unexpected extra argument\S* \((?:.* )?([a-z_]+(?:\.\w+)*=[^ ]*).*\)")
INTERRUPTED = "interrupted; what is complete is kept, and the same command continues from there"


class _Commands(TyperGroup):
    """Ends a command that is interrupted with a sentence."""

    def invoke(self, ctx: Any) -> Any:
        with _interruption(INTERRUPTED):
            try:
                return super().invoke(ctx)
            except _Misused as error:
                if setting := _SETTING.search(str(error)):
                    raise UsageError(f"settings are changed by --set, as in --set {setting[1]}") from error
                if _SPACED.search(str(error)):
                    raise UsageError("--set takes key=value, without spaces around =") from error
                raise


@contextmanager
def _interruption(sentence: str) -> Iterator[None]:
    """End with a sentence and the signal's exit code when Ctrl-C, SIGTERM or SIGHUP come."""
    try:
        yield
    except KeyboardInterrupt as end:
        raise typer.Exit(_end(sentence, interruption.exit_code(end))) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Visual features from video, with positive pairs chosen by the mutual information of trajectories.",
    epilog="Example:  infoaug run configs/demo.yaml",
)

_log = logging.getLogger(__name__)
AnyConfig = TypeVar("AnyConfig", bound="ExperimentConfig")

Config = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="A file, or a name that `infoaug configs` lists.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. score.k=3; may be repeated."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what would be done or reused, and what it would take; then the resolved config."
    ),
]
Resume = Annotated[bool, typer.Option(help="Continue from the last checkpoint, or train from scratch.")]


class Format(StrEnum):
    """What a backbone can be exported to."""

    timm = "timm"
    torchscript = "torchscript"
    onnx = "onnx"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"infoaug {infoaug.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the traceback of an error, which is in the log file too.")
    ] = False,
) -> None:
    # `main` handles --traceback, wherever it stands; here it is for the help.
    pass


def _placed(config: AnyConfig) -> AnyConfig:
    """The same config, once its store is named as the place for the log."""
    from infoaug.orchestrator.runtime.store import Store

    logs.set_place(Store(config.store).local, config.name)
    return config


def _run(config: Path, overrides: list[str] | None, stages: tuple[str, ...] | None, resume: bool = True) -> None:
    """Run stages, by default all, and show the report if it is among them."""
    from infoaug.orchestrator.config import load

    places.look_beside(config)
    resolved = _placed(load(config, overrides or ()))
    # After the config, whose errors need not wait for PyTorch and Ray.
    from infoaug.orchestrator import experiment
    from infoaug.orchestrator.reporting import report
    from infoaug.orchestrator.runtime import console

    result = experiment.run(resolved, stages or experiment.STAGES, resume=resume)
    if result:
        clips, failed = len(result.report.ledger), len(report.incomplete(result.report))
        console.show(report.terminal_table(result.report))
        _echo(" ".join(report.conclusion(result.report)))
        if failed:
            typer.echo(f"{failed} of {clips} clips failed, wholly or in part; the report says why")
        _echo(f"report   {result.page}")
        _echo(f"runs     {_to_see_runs(result.tracking_uri)}")


def _to_see_runs(uri: str) -> str:
    """A server's address; for a database the command that shows it, also in a shell without the environment."""
    if uri.partition("://")[0] in ("http", "https"):
        return uri
    program = Path(sys.executable).with_name("mlflow")
    if shutil.which("mlflow") == str(program):
        program = Path("mlflow")
    elif program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return shlex.join([str(program), "ui", "--backend-store-uri", uri])


@app.command(
    epilog="Example:  infoaug run configs/clips.yaml --set clips.path=my/videos --set evaluate.datasets=cifar10"
)
def run(config: Config, overrides: Overrides = None, dry_run: DryRun = False, resume: Resume = True) -> None:
    """Run the whole pipeline: extract, score, pretrain, evaluate, report. Run again, it does only what is missing."""
    if not dry_run:
        return _run(config, overrides, None, resume)
    from infoaug.orchestrator.config import load

    places.look_beside(config)
    resolved = load(config, overrides or ())
    from infoaug.orchestrator import dry_run as dry

    _summary(dry.lines(resolved))
    typer.echo(f"\n{resolved.to_yaml()}")


@app.command(epilog="Example:  infoaug extract configs/clips.yaml --set clips.path='videos/*.mp4'")
def extract(config: Config, overrides: Overrides = None) -> None:
    """Track patches: from clips to trajectories and patch images."""
    _run(config, overrides, ("extract",))


@app.command(epilog="Example:  infoaug score configs/demo.yaml --set score.k=3")
def score(config: Config, overrides: Overrides = None) -> None:
    """Estimate mutual information: from trajectories to twins."""
    _run(config, overrides, ("score",))


@app.command(epilog="Example:  infoaug pretrain configs/demo.yaml --set pretrain.twin_weight=0.2 --no-resume")
def pretrain(config: Config, overrides: Overrides = None, resume: Resume = True) -> None:
    """Train the two branches on the patches and their twins."""
    _run(config, overrides, ("pretrain",), resume)


@app.command(epilog="Example:  infoaug evaluate configs/demo.yaml --set evaluate.datasets=[scenes,cifar10]")
def evaluate(config: Config, overrides: Overrides = None) -> None:
    """Evaluate the frozen backbone, and that before training, by weighted kNN and a linear probe."""
    _run(config, overrides, ("evaluate",))


@app.command(epilog="Example:  infoaug report configs/demo.yaml")
def report(config: Config, overrides: Overrides = None) -> None:
    """Write the report: one self-contained page with the table and the figures."""
    _run(config, overrides, ("report",))


@app.command(epilog="Example:  infoaug sweep configs/laptop.yaml --set clips.path=my/videos --dry-run")
def sweep(config: Config, overrides: Overrides = None, dry_run: DryRun = False, resume: Resume = True) -> None:
    """Run and compare many experiments: frameworks, twin policies, weights, seeds. Run again, it continues."""
    from infoaug.orchestrator.runtime import console
    from infoaug.orchestrator.sweep.config import load

    places.look_beside(config)
    resolved = load(config, overrides or ())
    if dry_run:
        from infoaug.orchestrator.sweep import plan

        planned = plan.plan(resolved)
        _summary(planned.lines)
        console.show(planned.table)
        return typer.echo(resolved.to_yaml())
    from infoaug.orchestrator.sweep import runner

    compared = runner.run(_placed(resolved), resume)
    for table in compared.tables():
        console.show(table)
    _echo("\n".join(compared.verdict()))
    _echo(f"comparison   {compared.page}")
    _echo(f"runs         {_to_see_runs(compared.tracking_uri)}")


@app.command(epilog="Example:  infoaug compare infoaug --out comparison")
def compare(
    sweep: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT",
            help="An MLflow experiment, whose newest sweep is taken, or the name or run id of a sweep.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="By default comparison/EXPERIMENT.")] = None,
    overrides: Overrides = None,
) -> None:
    """Compare the trials of a sweep by what MLflow has: tables, figures and one page, logged with the sweep."""
    from infoaug.orchestrator.config import load
    from infoaug.orchestrator.runtime import console
    from infoaug.orchestrator.sweep import compared

    config = _placed(load(None, overrides or ()))
    result = compared.from_mlflow(sweep, config.tracking, out or Path("comparison") / sweep)
    _log.info("compared '%s': %s", sweep, result.page)
    for table in result.tables():
        console.show(table)
    _echo("\n".join(result.verdict()))
    _echo(f"comparison   {result.page}")


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
    """Run or sweep a config as a job of a Ray cluster. The job does not need this command to stay."""
    from infoaug.orchestrator import submit as submitting

    logs.set_place(None, config.stem)  # the store of the config is the cluster's
    job = submitting.submit(config, overrides or (), address)
    state = "is running already" if job.found else "is submitted"
    _log.info("job %s at %s %s", job.id, address, state)
    _echo(f"job {job.id} {state}: {job.remedy()}", err=True)
    if not wait:
        return
    with _interruption(f"job {job.id} keeps running: {job.remedy()}"):
        submitting.follow(job)


@app.command(epilog="Example:  infoaug inspect my/video.mp4 --window 2 --out pictures --animate tracks.gif")
def inspect(
    clip: Annotated[
        str, typer.Argument(metavar="CLIP", help="A video or a folder of frames, or its URL.", show_default=False)
    ],
    window: Annotated[int, typer.Option(min=0, help="Number of the window in the clip.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("inspect"),
    animate: Annotated[
        Path | None, typer.Option(metavar="FILE.gif|FILE.mp4", help="Show the tracks over the moving clip as well.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A page on which patches, tracks and twins are explored.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Take the settings of this experiment.")] = None,
    overrides: Overrides = None,
) -> None:
    """Draw one window of a clip: tracks, mutual information, the best twins, and why other patches have none."""
    from infoaug.estimators.video.manifest import is_url
    from infoaug.orchestrator.config import load
    from infoaug.orchestrator.reporting import animation, explorer, inspection
    from infoaug.orchestrator.reporting.figures import REASONS

    if animate:
        animation.checked(animate)
    inspected = inspection.inspect_window(clip, window, _placed(load(config, overrides or ())))
    name = clip.partition("?")[0] if is_url(clip) else clip
    paths = inspection.save(inspection.draw(inspected), out, f"{Path(name).stem}-{window}")
    _log.info("inspected window %d of %s: %s", window, clip, ", ".join(map(str, paths)))
    for path in paths:
        _echo(path)
    if animate:
        _echo(animation.save(inspection.movie(inspected), animate))
    if html:
        _echo(explorer.save(inspected, html))
    typer.echo(", ".join(f"{count} {REASONS[reason]}" for reason, count in inspected.reasons.items() if count))


@app.command("try", epilog="Example:  infoaug try my/video.mp4")
def try_clips(
    clips: Annotated[
        list[str],
        typer.Argument(
            metavar="CLIP...", help="Videos, folders of frames or of clips, globs or lists.", show_default=False
        ),
    ],
    windows: Annotated[int, typer.Option(min=1, help="How many windows to look at, spread over the clips.")] = 4,
    seconds: Annotated[float, typer.Option(min=0, help="Begin no window that would probably end later.")] = 90,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the pages.")] = Path("try"),
    config: Annotated[Path | None, typer.Option(help="Take the settings of this experiment.")] = None,
    overrides: Overrides = None,
) -> None:
    """Look at a few windows of your clips: how many patches have a twin, and whether training on them is worth it."""
    from infoaug.orchestrator.config import load
    from infoaug.orchestrator.reporting import first_look
    from infoaug.orchestrator.runtime import console

    run = [str(config or "clips"), *(part for override in overrides or () for part in ("--set", override))]
    first = first_look.look(clips, _placed(load(config, overrides or ())), windows, seconds, out, run)
    console.show(first_look.table(first))
    for sentence in first_look.sentences(first):
        _log.info("%s", sentence)
        _echo(sentence)
    typer.echo()
    for seen in first.seen if len(first.seen) > 1 else ():
        _echo(seen.page)
    which = "the window with the most twins" if len(first.seen) > 1 and first.best().share else "a window"
    _echo(f"Open {first.best().page} in a browser to look at {which}.")


@app.command(epilog="Example:  infoaug export configs/demo.yaml --to onnx --out my/folder")
def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A config file, a folder with a saved backbone, or an MLflow run.", show_default=False
        ),
    ],
    to: Annotated[Format, typer.Option(help="The format.")] = Format.timm,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="By default export/NAME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another export in that folder.")] = False,
    overrides: Overrides = None,
) -> None:
    """Export the trained backbone to files that load without infoaug."""
    from infoaug.orchestrator.exporting import export as exporting

    places.look_beside(run)
    exported = exporting.export(run, to, out, force=force, overrides=overrides or ())
    _log.info("exported %s to %s: %s", run, to, ", ".join(map(str, exported.files)))
    for path in exported.files:
        _echo(path)
    typer.echo("\nLoad it, without infoaug:\n")
    for line in exported.loading:
        typer.echo(f"    {line}")


@app.command(epilog="Example:  infoaug embed configs/demo.yaml my/images --out my/features --neighbours 8")
def embed(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A config file, a folder with a saved backbone, or an MLflow run.", show_default=False
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="An image, a folder of images at any depth, or clips.", show_default=False),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="By default embed/NAME.")] = None,
    every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Take DATA as clips, and of them every N-th frame.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", "--size", min=8, metavar="PIXELS", help="By default that of the training."),
    ] = None,
    patches: Annotated[bool, typer.Option("--patches", help="Also features of each cell of a grid.")] = False,
    stride: Annotated[
        int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the cells of --patches, by default 8.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="By the weights that the training of a config starts from.")
    ] = False,
    neighbours: Annotated[
        int, typer.Option(min=0, metavar="N", help="Draw the nearest neighbours of N images, drawn at random.")
    ] = 0,
    components: Annotated[
        int, typer.Option(min=0, metavar="N", help="Draw the principal components of the patches of N images.")
    ] = 0,
    npy: Annotated[bool, typer.Option("--npy", help="Also one .npy file, and the names as .csv.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="On a GPU; smaller on a CPU.")] = 256,
    force: Annotated[bool, typer.Option("--force", help="Replace other features in that folder.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Compute on this Ray cluster, whose nodes see DATA and FOLDER."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Compute features of images, or of frames of clips, as Parquet files. Run again, it continues."""
    from infoaug.orchestrator.embedding import embed as embedding

    if stride and not patches:
        raise UsageError("--stride is of --patches: give both or none")
    places.look_beside(run)
    embedded = embedding.embed(
        run,
        data,
        out,
        image_size=image_size,
        every=every,
        stride=(stride or embedding.STRIDE) if patches else None,
        untrained=untrained,
        neighbours=neighbours,
        components=components,
        npy=npy,
        batch_size=batch_size,
        force=force,
        cluster=cluster,
        overrides=overrides or (),
    )
    for path in embedded.files:
        _echo(path)
    shapes = ", ".join(f"{name} {' × '.join(map(str, shape))}" for name, shape in embedded.shapes.items())
    typer.echo(f"{embedded.rows:,} {embedded.what}: {shapes}\n\nLoad them:\n")
    for line in embedded.loading:
        typer.echo(f"    {line}")


@app.command(epilog="Example:  infoaug configs")
def configs() -> None:
    """List the configs that come with infoaug; every command takes their names."""
    files = named_configs.known()
    width = max(map(len, files))
    for name, path in files.items():
        typer.echo(f"{name:{width}}  {named_configs.summary(path)}")


def main() -> None:
    """Run the command; exit with 0 on success, 1 on failure, 2 on wrong usage, 130, 143 or 129 on interruption."""
    arguments = sys.argv[1:]
    # Also after the sub-command: typer takes an option of the whole command before it only.
    sys.argv[1:] = sorted(arguments, key=lambda argument: argument != "--traceback")
    command = next((argument for argument in arguments if not argument.startswith("-")), "infoaug")
    with interruption.raised(), logs.to_file(command, arguments), places.restored():
        sys.exit(_exit_code("--traceback" in arguments))


def _exit_code(show_traceback: bool) -> int:
    """Run the command; print the sentence of an error, and log its traceback."""
    began = time.monotonic()
    failure: Exception
    try:
        app()
    except SystemExit as end:
        if logs.file():
            _log.info("ended with code %s after %.1f s", end.code or 0, time.monotonic() - began)
        raise
    except UsageError as error:
        # DEBUG: a command that is refused before it has started leaves no log file.
        _log.debug("refused", exc_info=error)
        sentence, code, failure = str(error), 2, error
    except StageError as error:
        _log.error("failed", exc_info=error)
        where = f" (log: {file})" if (file := logs.file()) else ""
        sentence, code, failure = f"{error}{where}", 1, error
    except Exception as error:
        _log.critical("unexpected error", exc_info=error)
        file = logs.file()
        first_line = str(error).strip().partition("\n")[0]
        where = f"the full traceback is in {file}" if file else "its traceback is above"
        sentence, code, failure = f"{type(error).__name__}: {first_line}; {where}", 1, error
        show_traceback |= not file
    if show_traceback:
        _print(traceback.format_exception(failure))
    return _end(sentence, code)


def _summary(lines: Iterable[tuple[str, str]]) -> None:
    for of, text in lines:
        _echo(f"{of:9} {text}")


def _echo(text: object, err: bool = False, nl: bool = True) -> None:
    typer.echo(without_secrets(str(text)), err=err, nl=nl)


def _print(lines: Iterable[str]) -> None:
    _echo("".join(lines), err=True, nl=False)


def _end(sentence: str, code: int) -> int:
    _echo(f"infoaug: {sentence}", err=True)
    return code
