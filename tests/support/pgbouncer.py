"""PgBouncer in transaction mode before a temporary Postgres (Debian: `apt-get install pgbouncer`)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from support.kubectl import eventually
from support.ports import free_port
from support.postgres import Postgres

_PROGRAM = "/usr/sbin/pgbouncer"


@contextmanager
def run_pgbouncer(postgres: Postgres, database: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a database behind PgBouncer, which gives each transaction one of two sessions."""
    port = free_port()
    (folder / "users.txt").write_text(f'"{database}" "{database}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
        [databases]
        {database} = host=127.0.0.1 port={postgres.port}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = scram-sha-256
        auth_file = {folder}/users.txt
        pool_mode = transaction
        default_pool_size = 2
        """.replace("        ", "")
    )
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    if user:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, user)
    url = f"postgresql+psycopg://{database}:{database}@127.0.0.1:{port}/{database}"
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [_PROGRAM, str(folder / "pgbouncer.ini")], stdout=log, stderr=log, user=user, cwd=folder
        ) as process,
    ):
        try:
            eventually("PgBouncer accepts connections", lambda: process.poll() is None and _accepts_connections(url))
            yield url
        finally:
            process.terminate()


def _accepts_connections(url: str) -> bool:
    engine = create_engine(url)
    try:
        engine.connect().close()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True
