"""The measured rights of each database role on rows of its own namespace and of others."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from support.postgres import Postgres
from support.stored_runs import NOW, load_run
from support.tenants import NAMESPACES, PASSWORD, Tenants, make_event, make_point, make_run, record_runs, tenants
from trainingtask_api.names import HISTORY_READER_ROLE, HISTORY_TRAINER_ROLE
from trainingtask_history.errors import HistoryError
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.roles import get_trainer_role
from trainingtask_history.store import record

__all__ = ["tenants"]

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"

ROWS = {
    "own open run": make_run("team-a", "-open"),
    "own finished run": make_run("team-a", "-done", status="Succeeded", finish_time=NOW, score=0.5),
    "other's open run": make_run("team-b", "-open"),
    "other's finished run": make_run("team-b", "-done", status="Succeeded", finish_time=NOW, score=0.5),
}
ROWS["own run of the past"] = make_run(
    "team-a", "-past", namespace_uid="ns", status="Succeeded", finish_time=NOW, score=0.5
)
NEW = "gen_random_uuid(), 'u', '{namespace}', 'new', 1, 'd', 'm', 'cpu', 'Running'"
COLUMNS = "id, task_uid, namespace, name, attempt, dataset, model, device, status"


def can_execute(engine: Engine, statement: str) -> bool:
    """Return whether a statement affects a row; it is rolled back."""
    with engine.connect() as connection:
        try:
            return connection.execute(text(statement)).rowcount > 0
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", "") not in ("42501", "P0001"):  # a missing right, or a final row
                raise
            return False


def measure_rights(engine: Engine, row: str) -> str:
    """Return what a role can do with a row, and with the events and points of its run."""
    key = ROWS[row].id
    run = {
        "read": f"SELECT id, spec, status FROM training_run WHERE id = '{key}'",
        "change": f"UPDATE training_run SET status = 'Failed', error_reason = 'x' WHERE id = '{key}'",
        "delete": f"DELETE FROM training_run WHERE id = '{key}'",
    }
    parts = {
        "add": (
            f"INSERT INTO run_event VALUES ('{key}', now(), 'Phase', 'Saving', '')",
            f"INSERT INTO metric_point VALUES ('{key}', 'training_loss', 2, 0.1)",
        ),
        "read curves": (
            f"SELECT 1 FROM run_event WHERE run_id = '{key}'",
            f"SELECT 1 FROM metric_point WHERE run_id = '{key}'",
        ),
        "change curves": (
            f"UPDATE run_event SET message = 'x' WHERE run_id = '{key}'",
            f"UPDATE metric_point SET value = 1 WHERE run_id = '{key}'",
        ),
    }
    found = [verb for verb, statement in run.items() if can_execute(engine, statement)]
    for verb, statements in parts.items():
        answers = {can_execute(engine, statement) for statement in statements}
        assert len(answers) == 1, f"events and curves differ: {verb} {row}"
        found += [verb] if answers == {True} else []
    return ", ".join(found) or "-"


def test_the_security_page_has_the_measured_rights_of_each_role(tenants: Tenants) -> None:
    record_runs(tenants.owner, *ROWS.values())
    tenants.execute("CREATE ROLE a_stranger LOGIN PASSWORD 'role-secret'")
    try:
        stranger = tenants.connect("a_stranger")
        engines = {"trainer of a namespace": tenants.a, "reader": tenants.reader, "any other role": stranger}
        measured = {
            (role, row): measure_rights(engine, row)
            for role, engine in (engines | {"operator": tenants.owner}).items()
            for row in ROWS
        }
    finally:
        tenants.execute("DROP ROLE a_stranger")
    lines = [line for line in SECURITY.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    (head,) = (row for row in cells if row[0] == "role")
    documented = {
        (row[0], column): cell
        for row in cells
        if row[0] in {role for role, _ in measured}
        for column, cell in zip(head[1:], row[1:], strict=True)
    }
    assert documented == measured


def test_a_trainer_creates_runs_in_its_own_namespace_alone(tenants: Tenants) -> None:
    def create(namespace: str) -> str:
        return f"INSERT INTO training_run ({COLUMNS}) VALUES ({NEW.format(namespace=namespace)})"

    assert can_execute(tenants.a, create("team-a"))
    assert not can_execute(tenants.a, create("team-b"))
    assert not can_execute(tenants.reader, create("team-a"))
    record(tenants.a, make_run("team-a"))
    with pytest.raises(HistoryError, match="row-level security"):
        record(tenants.a, make_run("team-b"))
    with pytest.raises(HistoryError, match="row-level security"):  # nor move a run there
        record(tenants.a, make_run("team-b", id=make_run("team-a").id))


def test_a_trainer_writes_its_run_from_start_to_end(tenants: Tenants) -> None:
    run = make_run("team-a", spec={"device": "cpu"})
    for _ in range(2):
        record(tenants.a, run, events=[make_event(run)], points=[make_point(run)])
    done = make_run("team-a", status="Succeeded", finish_time=NOW, total_time=2.0, score=0.75)
    record(tenants.a, done, events=[make_event(run, reason="Done")], points=[make_point(run, step=2)])
    row = load_run(tenants.owner)
    assert (row.status, row.score, row.total_time, row.spec) == ("Succeeded", 0.75, 2.0, {"device": "cpu"})
    with tenants.owner.connect() as connection:
        for table in ("run_event", "metric_point"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 2


FORBIDDEN = [
    "SELECT log_tail FROM training_run",
    "SELECT labels FROM training_run",
    "UPDATE training_run SET log_tail = 'mine'",
    "UPDATE training_run SET namespace_uid = 'another tenant'",
    "UPDATE training_run SET labels = '{}'",
    "TRUNCATE training_run",
    "SELECT * FROM alembic_version",
    "LOCK TABLE alembic_version",
    "LOCK TABLE training_run IN ACCESS EXCLUSIVE MODE",
    "CREATE TABLE public.mine (a int)",
    "ALTER TABLE training_run DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE training_run DISABLE TRIGGER ALL",
    "DROP POLICY own_rows ON training_run",
    "DROP TRIGGER training_run_final ON training_run",
    "SET ROLE trainingtask_reader",
    'SET ROLE "trainingtask_trainer_team-b"',
    "CREATE ROLE mine",
    "ALTER ROLE trainingtask_trainer LOGIN",
]


def test_a_trainer_is_denied_all_but_its_rows(tenants: Tenants) -> None:
    refusals = {statement: get_refusal(tenants.a, statement) for statement in FORBIDDEN}
    assert [s for s, refusal in refusals.items() if not re.search("permission denied|must be|must have", refusal)] == []


def get_refusal(engine: Engine, statement: str) -> str:
    """Return the error with which a statement is refused, "" if it is executed."""
    try:
        with engine.begin() as connection:
            connection.execute(text(statement))
    except DBAPIError as error:
        return str(error)
    return ""


def test_the_owner_limits_the_sessions_of_each_role(tenants: Tenants) -> None:
    roles = [get_trainer_role(namespace) for namespace in NAMESPACES] + [HISTORY_READER_ROLE]
    with tenants.owner.connect() as connection:
        found = connection.execute(
            text("SELECT rolname, rolconnlimit, rolconfig FROM pg_roles WHERE rolname = ANY(:roles)"), {"roles": roles}
        ).all()
    assert {row.rolname: row.rolconnlimit for row in found} == dict(zip(roles, (10, 10, 50), strict=True))
    for row in found:
        names = {setting.partition("=")[0] for setting in row.rolconfig}
        assert names == {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}


def test_a_password_is_renewed_at_the_next_start(tenants: Tenants, open_engine: Callable[..., Engine]) -> None:
    migrate(tenants.owner, {"team-a": "another-secret"})
    with pytest.raises(DBAPIError, match="password"):
        tenants.a.connect()
    renewed = open_engine(tenants.server.url(tenants.database, get_trainer_role("team-a"), "another-secret"))
    record(renewed, make_run("team-a"))
    record(tenants.b, make_run("team-b"))  # unchanged


def test_migrating_again_revokes_excess_rights(tenants: Tenants) -> None:
    with tenants.owner.begin() as connection:
        connection.execute(text(f"GRANT DELETE ON training_run TO {HISTORY_TRAINER_ROLE}"))
    migrate(tenants.owner)
    assert not can_execute(tenants.a, "DELETE FROM training_run")
    with tenants.owner.connect() as connection:
        whole = text(
            "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = :role"
        )
        additions = {("metric_point", "INSERT"), ("run_event", "INSERT")}
        assert {tuple(row) for row in connection.execute(whole, {"role": HISTORY_TRAINER_ROLE})} == additions


def close_to_public(server: Postgres, database: str) -> None:
    """Make who may connect to a database what the evaluation database had before each role got the right itself."""
    server.execute(
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO {HISTORY_TRAINER_ROLE}",
    )


def test_the_role_of_a_removed_namespace_loses_this_database(tenants: Tenants) -> None:
    close_to_public(tenants.server, tenants.database)
    with tenants.a.connect() as session, tenants.b.connect() as other:
        migrate(tenants.owner, {"team-b": PASSWORD})
        with pytest.raises(DBAPIError, match="terminating connection"):
            session.execute(text("SELECT 1"))
        other.execute(text("SELECT 1"))
    with pytest.raises(DBAPIError, match="permission denied for database"):
        tenants.a.connect()
    migrate(tenants.owner)  # by a program that does not know the namespaces
    with pytest.raises(DBAPIError, match="permission denied for database"):
        tenants.a.connect()
    record(tenants.b, make_run("team-b"))
    migrate(tenants.owner, dict.fromkeys(NAMESPACES, PASSWORD))
    record(tenants.a, make_run("team-a"))


def test_a_namespace_removed_here_keeps_its_role_in_another_database(
    tenants: Tenants, open_engine: Callable[..., Engine]
) -> None:
    """Another release's database on the same server, with another owner, may have a namespace of the same name."""
    role, other = get_trainer_role("team-a"), tenants.server.create_database()
    try:
        for database in (tenants.database, other):
            close_to_public(tenants.server, database)
        migrate(open_engine(tenants.server.url(other, other, other)), {"team-a": None})
        with open_engine(tenants.server.url(other, role, PASSWORD), pooled=False).connect() as session:
            migrate(tenants.owner, {})
            session.execute(text("SELECT 1"))
        record(open_engine(tenants.server.url(other, role, PASSWORD), pooled=False), make_run("team-a"))
        with pytest.raises(DBAPIError, match="permission denied for database"):
            tenants.a.connect()
    finally:
        tenants.server.execute(f"DROP DATABASE {other} WITH (FORCE)")


