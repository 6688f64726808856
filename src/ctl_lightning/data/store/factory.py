"""Every scene crop and product by key: from one memory-mapped file, from chunks, or decoded anew each time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from filelock import FileLock

from ctl_lightning.data.images import Aspect, ImageItem, Pixels, decode, reason
from ctl_lightning.data.store.packing import Index, Plan, check, listing_of, pack, read_index, version_of
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.large_files import make_once

StoreKind = Literal["packed", "litdata", "none"]


class ImageStore(Protocol):
    """Pictures by key.

    Attributes:
        size: side of the squares, in pixels.
        content: a hash of the image files' bytes, keys, crops, size and aspect: equal hash, equal pictures, on any machine.
        bad: key -> why its image could not be read; these keys have no picture.
        listing: a file with a line for each of the bad, if there are any.
    """

    size: int
    content: str
    bad: Mapping[str, str]
    listing: Path

    def __getitem__(self, key: str) -> Pixels:
        """The picture of a key, uint8 (size, size, 3), RGB; not to be written to."""


class PackedStore:
    """Random access to one file. Cheap to send to a worker process: the file is mapped there anew, not copied."""

    def __init__(self, path: Path) -> None:
        index = read_index(path.with_suffix(".json"))
        self.size, self.content = index.size, index.content
        self.bad: Mapping[str, str] = index.bad
        self.listing = listing_of(path)
        self._path = path
        self._rows = {key: row for row, key in enumerate(index.keys)}
        self._pixels: Pixels | None = None
        shape = (len(index.keys), self.size, self.size, 3)
        try:
            whole = np.load(path, mmap_mode="r").shape == shape
        except (ValueError, EOFError):
            whole = False
        if not whole:
            raise InputError(
                f"{path}: broken, or not the {shape[0]:,} pictures of its index: a copy that was cut off? Delete it: it is made anew"
            )

    def __getitem__(self, key: str) -> Pixels:
        """A view of the file, uint8 (size, size, 3)."""
        if self._pixels is None:
            self._pixels = np.load(self._path, mmap_mode="r")
        return self._pixels[self._rows[key]]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pixels": None}


class DecodedImages:
    """Decodes a picture each time it is asked for: no disk space, but slower (`benchmark` says how much)."""

    def __init__(self, plan: Plan, index: Index, listing: Path) -> None:
        self.listing = listing
        self.size, self.content = index.size, index.content
        self.bad: Mapping[str, str] = index.bad
        self._aspect = plan.aspect
        self._items = {item.key: item for item in plan.items}

    def __getitem__(self, key: str) -> Pixels:
        """Raises InputError if the file has broken or gone since it was checked."""
        item = self._items[key]
        try:
            return decode(item, self.size, self._aspect)
        except OSError as error:
            raise InputError(
                f"{item.path}: {reason(error)}; it could be read when the run began: mend it, and run the command again"
            ) from None


def open_store(
    items: Sequence[ImageItem],
    size: int,
    aspect: Aspect,
    cache_dir: Path,
    kind: StoreKind,
    max_bad: float,
    chunks_dir: Path | None = None,
) -> ImageStore:
    """Opens the store of exactly these items, and makes it first if the cache does not have it.

    The file's name is a hash of the items, their files' sizes and times, size and aspect, so that a change is seen without
    reading all images; the index has the hash of the images themselves, so that nothing is packed again because files have
    other times. A process that finds another one at work on the same store waits for it; one that is killed loses little.

    Args:
        items: what to store; keys are unique.
        size: side of the stored squares, in pixels.
        aspect: how a picture becomes a square.
        cache_dir: where stores are kept.
        kind: "packed": one memory-mapped file; "litdata": chunks, which can be streamed; "none": the images are checked once
            and decoded anew each time.
        max_bad: the share of images that may be missing or unreadable.
        chunks_dir: where LitData's chunks are kept, a folder; None: in the cache.

    Raises:
        InputError: too many images are missing or unreadable; no room on the disk; litdata is not installed.
    """
    plan = Plan(items, size, aspect, [version_of(item.path) for item in items])
    missing = [item.path for item, version in zip(items, plan.versions, strict=True) if version is None]
    if len(missing) > max_bad * len(items):
        raise InputError(
            f"{len(missing)} of {len(items)} images ({len(missing) / len(items):.2%}) are missing, first {missing[0]}; fetch them with "
            f"`python -m ctl_lightning.prepare`, or allow a larger share than data.max_bad_images={max_bad}"
        )
    store = _open(plan, cache_dir / "stores" / f"{plan.fingerprint()}.npy", kind, chunks_dir)
    if len(store.bad) > max_bad * len(items):
        raise InputError(
            f"{len(store.bad)} of {len(items)} images ({len(store.bad) / len(items):.2%}) can not be read, first "
            f"{next(iter(store.bad.values()))}; all of them are listed in {store.listing}; mend them, or delete them and fetch them again, "
            f"or allow a larger share than data.max_bad_images={max_bad}"
        )
    return store


def _open(plan: Plan, path: Path, kind: StoreKind, chunks_dir: Path | None) -> ImageStore:
    if kind == "packed":
        make_once(path, lambda: pack(plan, path))
        return PackedStore(path)
    checked = path.with_suffix(".checked.json")
    make_once(checked, lambda: check(plan, checked))
    index = read_index(checked)
    if kind == "litdata":
        from ctl_lightning.data.store.litdata import open_chunks  # an extra: imported by those who ask for it

        with FileLock(path.with_suffix(".chunks.lock")):
            return open_chunks(
                plan.items, plan.aspect, index, listing_of(checked), (chunks_dir or path.parent) / f"{path.stem}.chunks"
            )
    return DecodedImages(plan, index, listing_of(checked))
