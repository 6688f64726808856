"""Opens a folder's catalogue with what searches it."""

from dataclasses import replace
from pathlib import Path

from ctl_lightning.runtime.addresses import without_password
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import BackendName, Catalogue, Manifest, check_identity
from ctl_lightning.serving.catalogue.hnsw import GraphCatalogue
from ctl_lightning.serving.catalogue.pgvector import PgvectorCatalogue
from ctl_lightning.serving.catalogue.qdrant import QdrantCatalogue
from ctl_lightning.serving.encoder import Encoder

BACKENDS: dict[BackendName, type[ExactCatalogue] | type[QdrantCatalogue] | type[PgvectorCatalogue]] = {
    "exact": ExactCatalogue,
    "faiss": GraphCatalogue,
    "qdrant": QdrantCatalogue,
    "pgvector": PgvectorCatalogue,
}


def open_catalogue(folder: Path, encoder: Encoder, url: str | None) -> Catalogue:
    """Opens a catalogue of an encoder's vectors.

    Args:
        folder: folder of the catalogue.
        encoder: encoder of the checkpoint.
        url: address of the Qdrant server or PostgreSQL database, if it has moved since the catalogue was made, or is to
            be searched on another machine.

    Raises:
        InputError: there is no catalogue, it is broken, or of another checkpoint.
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        raise InputError(
            f"catalogue={folder}: there is no catalogue; make one with python -m ctl_lightning.catalogue "
            f"ckpt_path={encoder.trained.path} catalogue={folder}"
        )
    check_identity(folder, manifest, encoder.identity())
    moved = manifest
    if url is not None and manifest.backend == "qdrant":
        moved = replace(manifest, qdrant=manifest.qdrant | {"url": url})
    elif url is not None and manifest.backend == "pgvector":
        moved = replace(manifest, database=manifest.database | {"url": url})
    elif url is not None:
        raise InputError(
            f"catalogue.url={without_password(url)[0]}: catalogue={folder} is not in Qdrant or PostgreSQL; leave it out"
        )
    try:
        return BACKENDS[manifest.backend](folder, moved)
    except InputError:
        if Manifest.read(folder) == manifest:
            raise
        return open_catalogue(folder, encoder, url)  # it was replaced while it was opened