def test_roles_that_the_owner_cannot_keep_out_are_named(tenants: Tenants, caplog: pytest.LogCaptureFixture) -> None:
    """The database belongs to the admin, who left it to everybody; the warning has the SQL that closes it."""
    tenants.execute(
        f"ALTER DATABASE {tenants.database} OWNER TO postgres", f"ALTER SCHEMA public OWNER TO {tenants.database}"
    )
    migrate(tenants.owner, dict.fromkeys(NAMESPACES, PASSWORD))
    assert caplog.messages == []
    migrate(tenants.owner, {"team-b": PASSWORD})
    record(tenants.a, make_run("team-a"))
    (warning,) = caplog.messages
    assert get_trainer_role("team-a") in warning
    tenants.execute(*re.findall(r"(?:GRANT|REVOKE) [^;]+", warning))
    with pytest.raises(DBAPIError, match="permission denied for database"):
        tenants.a.connect()
    record(tenants.b, make_run("team-b"))
    tenants.reader.connect().close()
    caplog.clear()
    migrate(tenants.owner, {"team-b": PASSWORD})
    assert caplog.messages == []


def test_a_run_of_the_past_is_hidden_from_the_next_tenant_of_its_namespace(tenants: Tenants) -> None:
    """An hour after its end, so that the trainer itself can write the end, and repeat it."""
    ends = {key: datetime.now(UTC) - timedelta(minutes=minutes) for key, minutes in (("-now", 50), ("-past", 70))}
    former = {"namespace_uid": "uid-of-the-former-namespace", "spec": {"secret": "plan"}}
    record(tenants.owner, make_run("team-a", "-now", **former))
    for _ in range(2):
        record(tenants.a, make_run("team-a", "-now", status="Succeeded", finish_time=ends["-now"]))
    past = make_run("team-a", "-past", status="Succeeded", finish_time=ends["-past"], **former)
    record_runs(tenants.owner, past)
    record(tenants.a, make_run("team-a", "-past", status="Failed", finish_time=ends["-past"]))  # repeated: ignored
    with tenants.a.begin() as connection:
        assert connection.execute(text("SELECT name FROM training_run")).scalars().all() == ["task-now"]
        assert connection.execute(text("UPDATE training_run SET phase = 'x' WHERE name <> 'task-now'")).rowcount == 0
    with tenants.reader.connect() as connection:
        status = connection.execute(text("SELECT status FROM training_run WHERE name = 'task-past'"))
        assert status.scalars().all() == ["Succeeded"]


