"""What MLflow's own client can use is used, and what cannot be is one sentence within seconds."""

import base64
import datetime
import errno
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url

from infoaug.orchestrator.config import TrackingConfig, load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime.mlflow_client import connect, database, reason, uri_of

NAME, PASSWORD, TOKEN = "me", "p@ss word", "a-token"
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
TLS = ("MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*CREDENTIALS, *TLS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.mlflow/credentials, no ~/.netrc


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@contextmanager
def server(
    wants: str = "", status: int = 200, body: bytes = b"{}", refusal: bytes = b"", tls: Path | None = None
) -> Iterator[str]:
    """A server of MLflow's API without `/health`, which may want a header `Authorization`. Gives its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = "/api/2.0/mlflow/" in self.path
            refused = wants and self.headers.get("Authorization") != wants
            self.send_response(404 if not known else 401 if refused else status)
            answer = refusal if refused else body
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    with Quiet(("127.0.0.1", 0), Handler) as serving:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            serving.socket = context.wrap_socket(serving.socket, server_side=True)
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{serving.server_port}"
        finally:
            serving.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody else trusts, with its key."""
    x509 = pytest.importorskip("cryptography.x509", reason="makes the certificate")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "infoaug test")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = made.add_extension(local, critical=False).add_extension(x509.BasicConstraints(True, None), critical=True)
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def refused(uri: str) -> str:
    """The sentence for an MLflow that cannot be used."""
    with pytest.raises(UsageError) as caught:
        connect(uri_of(TrackingConfig(uri=uri)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- servers


def test_a_server_without_health_is_used() -> None:
    with server() as host:
        connect(f"http://{host}")
        connect(f"http://{host}/behind/a/path/")


def test_user_and_password_are_taken_from_the_environment_or_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(basic(NAME, PASSWORD)) as host:
        connect(f"http://{NAME}:p%40ss%20word@{host}")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", NAME)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        connect(f"http://{host}")


def test_a_token_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    with server(f"Bearer {TOKEN}") as host:
        connect(f"http://{host}")


@pytest.mark.parametrize("refusal", [b"You are not authenticated.", b'{"message": "Unauthorized"}', b"<html>"])
def test_missing_or_wrong_credentials_are_refused_with_the_variables_to_set(refusal: bytes) -> None:
    with server(basic(NAME, PASSWORD), refusal=refusal) as host:
        for uri in (f"http://{host}", f"http://{NAME}:wrong-one@{host}"):
            sentence = refused(uri)
            assert host in sentence and "wrong-one" not in sentence
            assert all(variable in sentence for variable in CREDENTIALS)


def test_a_user_who_may_not_list_experiments_is_let_through() -> None:
    with server(status=403, body=b"Permission denied") as host:
        connect(f"http://{host}")


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_a_certificate_is_trusted_by_mlflow_s_variables(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(tls=certificate) as host:
        sentence = refused(f"https://{host}")
        assert "certificate" in sentence and all(variable in sentence for variable in TLS[:3])
        for variable, value in ((TLS[0], "true"), (TLS[1], str(certificate)), (TLS[2], str(certificate))):
            with monkeypatch.context() as patch:
                patch.setenv(variable, value)
                connect(f"https://{host}")


@pytest.mark.parametrize(("status", "body"), [(404, b""), (500, b""), (200, b"<html>please log in</html>")])
def test_a_server_of_another_kind_is_refused(status: int, body: bytes) -> None:
    with server(status=status, body=body) as host:
        assert f"no MLflow server answers at 'http://{host}'" in refused(f"http://{host}")


def test_a_server_that_never_answers_is_given_up_and_the_limits_of_later_requests_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "77", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5"}
    monkeypatch.setattr("infoaug.orchestrator.runtime.mlflow_client.SECONDS_TO_ANSWER", 1)
    monkeypatch.setenv(*next(iter(limits.items())))
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections wait in its queue
        assert "no MLflow server answers" in refused(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("scheme", ["postgresql", "mysql+pymysql"])
def test_a_database_s_server_that_does_not_answer_is_reported_at_once(scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"{scheme}://me:secret@127.0.0.1:{free.getsockname()[1]}/mlflow"
        sentence = refused(uri)
    assert f"no database answers at '{uri.replace('me:secret', '***')}'" in sentence


def test_mlflow_prints_no_address_that_holds_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
    monkeypatch.setenv(variable, "")  # so that it is put back
    monkeypatch.delenv(variable)
    with server() as host:
        connect(f"http://{host}")
        assert variable not in os.environ
        connect(f"http://{NAME}:secret@{host}")
    assert os.environ[variable] == "true"


def test_why_a_server_is_not_reached_is_said_in_a_few_words() -> None:
    assert len(refused("http://127.0.0.1:9")) < 200


# ---- addresses


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("127.0.0.1:5000", "write http://127.0.0.1:5000 for a server"),
        ("localhost:5000", "write http://localhost:5000 for a server"),
        ("plain.db", "or sqlite:///plain.db for a database"),
        ("/some/folder/plain.db", "or sqlite:////some/folder/plain.db for a database"),
        ("sqlite:plain.db", "is no tracking URI"),
        ("sqlite://plain.db", "write sqlite:///"),
        ("sqlite:///", "write sqlite:///"),
        ("file:///some/folder", "MLflow keeps no runs in folders"),
        ("http://***@host/x", "are masked: give it with them"),
        ("sqlite:////some/what?/mlflow.db", "cannot hold a question mark"),
    ],
)
def test_an_address_that_is_no_uri_is_refused_with_the_one_that_was_meant(uri: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        uri_of(TrackingConfig(uri=uri))
    assert why in str(caught.value) and uri.removeprefix("sqlite:///") in str(caught.value)


def test_the_default_database_in_a_folder_with_a_question_mark_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "what?").mkdir()
    monkeypatch.chdir(tmp_path / "what?")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "cannot hold a question mark" in refused("sqlite:///mlflow.db")
    assert not list(Path.cwd().iterdir())


def test_settings_of_a_database_stay_in_its_uri(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db?timeout=30"
    assert uri_of(TrackingConfig(uri=uri)) == uri
    for other in ("databricks", "databricks://profile", "postgresql://host/db"):
        assert uri_of(TrackingConfig(uri=other)) == other


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sqlite+pysqlite:///{folder}/mlflow.db", "mlflow.db"),
        ("sqlite:///{folder}/my%20runs.db", "my runs.db"),
        ("sqlite:///~/mlflow.db", "mlflow.db"),
        ("sqlite:///~no-such-user/mlflow.db", "~no-such-user/mlflow.db"),
    ],
)
def test_the_file_of_a_database_is_the_one_that_mlflow_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)  # which is HOME too
    uri = uri_of(TrackingConfig(uri=written.format(folder=tmp_path)))
    assert make_url(uri).drivername == "sqlite", "or it would have no lock"
    assert database(uri) == tmp_path / meant == Path(make_url(uri).database or "")


@pytest.mark.parametrize("name", ["", " ", "..", "../x", "a/../b", "a/./b", "n" * 300, "ü" * 150, "two\nlines"])
def test_a_name_of_an_experiment_that_no_folder_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"tracking\.experiment: the name of an MLflow experiment"):
        load(None, [f"tracking.experiment={name!r}".replace("'", '"')])


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "a:b", "two\nlines"])
def test_a_name_that_no_model_can_be_registered_as_is_refused_before_the_training(name: str) -> None:
    with pytest.raises(UsageError, match=r"tracking\.register_as: the name of a registered model"):
        load(None, [f"tracking.register_as={name!r}".replace("'", '"')])
    assert load(None, ["tracking.register_as=my model"]).tracking.register_as == "my model"


