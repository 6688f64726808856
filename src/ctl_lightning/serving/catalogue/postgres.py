"""How a PostgreSQL server is reached, and what it says when something is wrong, in one line."""

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ctl_lightning.runtime.addresses import PLAIN, without_password
from ctl_lightning.runtime.errors import InputError

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

SECONDS = 2
"""How long a host that does not answer is waited for. One that is away says so at once."""

OLDEST = (0, 8)
"""The first version of pgvector whose scans of a graph go on until they have found enough (hnsw.iterative_scan)."""

CONNECTIONS = 8
"""Connections that one process has at most; more threads wait for their turn: the server has a core for few of them."""

READER = {
    "tcp_user_timeout": "2000",  # milliseconds; a host that has vanished is noticed, and the next one asked
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}

ADVICE = (
    ("28P01", r"password authentication failed|no password supplied", "give it in PGPASSWORD, or in ~/.pgpass"),
    ("3D000", r'database ".*" does not exist', "make it with createdb, or give another"),
    ("25006", r"read-only transaction", "give the primary, which can be written to"),
    ("42501", r"permission denied", "docs/catalogues.md lists the rights that are needed"),
    ("53100", r"No space left", "make room, and run the same command again"),
    ("57014", r"statement timeout", "the server has too much to do"),
    ("42704", r"vector type not found", "name the schema of pgvector too, with ?options=-csearch_path%3DNAME,public"),
    (
        "42703",
        r"column .* does not exist",
        "a table of that name that is another's comes first in this user's search_path",
    ),
    ("42P07", r"relation .* already exists", "it is no part of the collection any more; drop or rename it"),
)
"""SQLSTATE, what a server says, and how it is mended."""


def address(url: str | None) -> str:
    """The address without its password. Raises InputError: it is none of PostgreSQL, or can be read in two ways."""
    shown = without_password(url)[0] if url else None
    if not url or not shown or not re.match(r"postgres(ql)?://", url):
        raise InputError(f"catalogue.url={shown}: catalogue.backend=pgvector needs postgresql://HOST/DATABASE")
    if not PLAIN.fullmatch(url):
        raise _unreadable(shown)
    return shown


def _unreadable(shown: str) -> InputError:
    return InputError(
        f"catalogue.url={shown}: libpq cannot read this address; give postgresql://USER@HOST:PORT/DATABASE, with % codes for special characters"
    )


