"""The command: help, what it prints, and how it ends."""

import importlib.metadata
import signal
from pathlib import Path

import pytest

from infoaug.orchestrator import cli, dry_run, experiment
from infoaug.orchestrator.exporting import export

COMMANDS = (
    "run", "extract", "score", "pretrain", "evaluate", "report", "sweep", "compare", "submit", "export", "inspect",
    "embed", "configs", "try",
)  # fmt: skip


def infoaug(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr("sys.argv", ["infoaug", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infoaug(monkeypatch, command, "--help") == 0
    assert f"infoaug {command}" in capsys.readouterr().out.partition("Example")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "missing.yaml"], ["missing.yaml", "does not exist"]),
        (["run", "{demo}", "--set", "extract.windw=3"], ["extract.windw", "did you mean 'extract.window'"]),
        (["run", "{demo}", "--set", "pretrain.epochs=many"], ["pretrain.epochs", "integer"]),
        (["run", "{demo}", "--set", "pretrain.backbone=resnet81"], ["resnet81", "nearest"]),
        (["run", "{demo}", "--set", "pretrain.framework_settings={temprature: 1}"], ["temprature", "temperature"]),
        (["run", "{demo}", "--set", "clips.path=no/such/clips"], ["no/such/clips"]),
        (["run", "{demo}", "--set", "evaluate.datasets=cifra10"], ["cifra10", "cifar10"]),
        (["run", "{demo}", "--set", "tracking.uri=http://127.0.0.1:9"], ["127.0.0.1:9", "mlflow"]),
        (["run", "{demo}", "--set", "store=nowhere://x"], ["nowhere://x"]),
        (["inspect", "missing.mp4"], ["missing.mp4"]),
        (["try", "missing.mp4"], ["missing.mp4", "does not exist"]),
        (["frobnicate"], ["frobnicate"]),
        (["run", "{demo}", "score.k=3"], ["settings are changed by --set, as in --set score.k=3"]),
        (["sweep", "laptop", "--set", "seed=1", "more", "pretrain.epochs=2"], ["as in --set pretrain.epochs=2"]),
        (["run", "{demo}", "--set", "score.k", "=", "3"], ["--set takes key=value, without spaces around ="]),
        (["run", "{demo}", "more"], ["unexpected extra argument"]),
        ([], []),
    ],
)
def test_bad_usage_ends_with_code_2_and_a_sentence_without_a_traceback(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    demo = Path("configs/demo.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    assert infoaug(monkeypatch, *(a.replace("{demo}", str(demo)) for a in arguments)) == 2
    told = capsys.readouterr()
    assert all(word.lower() in told.err.lower() for word in words), told.err
    assert "Traceback" not in told.err
    assert not list(tmp_path.iterdir()), "nothing was started"


def test_a_stage_whose_input_is_missing_ends_with_code_1_and_names_the_command_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = Path("configs/demo.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    assert infoaug(monkeypatch, "score", str(demo)) == 1
    told = capsys.readouterr().err
    assert "infoaug extract" in told and "Traceback" not in told
    (log,) = (tmp_path / "outputs" / "logs").iterdir()
    assert str(log) in told and "StageError" in log.read_text()


def test_an_error_that_nobody_foresaw_ends_with_code_1_and_names_the_file_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("unsupported operand, asked of http://me:hunter2@host")

    monkeypatch.setattr(experiment, "run", broken)
    monkeypatch.chdir(tmp_path)
    assert infoaug(monkeypatch, "run", "demo", "--set", "name=mine") == 1
    told = capsys.readouterr().err
    (log,) = (tmp_path / "outputs" / "logs").iterdir()
    assert told.startswith("infoaug: TypeError: unsupported operand") and str(log) in told
    assert "Traceback" not in told
    content = log.read_text()
    assert "Traceback" in content and "in broken" in content and "name=mine" in content
    assert "hunter2" not in content + told


@pytest.mark.parametrize("arguments", [["--traceback", "score", "demo"], ["score", "demo", "--traceback"]])
def test_a_traceback_is_shown_where_it_is_asked_for_before_or_after_the_command(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert infoaug(monkeypatch, *arguments) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and told.splitlines()[-1].startswith("infoaug: these clips are not extracted yet")


def test_without_a_log_the_traceback_of_an_unforeseen_error_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "run", lambda *_, **__: 1 / 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").write_text("a file where the store should be")
    assert infoaug(monkeypatch, "run", "demo") == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and "infoaug: ZeroDivisionError" in told


def test_the_version_is_that_of_the_installed_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infoaug(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == f"infoaug {importlib.metadata.version('infoaug')}"


def test_the_command_that_shows_the_runs_works_in_a_shell_without_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "mlflow").touch(0o755)
    monkeypatch.setattr("sys.executable", str(programs / "python"))
    uri = "sqlite:////my videos/mlflow.db"
    assert cli._to_see_runs("https://server/mlflow") == "https://server/mlflow"
    monkeypatch.setenv("PATH", "/usr/bin")
    assert cli._to_see_runs(uri) == f"{programs}/mlflow ui --backend-store-uri '{uri}'"
    monkeypatch.chdir(tmp_path)
    assert cli._to_see_runs(uri) == f".venv/bin/mlflow ui --backend-store-uri '{uri}'"
    monkeypatch.setenv("PATH", str(programs))
    assert cli._to_see_runs(uri) == f"mlflow ui --backend-store-uri '{uri}'"


def test_configs_are_listed_by_their_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert infoaug(monkeypatch, "configs") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names[:2] == ["clips", "demo"] and "recipes/simclr" in names


def test_a_dry_run_prints_the_resolved_config_and_the_plan_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = Path("configs/demo.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    assert infoaug(monkeypatch, "run", str(demo), "--dry-run", "--set", "pretrain.epochs=7") == 0
    told = capsys.readouterr().out
    plan, _, resolved = told.partition("\n\n")
    assert "epochs: 7" in resolved
    assert all(f"\n{stage} " in f"\n{plan}" for stage in ("extract", "score", "pretrain", "evaluate", "report"))
    assert not list(tmp_path.iterdir())


def test_a_test_that_no_pair_can_pass_is_refused_by_a_dry_run_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infoaug(monkeypatch, "run", "demo", "--dry-run", "--set", "score.surrogates=5") == 2
    assert "no patch would have a twin" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
@pytest.mark.parametrize("command", [["run", "{demo}"], ["run", "{demo}", "--dry-run"], ["export", "{demo}"]])
def test_a_signal_ends_every_command_with_a_sentence_and_its_code(
    name: str, code: int, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.Signals[name])

    demo = Path("configs/demo.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment, "run", interrupted)
    monkeypatch.setattr(dry_run, "plan", interrupted)
    monkeypatch.setattr(export, "export", interrupted)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert infoaug(monkeypatch, *(part.replace("{demo}", str(demo)) for part in command)) == code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "infoaug: interrupted; what is complete is kept" in capsys.readouterr().err
