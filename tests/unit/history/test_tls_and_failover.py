"""A database of one's own: TLS with a private authority, several hosts, standbys and a failover."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from support.postgres import Postgres, run_temporary_postgres, write_certificate
from support.stored_runs import load_run, make_run
from trainingtask_history.errors import HistoryUnavailable
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record

Open = Callable[[str], Engine]


@dataclass
class Pair:
    """A primary with TLS, and its standby."""

    primary: Postgres
    standby: Postgres
    database: str

    def url(self, *ports: int, options: str = "") -> str:
        """Return the database's URL as a Secret of CloudNativePG has it, with these ports in libpq's form."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports or (self.primary.port,))
        return f"postgresql://{self.database}:{self.database}@{hosts}/{self.database}{options}"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    for primary in run_temporary_postgres():
        primary.use_tls()
        database = primary.create_database()
        standby = primary.add_standby()
        try:
            yield Pair(primary, standby, database)
        finally:
            standby.stop()


@pytest.fixture
def authorities(pair: Pair, tmp_path: Path) -> Path:
    """Return a folder with the server's own authority and another."""
    (tmp_path / "own.crt").write_bytes((pair.primary.data / "server.crt").read_bytes())
    write_certificate(tmp_path / "other.crt", tmp_path / "other.key", "127.0.0.1")
    return tmp_path


def test_a_url_without_tls_options_is_verified_by_libpqs_variables(
    pair: Pair, authorities: Path, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(authorities / "own.crt"))
    migrate(open_engine(pair.url()))
    monkeypatch.setenv("PGSSLROOTCERT", str(authorities / "other.crt"))
    with pytest.raises(HistoryUnavailable, match=r"is not trusted: .*certificate verify failed"):
        migrate(open_engine(pair.url()))


@pytest.mark.parametrize(
    ("host", "authority", "cause"),
    [
        ("127.0.0.1", "other.crt", "certificate verify failed"),
        ("127.0.0.1", "none.crt", 'root certificate file ".*none.crt" does not exist'),
        ("localhost", "own.crt", 'does not match host name "localhost"'),
    ],
)
def test_an_untrusted_server_is_refused_in_one_sentence(
    pair: Pair, authorities: Path, open_engine: Open, host: str, authority: str, cause: str
) -> None:
    options = f"?sslmode=verify-full&sslrootcert={authorities / authority}"
    with pytest.raises(HistoryUnavailable, match=f"is not trusted: .*{cause}; correct sslmode") as refused:
        migrate(open_engine(pair.url(options=options).replace("127.0.0.1", host)))
    assert f":{pair.database}@" not in str(refused.value)


def test_a_server_without_tls_is_refused_where_tls_is_required(
    postgres_server: Postgres, database: str, open_engine: Open
) -> None:
    url = postgres_server.url(database, database, database)
    with pytest.raises(HistoryUnavailable, match=r"is not trusted: .*server does not support SSL"):
        migrate(open_engine(f"{url}?sslmode=verify-full&sslrootcert=system"))


@pytest.mark.parametrize("options", ["", "?target_session_attrs=read-write"])
def test_a_standby_alone_is_refused_and_named(pair: Pair, open_engine: Open, options: str) -> None:
    port = pair.standby.port
    with pytest.raises(HistoryUnavailable, match=f"at 127.0.0.1:{port} takes no writes, as a standby does"):
        migrate(open_engine(pair.url(port, options=options)))


def test_absent_servers_are_all_named(pair: Pair, open_engine: Open) -> None:
    with pytest.raises(HistoryUnavailable, match=r"at 127\.0\.0\.1:1 or 127\.0\.0\.1:2 did not answer"):
        migrate(open_engine(pair.url(1, 2)))


def test_writes_follow_a_failover_to_the_new_primary(pair: Pair, open_engine: Open) -> None:
    """Of two hosts the one that takes writes is found, whichever is first."""
    options = "?target_session_attrs=read-write&sslmode=require"
    engine = open_engine(pair.url(pair.standby.port, pair.primary.port, options=options))
    migrate(engine)
    record(engine, make_run())
    pair.primary.stop()
    with pytest.raises(HistoryUnavailable):
        record(engine, make_run(status="Succeeded"))
    pair.standby.promote()
    record(engine, make_run(status="Succeeded"))
    assert load_run(engine).status == "Succeeded"