def connect(url: str, parameters: Mapping[str, str] | None = None, **options: Any) -> "psycopg.Connection[Any]":
    """A connection that knows pgvector's type.

    Args:
        url: address, postgresql://USER@HOST:PORT/DATABASE; with several hosts, the first that answers.
        parameters: parameters of libpq that count where the address does not name them.
        options: options of `psycopg.connect`.

    Raises:
        InputError: psycopg is missing, or the database, or pgvector in it; a wrong address or password.
    """
    psycopg = driver()
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it would warn of a lost connection, which is made again
    with told(url):
        connection = psycopg.connect(**_parameters(url, parameters or {}), **options)
    try:
        with told(url):
            _check_extension(url, connection)
            from pgvector.psycopg import register_vector

            register_vector(connection)
            if not connection.autocommit:
                connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _parameters(url: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    shown = address(url)
    ours = {"connect_timeout": str(SECONDS), "client_encoding": "utf-8", "application_name": "ctl_lightning"}
    try:
        # Nothing is prepared: a plan would outlive the settings it was made for, and PgBouncer would not know it.
        return {**ours, **parameters, **conninfo_to_dict(url), "prepare_threshold": None}
    except ProgrammingError:  # its message may hold the password
        raise _unreadable(shown) from None


def hosts(url: str) -> int:
    """Number of hosts of an address, which are tried one after the other."""
    return 1 + str(_parameters(url, {}).get("host", "")).count(",")


def _check_extension(url: str, connection: "psycopg.Connection[Any]") -> None:
    found = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    if found is None:
        raise InputError(
            f"catalogue.url={address(url)}: pgvector is missing in this database; have its owner run CREATE EXTENSION vector"
        )
    if tuple(map(int, re.findall(r"\d+", found[0])[:2])) < OLDEST:
        raise InputError(
            f"catalogue.url={address(url)}: its pgvector is {found[0]}, and {'.'.join(map(str, OLDEST))} is needed; install that, and "
            "run ALTER EXTENSION vector UPDATE"
        )


def driver() -> Any:
    """Imports psycopg. Raises InputError: it is not installed, or pgvector's part of it."""
    try:
        import pgvector.psycopg  # noqa: F401
        import psycopg
    except ImportError:
        raise InputError(
            "catalogue.backend=pgvector: its client is not installed; pip install 'ctl_lightning[pgvector]'"
        ) from None
    return psycopg


def prepare(url: str) -> None:
    """Looks whether a database can be changed, and makes the extension in it if it is missing.

    Raises:
        InputError: it cannot be reached, or not be changed, or has no pgvector and may not get it.
    """
    psycopg = driver()
    with told(url), psycopg.connect(**_parameters(url, {}), autocommit=True) as connection:
        if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
            raise InputError(
                f"catalogue.url={address(url)}: it is a standby, which only reads; give the primary, or the addresses of both with "
                "?target_session_attrs=read-write"
            )
        if connection.execute("SELECT current_schema()").fetchone() == (None,):
            raise InputError(
                f"catalogue.url={address(url)}: this user has no schema for tables; make one, and name it with ?options=-csearch_path%3DNAME,public"
            )
        if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone() is None:
            try:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except psycopg.Error as error:
                raise InputError(
                    f"catalogue.url={address(url)}: pgvector is missing in this database, and this user cannot make it ({said(error)}); "
                    "have an administrator install it and run CREATE EXTENSION vector"
                ) from None
        _check_extension(url, connection)


def said(error: "psycopg.Error") -> str:
    """What a server said, or why there is none, in one line."""
    line = " ".join((error.diag.message_primary or str(error) or "no answer").split())
    return re.sub(r" Is the server running [^?]*\?", "", line)[:300]


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turns what a server says, or that it says nothing, into an InputError of one line, without a password."""
    psycopg = driver()
    try:
        yield
    except psycopg.Error as error:
        line = said(error)
        mended = (advice for state, text, advice in ADVICE if error.sqlstate == state or re.search(text, line))
        other = "mend that" if error.sqlstate else "start the server, or give another address"
        advice = next(mended, f"{other}, and run the same command again")
        raise InputError(f"catalogue.url={address(url)}: {line}; {advice}") from None


class Connections:
    """Connections of one process for reading, which its threads use in turn.

    Unlike a pool with threads of its own it connects when it is asked, so the reason why it cannot is told at once, and
    a server that is back is used at once.

    Args:
        url: address of the database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[psycopg.Connection[Any]] = []
        self._closed = False
        self._turns = threading.BoundedSemaphore(CONNECTIONS)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The right to one connection."""
        with self._turns:
            yield

    def take(self, fresh: bool = False) -> "psycopg.Connection[Any]":
        """A connection for transactions that only read, each in one snapshot. Raises InputError as `connect`.

        Args:
            fresh: whether it must be a new one: those of before are closed, as the server was lost.
        """
        if fresh:
            self._close_idle()
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def _new(self) -> "psycopg.Connection[Any]":
        connection = connect(self._url, READER)
        connection.isolation_level = driver().IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        return connection

    def give_back(self, connection: "psycopg.Connection[Any]") -> None:
        """Gives a connection back, in whatever state it is."""
        try:
            connection.rollback()
        except driver().Error:
            connection.close()
        if not connection.closed:
            self._idle.append(connection)
        if self._closed:
            self._close_idle()

    def close(self) -> None:
        """Closes those that nobody uses, and the others when they are given back."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class Statements:
    """Statements of one connection. Each {} in one stands for a table, or for a value.

    Args:
        connection: the connection.
    """

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self.connection = connection
        self.schema = self.one("SELECT current_schema()")

    def table(self, name: str) -> "sql.Identifier":
        """The table of a name in the user's own schema, whatever else has that name."""
        from psycopg import sql

        return sql.Identifier(self.schema, name)

    def run(self, statement: str, *given: Any) -> "psycopg.Cursor[Any]":
        """Runs a statement."""
        from psycopg import sql

        parts = [one if isinstance(one, sql.Composable) else sql.Literal(one) for one in given]
        return self.connection.execute(sql.SQL(statement).format(*parts))

    def all(self, statement: str, *given: Any) -> list[Any]:
        """All rows of a query."""
        return self.run(statement, *given).fetchall()

    def one(self, statement: str, *given: Any) -> Any:
        """The first value of the first row of a query; None: there is no row."""
        row = self.run(statement, *given).fetchone()
        return None if row is None else row[0]
