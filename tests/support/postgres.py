"""A temporary Postgres server for tests, from the distribution's packages (Debian: `apt-get install postgresql`)."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, text

from support.ports import free_port

_START_SECONDS = 60


@dataclass
class Postgres:
    """A server on a free loopback port, whose superuser is `postgres`."""

    data: Path
    port: int
    password: str = field(repr=False)
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """Return a URL that contains the password."""
        return URL.create(
            "postgresql+psycopg", user, password or self.password, "127.0.0.1", self.port, database
        ).render_as_string(hide_password=False)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Execute statements as the superuser, each on its own."""
        engine = create_engine(self.url(database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    def create_database(self) -> str:
        """Create an empty database with an owner of the same name and password; return the name."""
        name = f"db_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'", f"CREATE DATABASE {name} OWNER {name}")
        return name

    def use_tls(self, name: str = "127.0.0.1") -> Path:
        """Serve TLS with a new self-signed certificate for an address; return the certificate, which is its own CA."""
        certificate, key = self.data / "server.crt", self.data / "server.key"
        write_certificate(certificate, key, name)
        for file in (certificate, key):
            shutil.chown(file, _server_user() or os.geteuid())
        self.execute("ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
        return certificate

    def add_standby(self) -> "Postgres":
        """Start a standby that streams from this server; its data lie beside this one's."""
        standby = Postgres(self.data.with_name("standby"), free_port(), self.password)
        command = [
            _program("pg_basebackup"),
            "-D",
            str(standby.data),
            "--write-recovery-conf",
            "--no-sync",
            "--checkpoint=fast",
        ]
        _run_as_server([*command, "-d", self.url().replace("+psycopg", "")], self.data.parent)
        standby.start()
        return standby

    def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        self.execute("SELECT pg_promote()")

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        with (self.data / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [_program("postgres"), "-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-F"],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data,
                user=_server_user(),
                group=_server_user(),
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"Postgres did not start:\n{(self.data / 'server.log').read_text()}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        ready = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self) -> None:
        """Stop the server at once; the data stay, so that `start` continues."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # Postgres' "fast" shutdown: does not wait for clients
            self.process.wait(timeout=_START_SECONDS)
            self.process = None


def run_temporary_postgres() -> Iterator[Postgres]:
    """Yield a running server; remove it and its data afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="trainingtask-postgres-"))
    try:
        if (user := _server_user()) is not None:
            shutil.chown(folder, user)
        server = Postgres(data=folder / "data", port=free_port(), password=uuid.uuid4().hex)
        _initialise(server, folder / "password")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _initialise(server: Postgres, password_file: Path) -> None:
    password_file.write_text(server.password)
    password_file.chmod(0o644)  # inside a folder that only the server's user can enter
    files = ("-D", str(server.data), "-U", "postgres", f"--pwfile={password_file}")
    options = ("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")
    _run_as_server([_program("initdb"), *files, *options], server.data.parent)


def _run_as_server(command: list[str], folder: Path) -> None:
    user = _server_user()
    done = subprocess.run(command, capture_output=True, check=False, cwd=folder, text=True, user=user, group=user)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def write_certificate(certificate: Path, key: Path, address: str) -> None:
    """Write a self-signed certificate for an IP address, which is its own authority, and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=history", "-addext", f"subjectAltName=IP:{address}"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    key.chmod(0o600)


def _server_user() -> str | None:
    """Return the user of the server, None for the tests' own: Postgres refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


def _program(name: str) -> str:
    # Debian keeps the server's programs out of PATH, one folder per major version.
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = str(versions[-1]) if versions else shutil.which(name)
    if found is None:
        pytest.fail(f"these tests need PostgreSQL, and '{name}' was not found: apt-get install postgresql")
    return found


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """Yield a running server; test modules import this fixture."""
    yield from run_temporary_postgres()
