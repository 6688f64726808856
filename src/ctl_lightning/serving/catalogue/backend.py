"""How a catalogue is to be searched: the options of what searches it, as they are given and as they were before."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.files import BackendName, Manifest
from ctl_lightning.serving.catalogue.pgvector_tables import check_name
from ctl_lightning.serving.catalogue.postgres import address

HNSW: Mapping[str, Mapping[str, int]] = {
    "faiss": {"from": 1_000_000, "links": 32, "build": 100, "search": 128},
    "pgvector": {"from": 10_000, "links": 16, "build": 128, "search": 200},
}
"""Backend -> options of its graphs."""

SERVER: Mapping[str, Mapping[str, str | None]] = {
    "qdrant": {"url": None, "collection": "products", "part": "all"},
    "pgvector": {"url": None, "collection": "products"},
}
"""Backend -> options of its server."""

LIMITS = {"links": (2, 100), "build": (4, 1000), "search": (1, 1000)}
"""The smallest and the largest value of an option of pgvector's graphs."""


class Searching(NamedTuple):
    """How a catalogue is searched, complete.

    Attributes:
        name: name of the backend.
        hnsw: options of its graphs; empty: it has none.
        qdrant: options of "qdrant"; empty for others.
        database: options of "pgvector", without a password; empty for others.
        url: address of the database, with the password if it was given in it; empty for others.
    """

    name: BackendName
    hnsw: dict[str, int]
    qdrant: dict[str, str | None]
    database: dict[str, str]
    url: str


class Backend(NamedTuple):
    """How a catalogue is to be searched. What is None stays as in the old catalogue, or is the default.

    Attributes:
        name: "exact", "faiss", "qdrant" or "pgvector".
        hnsw: options of "faiss" and "pgvector": "from" (smallest number of products with which a category gets a graph),
            "links", "build", "search"; see `Graph`.
        server: options of "qdrant" and "pgvector": "url" (Qdrant, None: its local mode), "collection", and Qdrant's
            "part"; see the two's `upload`.
    """

    name: BackendName | None
    hnsw: dict[str, int | None]
    server: dict[str, str | None]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Backend":
        """Reads the backend from the options of group `catalogue` in conf/catalogue.yaml."""
        return cls(
            options["backend"],
            {name: options[f"hnsw_{name}"] for name in HNSW["faiss"]},
            {name: options[name] for name in SERVER["qdrant"]},
        )

    def resolved(self, old: Manifest | None) -> Searching:
        """The backend with all its options; None becomes what the old catalogue has, or the default.

        Raises:
            InputError: an option of another backend, or a value that pgvector does not know.
        """
        name = self.name or (old.backend if old is not None else "exact")
        before = old if old is not None and old.backend == name else None
        hnsw = _resolved("hnsw_", self.hnsw, name, HNSW, before.hnsw if before else {})
        was = (before.database or before.qdrant) if before else {}
        server = _resolved("", self.server, name, SERVER, was)
        if name != "pgvector":
            return Searching(name, hnsw, server, {}, "")
        _check_limits(hnsw)
        shown = address(server["url"])
        check_name(str(server["collection"]))
        return Searching(name, hnsw, {}, {"url": shown, "collection": str(server["collection"])}, str(server["url"]))


def _resolved(
    prefix: str, given: Mapping[str, Any], name: str, defaults: Mapping[str, Mapping[str, Any]], was: Mapping[str, Any]
) -> dict[str, Any]:
    """Some options of a backend. Raises InputError: one is given that it does not have."""
    own = defaults.get(name, {})
    chosen = {key: value for key, value in given.items() if value is not None}
    for key in chosen:
        if key not in own:
            others = " or ".join(other for other, options in defaults.items() if key in options)
            raise InputError(
                f"catalogue.{prefix}{key} is an option of catalogue.backend={others}, and this one is {name}"
            )
    return {**own, **was, **chosen}


def _check_limits(hnsw: Mapping[str, int]) -> None:
    """Raises InputError: an option of the graphs that pgvector refuses."""
    for key, (least, most) in LIMITS.items():
        if not least <= hnsw[key] <= most:
            raise InputError(f"catalogue.hnsw_{key}={hnsw[key]}: pgvector knows {least} to {most}")
    if hnsw["build"] < 2 * hnsw["links"]:
        raise InputError(
            f"catalogue.hnsw_build={hnsw['build']}: pgvector needs at least twice catalogue.hnsw_links={hnsw['links']}"
        )
