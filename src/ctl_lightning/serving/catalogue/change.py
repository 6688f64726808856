"""How a catalogue is made and changed: new products are embedded, known ones are kept, removed ones are left out."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ctl_lightning.data.store.packing import version_of
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.files import replacing, write_text
from ctl_lightning.runtime.large_files import check_room, told_if_full
from ctl_lightning.runtime.locks import alone
from ctl_lightning.serving.catalogue.backend import Backend, Searching
from ctl_lightning.serving.catalogue.codes import write_codes
from ctl_lightning.serving.catalogue.files import (
    Listed,
    Manifest,
    Vectors,
    all_products,
    check_identity,
    open_files,
    write_products,
)
from ctl_lightning.serving.catalogue.hnsw import faiss, make_graphs
from ctl_lightning.serving.catalogue.pending import PendingVectors
from ctl_lightning.serving.catalogue.pgvector_upload import check_database
from ctl_lightning.serving.catalogue.pgvector_upload import upload as upload_to_postgres
from ctl_lightning.serving.catalogue.qdrant import check_server
from ctl_lightning.serving.catalogue.qdrant_upload import upload
from ctl_lightning.serving.encoder import Encoder

log = logging.getLogger(__name__)

CHUNK = 100_000
"""Number of rows copied at once."""

BAD = "bad_images.txt"

CATALOGUE_FILES = re.compile(r"\.?(vectors|codes|products|graph)-[0-9a-f]{12}(\.\d+)?\.(npy|sqlite|faiss)")
"""Names of the files of a catalogue, and of their half-written temporary files."""

Change = Literal["set", "add", "remove"]


class Product(NamedTuple):
    """A product that is to be in a catalogue.

    Attributes:
        product: id of the product.
        category: name of its category, one of the checkpoint's categories.
        image: file of its catalogue photo.
    """

    product: str
    category: str
    image: Path


class Changed(NamedTuple):
    """Result of a change: number of products embedded, kept, removed, and unreadable, and how many each category has now."""

    embedded: int
    kept: int
    removed: int
    unreadable: int
    counts: Mapping[str, int]


def change_catalogue(
    folder: Path,
    encoder: Encoder,
    products: Sequence[Product] | None,
    change: Change,
    backend: Backend,
    batch_size: int,
    max_bad_images: float,
) -> Changed:
    """Makes a catalogue, or brings one up to date. Keeps what was embedded before, even by a run that was stopped.

    Args:
        folder: folder of the catalogue; made if it does not exist.
        encoder: encoder that makes the vectors.
        products: "set": all products that the catalogue is to hold; "add": products to add; "remove": products to take
            out, of which only the id counts. None: the products that the catalogue holds already; it must exist then.
        change: what is done with `products`: "set", "add" or "remove".
        backend: how the catalogue is to be searched.
        batch_size: number of pictures that go through the network at once.
        max_bad_images: largest share of unreadable images among `products`, from 0 to 1, with which the catalogue is
            still made (without them).

    Raises:
        InputError: no product to put in, too many unreadable images, vectors of another checkpoint, a full disk.
        InUseError: another process is changing the catalogue.
    """
    with _alone(folder):
        _delete_partial(folder)
        identity = encoder.identity()
        old = Manifest.read(folder)
        known, before = _known(folder, old, identity)
        to = backend.resolved(old)
        _check(folder, to, identity)
        if products is None:
            products = [Product(one.product, one.category, Path(one.image)) for one in known]
        wanted, bad = _wanted(folder, known, products, change)
        _check_bad(folder, bad, len(products), max_bad_images)  # reports missing images before embedding the others
        vectors_of = {one.photo for one in known}
        fresh = [one for one in wanted if one.photo not in vectors_of]
        embedded = PendingVectors(folder, encoder, sha256(repr(identity).encode()).hexdigest())
        embedded.add(fresh, batch_size)
        bad |= embedded.bad
        _check_bad(folder, bad, len(products), max_bad_images)
        if bad:
            log.warning("%d products without a readable image are left out; %s lists them", len(bad), folder / BAD)
        listed = _in_order(folder, encoder.categories, known, wanted, bad, change)
        new = _write(folder, before, known, listed, embedded, identity)
        new = replace(new, backend=to.name, hnsw=to.hnsw, qdrant=to.qdrant, database=to.database)
        new = replace(new, graphs=_hand_over(folder, old, new, known, listed, to))
        new.write(folder)
        if old is not None and old.database and old.database != new.database:
            log.info(
                "the collection %s stays in %s; drop it when nobody searches it, unless that is another address of the same database",
                *(old.database["collection"], old.database["url"]),
            )
        embedded.delete()
        _clean(folder, new)
    was, now, made = ({one.product for one in some} for some in (known, listed, fresh))
    return Changed(len(made - bad.keys()), len(now - (made - bad.keys())), len(was - now), len(bad), new.counts)


def _check(folder: Path, to: Searching, identity: Mapping[str, Any]) -> None:
    """Raises InputError if what is to search is missing: now rather than after an hour."""
    if to.name == "faiss":
        faiss()
    if to.name == "qdrant":
        check_server(folder, to.qdrant)
    if to.name == "pgvector":
        check_database(to.url, to.database["collection"], identity)


def _hand_over(
    folder: Path, old: Manifest | None, new: Manifest, known: Sequence[Listed], listed: Sequence[Listed], to: Searching
) -> dict[str, str]:
    """Brings the new catalogue to what searches it. Returns the categories with a graph, as `Manifest.graphs`."""
    if to.name == "faiss":
        return make_graphs(folder, old, new, known, listed)
    if to.name == "qdrant":
        upload(folder, new)
    if to.name == "pgvector":
        return upload_to_postgres(folder, new, to.url, listed)
    return {}


def _in_order(
    folder: Path,
    categories: Sequence[str],
    known: Sequence[Listed],
    wanted: Sequence[Listed],
    bad: Mapping[str, str],
    change: Change,
) -> list[Listed]:
    """The products of the new catalogue, sorted by category. Raises InputError: there are none."""
    # A known product that is added again with a bad photo keeps its old one.
    kept = {one.product: one for one in known if change == "add" and one.product in bad}
    listed = [one for one in wanted if one.product not in bad] + list(kept.values())
    if not listed:
        raise InputError(f"catalogue={folder}: there is no product to put into it; give some with products=FILE")
    order = {category: place for place, category in enumerate(categories)}
    row_of = {one.product: row for row, one in enumerate(known)}
    # Old products come first in their category, in their old order, so that graphs can be kept.
    return sorted(listed, key=lambda one: (order[one.category], row_of.get(one.product, len(known))))


def _known(folder: Path, old: Manifest | None, identity: Mapping[str, Any]) -> tuple[list[Listed], Vectors | None]:
    """Products and vectors of the old catalogue. Raises InputError: it is broken, or of another checkpoint."""
    if old is None:
        return [], None
    check_identity(folder, old, identity)
    vectors, products = open_files(folder, old)
    with closing(products):
        return all_products(products), vectors


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    busy = f"catalogue={folder}: another process is changing it; wait for it, or choose another folder"
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(folder / ".lock", busy))
        except OSError as error:
            raise InputError(
                f"catalogue={folder}: cannot be written ({error.strerror}); choose another folder"
            ) from None
        yield


def _wanted(
    folder: Path, known: Sequence[Listed], products: Sequence[Product], change: Change
) -> tuple[list[Listed], dict[str, str]]:
    """All products that the catalogue is to hold; and, for those without a usable image, product id -> why."""
    before = {one.product: one for one in known}
    if change == "remove":
        if not before:
            raise InputError(f"catalogue={folder}: there is no catalogue, so nothing can be taken out")
        for one in products:
            if one.product not in before:
                raise InputError(
                    f"catalogue={folder}: product {one.product} is not in it{suggestion(one.product, before) if len(before) < CHUNK else ''}; "
                    "nothing was removed"
                )
        gone = {one.product for one in products}
        return [one for one in known if one.product not in gone], {}
    wanted = dict(before) if change == "add" else {}
    missing = {}
    for one in products:
        version, image = version_of(one.image), str(one.image.absolute())
        if version is None:
            missing[one.product] = f"product {one.product} has no image: {one.image} is missing"
        elif image != image.encode(errors="replace").decode():
            missing[one.product] = f"product {one.product}: the name of its image is not UTF-8: {image!r}"
        else:
            size, time = version
            wanted[one.product] = Listed(one.product, one.category, image, f"{size}-{time}")
    return list(wanted.values()), missing


def _check_bad(folder: Path, bad: Mapping[str, str], count: int, max_bad_images: float) -> None:
    listing = folder / BAD
    if not bad:
        listing.unlink(missing_ok=True)
        return
    write_text(listing, "".join(f"{why}\n" for why in bad.values()))
    if len(bad) > max_bad_images * count:
        raise InputError(
            f"{next(iter(bad.values()))}; {len(bad)} of {count} products have no readable image, all are listed in {listing}; mend them and "
            f"run the command again (what is embedded is kept), or go on without them with max_bad_images={_share(len(bad), count)}"
        )


def _share(part: int, whole: int) -> str:
    """The smallest share with two decimals that is at least part / whole."""
    return f"{-(-100 * part // whole) / 100:g}"


def _write(
    folder: Path,
    before: Vectors | None,
    known: Sequence[Listed],
    listed: Sequence[Listed],
    embedded: PendingVectors,
    identity: dict[str, Any],
) -> Manifest:
    """Writes the files of vectors, codes and products. Returns their manifest, not yet written: the old one still counts."""
    digest = sha256(repr(identity).encode())
    for one in listed:
        digest.update(repr(one).encode())
    generation = digest.hexdigest()[:12]
    vectors, products = folder / f"vectors-{generation}.npy", folder / f"products-{generation}.sqlite"
    row_of = {one.photo: row for row, one in enumerate(known)}
    slices, start = {}, 0
    for category, found in groupby(listed, key=lambda one: one.category):
        end = start + sum(1 for _ in found)
        slices[category] = (start, end)
        start = end
    manifest = Manifest(identity, embedded.dim, slices, vectors.name, products.name)
    if vectors.exists() and products.exists():
        return write_codes(folder, manifest)
    needed = len(listed) * embedded.dim * (4 + 1)  # and the codes
    check_room(vectors, "the vectors need", needed, "Choose another folder with catalogue=DIR")
    with told_if_full(folder, "is embedded"):
        with replacing(vectors) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(listed), embedded.dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(listed), CHUNK):
                some = listed[start : start + CHUNK]
                rows = np.empty((len(some), embedded.dim), np.float32)
                old_rows = np.array([row_of.get(one.photo, -1) for one in some])
                if before is not None:
                    rows[old_rows >= 0] = before[old_rows[old_rows >= 0]]
                if fresh := [one for one, row in zip(some, old_rows, strict=True) if row < 0]:
                    rows[old_rows < 0] = embedded.rows(fresh)
                file.write(rows.tobytes())
        with replacing(products) as temporary:
            write_products(temporary, listed)
    return write_codes(folder, manifest)


def _delete_partial(folder: Path) -> None:
    """Deletes the half-written files of a killed run: no other run is at work, and their room may be needed."""
    for path in folder.iterdir():
        if path.name.startswith(".") and CATALOGUE_FILES.fullmatch(path.name):
            path.unlink()


def _clean(folder: Path, manifest: Manifest) -> None:
    """Deletes the files of earlier catalogues. A process that has one open can go on reading it."""
    named = {manifest.vectors, manifest.codes, manifest.products}
    named |= {f"{name}{ending}" for name in manifest.graphs.values() for ending in (".faiss", ".npy")}
    for path in folder.iterdir():
        if CATALOGUE_FILES.fullmatch(path.name) and path.name not in named:
            path.unlink(missing_ok=True)
