"""The files of a catalogue: vectors, products, and `catalogue.json`, which says what they are.

One memory-mapped file holds one vector per product, sorted by category; another their codes (see codes.py); an SQLite
file beside them holds the products' ids and images. Files are never changed, only replaced, `catalogue.json` last: a process that has a catalogue open goes
on with the one that it opened.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from ctl_lightning.data.images import UNNAMED
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import mapped_array, write_text
from ctl_lightning.runtime.reading import read_json

Vectors = NDArray[np.float32]

Bonus = NDArray[np.float64]
"""What is taken off the distance of each product of a category, for the rank alone, (n,)."""

BackendName = Literal["exact", "faiss", "qdrant", "pgvector"]
"""How a catalogue is searched: with one matrix product, with FAISS graphs, in Qdrant, or in PostgreSQL with pgvector."""

MANIFEST = "catalogue.json"
METRIC = "distance = 2 - query · vector"

FORMAT = 2
"""Version of the file format: raised when the format changes, so that another version refuses it and does not misread it."""

READABLE = (1, FORMAT)
"""Versions of the file format that are read; the first has no codes."""


class Hit(NamedTuple):
    """A product that a search found.

    Attributes:
        product: id of the product.
        image: file of its catalogue photo.
        vector: its vector f_p, (D,).
        distance: distance between the query and the product.
        bonus: what is taken off the distance for the rank; see `FavouringCatalogue`.
    """

    product: str
    image: Path
    vector: Vectors
    distance: float
    bonus: float = 0.0


class Found(NamedTuple):
    """A product that was looked up by its id.

    Attributes:
        product: id of the product.
        category: name of its category.
        image: file of its catalogue photo.
        vector: its vector f_p, (D,).
    """

    product: str
    category: str
    image: Path
    vector: Vectors


class Scale(NamedTuple):
    """How codes stand for the vectors v of a category: v̂ = step · code.

    Attributes:
        step: step s, above 0.
        rest: the largest |v - v̂|.
        norm: the largest |v̂|.
    """

    step: float
    rest: float
    norm: float


class Catalogue(Protocol):
    """Interface of a catalogue that can be searched."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Category -> number of its products, more than 0."""

    def search(self, queries: Vectors, category: str, k: int) -> list[list[Hit]]:
        """The k products of a category that are nearest to each query q, (B, D), nearest first; all of them if it has fewer."""

    def find(self, products: Sequence[str]) -> dict[str, Found]:
        """The products with some ids, by id; without those that the catalogue does not have."""

    def snapshot(self) -> "AbstractContextManager[Catalogue]":
        """The catalogue as it is now: what is read from it is of one state, whoever changes the catalogue meanwhile."""

    def check(self) -> None:
        """Raises InputError if it cannot be searched now, such as when its server does not answer."""

    def close(self) -> None:
        """Closes files and connections; it is not searched any more."""


