"""The partitions of a collection in PostgreSQL: which there are, and how a new one takes the place of an old one."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.pgvector_tables import partition
from ctl_lightning.serving.catalogue.postgres import Statements, driver

if TYPE_CHECKING:
    from psycopg import sql

SWAPPING = 600
"""Seconds for which a moment is looked for in which nobody holds the table: a dump can hold it long."""


class Partitions:
    """The partitions of one collection, a table for each category.

    Args:
        do: statements of the connection that changes the collection, within a transaction.
        collection: name of the collection.
    """

    def __init__(self, do: Statements, collection: str) -> None:
        self._do, self._name, self._products = do, collection, do.table(collection)

    def swap(self, anew: Sequence[str], kept: Sequence[str]) -> None:
        """Puts the new tables of some categories in the place of old ones, and drops those of categories that are not kept."""
        from psycopg import sql

        names = {partition(self._name, category): category for category in anew}
        staying = {partition(self._name, category) for category in kept} - names.keys()
        drop = [name for name in self.names() if name not in staying]
        if drop:
            self._hold()
        for name in drop:
            self._do.run("DROP TABLE {}", self._do.table(name))
        for name, category in names.items():
            table = self._do.table(name)
            self._do.run("ALTER TABLE {} RENAME TO {}", self.new(category), sql.Identifier(name))
            self._do.run(
                "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES IN ({})",
                *(self._products, table, category),
            )
            self._do.run("ALTER TABLE {} DROP CONSTRAINT one", table)

    def _hold(self) -> None:
        """Locks the table of products against readers, who wait while it tries."""
        psycopg, deadline, patience = driver(), time.monotonic() + SWAPPING, 0.1
        while True:
            try:
                with self._do.connection.transaction():
                    self._do.run("SET LOCAL lock_timeout = {}", round(1000 * patience))
                    self._do.run("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", self._products)
                    return
            except psycopg.errors.LockNotAvailable:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"catalogue.collection={self._name}: somebody else has held its table for {SWAPPING // 60} minutes, a dump perhaps; run the "
                        "same command again when that is over"
                    ) from None
                time.sleep(9 * patience)  # readers wait for a tenth of the time at most
                patience = min(1.0, 1.2 * patience)  # longer than their looks take

    def names(self) -> list[str]:
        """Names of the partitions that there are."""
        return [
            name
            for (name,) in self._do.all(
                "SELECT c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid "
                "JOIN pg_class p ON p.oid = inhparent JOIN pg_namespace n ON n.oid = p.relnamespace "
                "WHERE (n.nspname, p.relname) = ({}, {})",
                *(self._do.schema, self._name),
            )
        ]

    def new(self, category: str) -> "sql.Identifier":
        """The table that is to take the place of a category's."""
        return self._do.table(f"{partition(self._name, category)}_new")
