"""The tables of a catalogue in PostgreSQL.

A collection is one table of products, partitioned by category, so that each category has a graph of its own (one of all
with a filter would lose products that it looks for). Products with one photo have the same `twin`, and the first of them
`stands` for all in the graph: hundreds of equal nodes would link only to each other, and be found or lost as one. And
one row in the table of collections, which is changed in the same transaction.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.files import Manifest

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

COLLECTIONS = "ctl_lightning_collections"
"""Table of collections."""

FORMAT = 1
"""Version of the tables: raised when they change, so that another version refuses them."""

LONGEST = 40
"""Bytes that a collection's name has at most: those of its partitions add a hash, and PostgreSQL cuts names at 63."""

COLUMNS = "product, category, image, version, position, twin, stands, vector"


class Collection(NamedTuple):
    """A row of the table of collections.

    Attributes:
        owner: id of the folder that changes it.
        state: another id after every change.
        identity: what the vectors depend on; see `Encoder.identity`.
        dim: length D of a vector.
        counts: category -> number of its products.
        graphs: categories that have a graph.
        links: links of each product in the graphs.
        build: candidates while the graphs were built.
    """

    owner: str
    state: str
    identity: dict[str, Any]
    dim: int
    counts: dict[str, int]
    graphs: list[str]
    links: int
    build: int


MAKE_COLLECTIONS = """CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, format int NOT NULL, owner text NOT NULL, state text NOT NULL,
identity jsonb NOT NULL, dim int NOT NULL, counts jsonb NOT NULL, graphs jsonb NOT NULL, links int NOT NULL, build int NOT NULL)"""

MAKE_PRODUCTS = """CREATE TABLE {} (product text NOT NULL, category text NOT NULL, image text NOT NULL, version text NOT NULL,
position bigint NOT NULL, twin bigint NOT NULL, stands boolean NOT NULL, vector vector({}) NOT NULL, PRIMARY KEY (product, category)) PARTITION BY LIST (category)"""


def partition(collection: str, category: str) -> str:
    """Name of the partition of a category, which may be named in any way."""
    return f"{collection}_{sha256(category.encode()).hexdigest()[:12]}"


def check_name(collection: str) -> None:
    """Raises InputError: the name of a collection is too long for a table with partitions."""
    if len(collection.encode()) > LONGEST:
        raise InputError(f"catalogue.collection={collection}: give a name of at most {LONGEST} bytes")


def read_collection(
    connection: "psycopg.Connection[Any]", collections: "sql.Identifier", name: str
) -> Collection | None:
    """The row of a collection; None: there is none. Raises InputError: another version of ctl_lightning wrote it."""
    from psycopg import rows, sql

    query = sql.SQL("SELECT * FROM {} WHERE name = %s").format(collections)  # another version has other columns
    row = connection.cursor(row_factory=rows.dict_row).execute(query, [name]).fetchone()
    if row is None:
        return None
    if row.get("format") != FORMAT:
        raise InputError(
            f"catalogue.collection={name}: another version of ctl_lightning wrote it; give another name, and this version makes it anew"
        )
    return Collection(**{field: row[field] for field in Collection._fields})


def write_collection(
    connection: "psycopg.Connection[Any]", collections: "sql.Identifier", name: str, collection: Collection
) -> None:
    """Writes the row of a collection."""
    from psycopg import sql
    from psycopg.types.json import Jsonb

    values = {"name": name, "format": FORMAT, **collection._asdict()}
    values = {key: Jsonb(value) if isinstance(value, (dict, list)) else value for key, value in values.items()}
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (name) DO UPDATE SET {}").format(
            collections,
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Placeholder, values)),
            sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(key)) for key in values),
        ),
        values,
    )


def check_identity(name: str, collection: Collection, identity: Mapping[str, Any]) -> None:
    """Raises InputError: other weights, or photos cut in another way, made the vectors of a collection."""
    if collection.identity != identity:
        theirs = f"{collection.identity.get('method')}, weights {str(collection.identity.get('weights'))[:12]}"
        raise InputError(
            f"catalogue.collection={name}: its vectors are of another checkpoint ({theirs}, photos {collection.identity.get('photos')}); give "
            "another name, or the checkpoint that they are of"
        )


def check_collection(manifest: Manifest, collection: Collection) -> None:
    """Raises InputError: the vectors of a collection are of another length than the catalogue's, or of another checkpoint."""
    name = manifest.database["collection"]
    if collection.dim != manifest.dim:
        raise InputError(
            f"catalogue.collection={name}: its vectors have {collection.dim} numbers, those of the checkpoint {manifest.dim}; give another name"
        )
    check_identity(name, collection, manifest.identity)


def local_settings(settings: Mapping[str, object]) -> list["sql.Composed"]:
    """Statements that set parameters of the server until the end of a transaction."""
    from psycopg import sql

    return [
        sql.SQL("SET LOCAL {} = {}").format(
            sql.SQL(".").join(map(sql.Identifier, name.split("."))), sql.Literal(str(value))
        )
        for name, value in settings.items()
    ]