def test_a_role_may_change_its_own_password_until_the_next_start(tenants: Tenants) -> None:
    with tenants.a.begin() as connection:
        connection.execute(text("ALTER ROLE CURRENT_USER PASSWORD 'another'"))
    with pytest.raises(DBAPIError, match="password"):
        tenants.a.connect()
    migrate(tenants.owner, dict.fromkeys(NAMESPACES, PASSWORD))
    record(tenants.a, make_run("team-a"))


@pytest.mark.parametrize("namespace", ["n" * 42, "n" * 43, "n" * 63, "a-" * 31 + "b"])
def test_a_namespace_with_a_long_name_has_a_role(
    tenants: Tenants, namespace: str, open_engine: Callable[..., Engine]
) -> None:
    role = get_trainer_role(namespace)
    assert len(role) <= 63
    migrate(tenants.owner, {namespace: PASSWORD})
    try:
        record(tenants.connect(role), make_run(namespace))
    finally:
        tenants.execute(f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


def test_an_owner_without_createrole_leaves_roles_to_the_admin(
    postgres: Engine, postgres_server: Postgres, open_engine: Callable[..., Engine]
) -> None:
    migrate(postgres, {"team-a": PASSWORD})
    role, database = get_trainer_role("team-a"), str(postgres.url.database)
    postgres_server.execute(
        f"CREATE ROLE {HISTORY_TRAINER_ROLE}",
        f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{PASSWORD}' IN ROLE {HISTORY_TRAINER_ROLE}",
    )
    try:
        migrate(postgres, {"team-a": "ignored"})
        trainer = open_engine(postgres_server.url(database, role, PASSWORD), pooled=False)
        record(trainer, make_run("team-a"))
        with pytest.raises(HistoryError, match="row-level security"):
            record(trainer, make_run("team-b"))
    finally:
        for name in (role, HISTORY_TRAINER_ROLE):
            postgres_server.execute(f'DROP OWNED BY "{name}"', database=database)
            postgres_server.execute(f'DROP ROLE "{name}"')
