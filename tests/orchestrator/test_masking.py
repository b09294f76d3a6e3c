"""Secrets in URLs are masked in all that is shown or kept, and nothing else is."""

import json
import pickle
from pathlib import Path

import pytest

from infoaug.orchestrator import submit
from infoaug.orchestrator.config import load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.masking import masked, without_secrets
from infoaug.orchestrator.runtime import console
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.sweep.config import SweepConfig

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"s3://KEY:{SECRET}@bucket/x?region=eu", "s3://***@bucket/x?region=eu"),
        (f"s3://KEY:sl/ash/{SECRET}@bucket/x", "s3://***@bucket/x"),
        (f"postgresql://me:p@{SECRET}@host:5432/db", "postgresql://***@host:5432/db"),
        (f"postgresql://me:it's{SECRET}@host/db", "postgresql://***@host/db"),
        ("https://me:12345@host/x", "https://***@host/x"),
        (f"HTTPS://{SECRET}@host/x", "HTTPS://***@host/x"),
        (f"abfs://account:{SECRET}==@container/x", "abfs://***@container/x"),
        (f"s3://b/x?access_key={SECRET}&secret_key={SECRET}%2F&scheme=http", "s3://b/x?access_key=***&secret_key=***&scheme=http"),
        (f"s3://b?session_token={SECRET}", "s3://b?session_token=***"),
        (f"https://acc.blob.core.windows.net/c?sv=2024&sig={SECRET}%3D&se=2027", "https://acc.blob.core.windows.net/c?sv=2024&sig=***&se=2027"),
        (f"abfs://c/x?tenant_id=1&client_secret={SECRET}", "abfs://c/x?tenant_id=1&client_secret=***"),
        (f"abfs://c/x?account_key={SECRET};token={SECRET}", "abfs://c/x?account_key=***;token=***"),
        (f"https://b/k?AWSAccessKeyId={SECRET}&Signature={SECRET}&Expires=9", "https://b/k?AWSAccessKeyId=***&Signature=***&Expires=9"),
        (
            f"https://b/k?X-Amz-Credential={SECRET}/eu&X-Amz-Date=20260101&X-Amz-Signature={SECRET}&X-Amz-Security-Token={SECRET}",
            "https://b/k?X-Amz-Credential=***&X-Amz-Date=20260101&X-Amz-Signature=***&X-Amz-Security-Token=***",
        ),
        (f"https://b/k?X-Goog-Signature={SECRET}", "https://b/k?X-Goog-Signature=***"),
        (f"mysql://host/db?user=me&password={SECRET}", "mysql://host/db?user=me&password=***"),
        (f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}", "mssql+pyodbc:///?odbc_connect=***"),
    ],
)  # fmt: skip
def test_secrets_of_urls_are_masked(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
    assert without_secrets(f"no answer from '{url}': try <{url}> again, {url}") == (
        f"no answer from '{shown}': try <{shown}> again, {shown}"
    )
    assert without_secrets(shown) == shown, "masking twice is masking once"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me@work/mlflow.db",
        "http://127.0.0.1:5000/runs/@2",
        "'http://localhost:5000', or write to me@example.org",
        "s3://bucket/x?region=eu&endpoint_override=localhost:9000&scheme=http",
        "abfss://container@account.dfs.core.windows.net/x",
        "ssh://git@host/x",
        "score.k=3 seed=1 key=value",
        "videos/a?b/*.mp4",
    ],
)
def test_text_without_a_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


STORE = f"s3://KEY:{SECRET}@bucket/x?secret_key={SECRET}"


def test_a_config_is_written_without_secrets_and_used_with_them(tmp_path: Path) -> None:
    settings = [
        f"store={STORE}",
        f"tracking.uri=http://me:{SECRET}@host:5000",
        f"evaluate.datasets=['http://a:{SECRET}@b']",
    ]
    config = load(None, settings)
    assert config.store == STORE
    for text in (config.to_yaml(), json.dumps(config.flat())):
        assert SECRET not in text and "s3://***@bucket/x?secret_key=***" in text and "http://***@host:5000" in text
    sweep = SweepConfig.model_validate({"store": STORE, "sweep": {"grid": [{"seed": [0]}]}})
    assert SECRET not in sweep.to_yaml() and sweep.store == STORE
    submit.pack(config, tmp_path)
    assert load(tmp_path / "config.yaml").store == STORE, "a job opens the store with it"


def test_a_store_whose_secrets_are_masked_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the secrets of the store .* are masked: give it with them"):
        Store(without_secrets(STORE))


def test_errors_and_lines_for_the_user_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (UsageError(f"the store '{STORE}' is away"), StageError(f"the store '{STORE}' is away", retry=False)):
        assert str(error) == "the store 's3://***@bucket/x?secret_key=***' is away"
        assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301
    console.say(f"reading {STORE}")
    assert SECRET not in capsys.readouterr().err


def test_a_secret_is_masked_before_a_message_is_cut() -> None:
    long = f"s3://{SECRET * 30}:{SECRET * 30}@bucket"
    for override in (f"seed={long}", f"clips={long}", f"{long}=1", f"store.x={long}", f"score: {long}"):
        with pytest.raises(UsageError) as caught:
            load(None, [override])
        assert SECRET not in str(caught.value)


def test_nested_settings_are_masked_in_a_copy() -> None:
    values = {"a": [STORE, {"b": STORE}], "c": 1, "d": None}
    assert SECRET not in str(masked(values)) and masked(values)["c"] == 1
    assert values["a"][0] == STORE  # type: ignore[index]
