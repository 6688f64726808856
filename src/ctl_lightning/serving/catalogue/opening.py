"""Opens a folder's catalogue with what searches it."""

from dataclasses import replace
from pathlib import Path

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import BackendName, Catalogue, Manifest, check_identity
from ctl_lightning.serving.catalogue.hnsw import GraphCatalogue
from ctl_lightning.serving.catalogue.qdrant import QdrantCatalogue
from ctl_lightning.serving.encoder import Encoder

BACKENDS: dict[BackendName, type[ExactCatalogue] | type[QdrantCatalogue]] = {
    "exact": ExactCatalogue,
    "faiss": GraphCatalogue,
    "qdrant": QdrantCatalogue,
}


def open_catalogue(folder: Path, encoder: Encoder, url: str | None) -> Catalogue:
    """Opens a catalogue of an encoder's vectors.

    Args:
        folder: folder of the catalogue.
        encoder: encoder of the checkpoint.
        url: address of the Qdrant server, if it has moved since the catalogue was made.

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
    if url is not None and manifest.backend != "qdrant":
        raise InputError(f"catalogue.url={url}: catalogue={folder} is not in Qdrant; leave it out")
    try:
        where = manifest.qdrant | {"url": url} if url is not None else manifest.qdrant
        return BACKENDS[manifest.backend](folder, replace(manifest, qdrant=where))
    except InputError:
        if Manifest.read(folder) == manifest:
            raise
        return open_catalogue(folder, encoder, url)  # it was replaced while it was opened