@dataclass(frozen=True)
class Manifest:
    """Content of `catalogue.json`.

    Attributes:
        identity: what the vectors depend on; see `Encoder.identity`.
        dim: length D of a vector.
        slices: category -> its first row, and the row after its last one.
        vectors: name of the file of all vectors, (N, D) float32.
        products: name of the file of product ids and images.
        backend: how the catalogue is searched.
        codes: name of the file of all codes, (N, D) int8; None: there is none.
        scales: category -> how its codes stand for its vectors; empty without codes.
        graphs: categories with a graph: for "faiss", category -> name of its two graph files, without .faiss and .npy;
            for "pgvector", category -> name of its partition.
        hnsw: for "faiss" and "pgvector": options of the graphs; see `Backend`.
        qdrant: for "qdrant": server address, collection and part; see `Backend`.
        database: for "pgvector": address of the database, without a password, and collection; see `Backend`.
    """

    identity: dict[str, Any]
    dim: int
    slices: dict[str, tuple[int, int]]
    vectors: str
    products: str
    backend: BackendName = "exact"
    codes: str | None = None
    scales: dict[str, Scale] = field(default_factory=dict)
    graphs: dict[str, str] = field(default_factory=dict)
    hnsw: dict[str, int] = field(default_factory=dict)
    qdrant: dict[str, str | None] = field(default_factory=dict)
    database: dict[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Category -> number of its products."""
        return {category: end - start for category, (start, end) in self.slices.items()}

    def write(self, folder: Path) -> None:
        """Writes `catalogue.json`, which makes this the folder's current catalogue."""
        content = {"format": FORMAT, "metric": METRIC, "counts": self.counts, **asdict(self)}
        if not self.database:
            del content["database"]  # versions that do not know it read the others
        write_text(folder / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """Reads `catalogue.json` of a folder; None: there is none. Raises InputError: unreadable, or of another revision."""
        path = folder / MANIFEST
        try:
            content = read_json(path)
            if content.pop("format") not in READABLE:
                raise ValueError("another revision of ctl_lightning wrote it")
            slices = {category: (start, end) for category, (start, end) in content.pop("slices").items()}
            scales = {category: Scale(*map(float, scale)) for category, scale in content.pop("scales", {}).items()}
            del content["metric"], content["counts"]
            if content["backend"] not in get_args(BackendName) or not isinstance(content["identity"], dict):
                raise ValueError(f"backend {content['backend']!r}, identity {str(content['identity'])[:40]!r}")
            return cls(slices=slices, scales=scales, **content)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, InputError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"catalogue={folder}: {MANIFEST} cannot be read ({' '.join(str(error).split())}); make the catalogue anew in "
                "another folder"
            ) from None


def check_identity(folder: Path, manifest: Manifest, identity: Mapping[str, Any]) -> None:
    """Raises InputError if other weights, or photos cut in another way, made the vectors: distances to them would mean nothing."""
    if manifest.identity == identity:
        return
    photos, ours = (one.get("photos") for one in (manifest.identity, identity))
    if isinstance(photos, dict) and isinstance(ours, dict) and manifest.identity | {"photos": ours} == identity:
        raise InputError(
            f"catalogue={folder}: its photos were cut with {_differing(photos, ours)}; give the checkpoint "
            "that it was made with, or make a catalogue for this one in another folder"
        )
    theirs, given = (
        f"{one.get('method')}, weights {str(one.get('weights'))[:12]}, photos {one.get('photos')}"
        for one in (manifest.identity, identity)
    )
    raise InputError(
        f"catalogue={folder}: its vectors are of another checkpoint ({theirs}; ckpt_path is {given}); give the checkpoint that it was made with, or make a catalogue "
        "for this one in another folder"
    )


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The options in which photos of a catalogue and of a checkpoint differ, with the value of each."""
    theirs, ours = ({"interpolation": UNNAMED, **photos} for photos in (theirs, ours))
    return ", ".join(
        f"{name}={theirs.get(name)} (ckpt_path: {ours.get(name)})"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    )


class Listed(NamedTuple):
    """A row of the file of products; `version` holds the size and time of the image file."""

    product: str
    category: str
    image: str
    version: str

    @property
    def photo(self) -> tuple[str, str, str]:
        """What the vector depends on: products that agree in it have equal vectors."""
        return self.product, self.image, self.version


def write_products(path: Path, products: Sequence[Listed]) -> None:
    """Writes the file of products, in the order of the rows. Raises InputError: the disk is full, or cannot be written to."""
    path.unlink(missing_ok=True)
    try:
        _insert(path, products)
    except sqlite3.OperationalError as error:
        raise InputError(f"{path}: cannot be written ({error}); make room and run the command again") from None


def _insert(path: Path, products: Sequence[Listed]) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE products (row INTEGER PRIMARY KEY, product TEXT, category TEXT, image TEXT, version TEXT)"
        )
        with database:
            database.executemany(
                "INSERT INTO products VALUES (?, ?, ?, ?, ?)", ((row, *one) for row, one in enumerate(products))
            )
            database.execute("CREATE INDEX row_of_product ON products (product)")


def open_products(path: Path) -> sqlite3.Connection:
    """Opens a file of products for reading, from any thread."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def all_products(products: sqlite3.Connection) -> list[Listed]:
    """All products of a file of products, in the order of the rows."""
    return [
        Listed(*row) for row in products.execute("SELECT product, category, image, version FROM products ORDER BY row")
    ]


def open_files(folder: Path, manifest: Manifest) -> tuple[Vectors, sqlite3.Connection]:
    """Opens the vectors, (N, D), memory-mapped, and the file of products. Raises InputError: missing or broken files."""
    try:
        vectors: Vectors = mapped_array(folder / manifest.vectors)
        products = open_products(folder / manifest.products)
        count = max(end for _, end in manifest.slices.values())
        products.execute("SELECT product, category, image, version FROM products LIMIT 1").fetchone()
        last = products.execute("SELECT MAX(row) FROM products").fetchone()[0]
        if (last, vectors.shape) != (count - 1, (count, manifest.dim)):
            raise ValueError(f"last product {last}, vectors {vectors.shape}, expected {count} of {manifest.dim}")
    except (OSError, ValueError, TypeError, sqlite3.Error) as error:
        raise InputError(
            f"catalogue={folder}: a file of it is missing or broken ({' '.join(str(error).split())}); make the catalogue anew in "
            "another folder"
        ) from None
    return vectors, products