def test_a_database_that_may_not_be_written_is_called_that() -> None:
    message = (
        "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block)\n"
        "(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: INSERT INTO runs …]"
    )
    assert reason(MlflowException(message)) == "(sqlite3.OperationalError) attempt to write a readonly database"
    assert reason(MlflowException("")) == ""


# ---- full disks


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT INTO runs …]"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "mlruns/x"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        MlflowException("API request failed with error code 500: [Errno 28] No space left on device"),
    ],
)
def test_a_full_disk_is_called_that(error: Exception) -> None:
    assert reason(error).startswith("a disk is full, ") and "\n" not in reason(error)
    assert "full" not in reason(MlflowException("the server is down"))


# ---- two commands at once

BEGIN = """
import sys
from infoaug.orchestrator.config import load
from infoaug.orchestrator.runtime.mlflow_runs import Run
config = load(None, ["tracking.uri=sqlite:///" + sys.argv[1]])
print("ready", flush=True)
sys.stdin.readline()
print(Run(config).id)
"""


def started_together(database: Path, count: int) -> list[str]:
    """Ids of the runs of the same experiment, from processes that begin it at the same moment."""
    command = [sys.executable, "-c", BEGIN, str(database)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(count)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [process.communicate() for process in processes]
    assert not any(process.returncode for process in processes), [error for _, error in ended]
    return [out.strip() for out, _ in ended]


@pytest.mark.slow
def test_commands_that_begin_together_share_a_new_database_and_one_run(tmp_path: Path) -> None:
    for _ in range(2):  # a new file, and one that has the tables
        assert len(set(started_together(tmp_path / "mlflow.db", 2))) == 1
