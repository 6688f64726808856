"""Every scene crop and product by key: decoded and resized once into one memory-mapped file, or anew each time."""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from filelock import FileLock, Timeout

from ctl_lightning.data.files import write_text
from ctl_lightning.data.images import Aspect, ImageItem, Pixels, decode, reason
from ctl_lightning.data.progress import progress
from ctl_lightning.errors import InputError

log = logging.getLogger(__name__)

StoreKind = Literal["packed", "litdata", "none"]

FORMAT = 3
"""Counts up when equal items would be stored as other bytes, so that old files are not taken for new ones."""

BLOCK = 256
"""So many pictures are written, then noted as done: what a killed packing loses at most."""


class ImageStore(Protocol):
    """Pictures by key.

    Attributes:
        size: side of the squares, in pixels.
        content: a hash of the image files' bytes, keys, crops, size and aspect: equal hash, equal pictures, on any machine.
        bad: key -> why its image could not be read; these keys have no picture.
    """

    size: int
    content: str
    bad: Mapping[str, str]

    def __getitem__(self, key: str) -> Pixels:
        """The picture of a key, uint8 (size, size, 3), RGB; not to be written to."""


class _Plan(NamedTuple):
    """What a store holds. Equal plans are equal bytes."""

    items: Sequence[ImageItem]
    size: int
    aspect: Aspect

    def fingerprint(self) -> str:
        """A hash of the items (keys, their files' size and time, crops), size and aspect; not of where the files lie."""
        digest = hashlib.sha256(f"{FORMAT}|{self.size}|{self.aspect}".encode())
        for key, path, crop in self.items:
            try:
                status = os.stat(path)
                version = (status.st_size, status.st_mtime_ns)
            except OSError:
                version = (0, 0)
            digest.update(repr((key, version, crop)).encode())
        return digest.hexdigest()[:20]


class _Index(NamedTuple):
    """What lies beside a store."""

    size: int
    content: str
    keys: list[str]
    bad: dict[str, str]


class PackedStore:
    """Random access to one file. Cheap to send to a worker process: the file is mapped there anew, not copied."""

    def __init__(self, path: Path) -> None:
        index = _read_index(path.with_suffix(".json"))
        self.size, self.content = index.size, index.content
        self.bad: Mapping[str, str] = index.bad
        self._path = path
        self._rows = {key: row for row, key in enumerate(index.keys)}
        self._pixels: Pixels | None = None
        if path.stat().st_size <= len(index.keys) * self.size * self.size * 3:
            raise InputError(
                f"{path}: shorter than its {len(index.keys):,} pictures, a copy that was cut off; delete it: it is made anew"
            )

    def __getitem__(self, key: str) -> Pixels:
        """A view of the file, uint8 (size, size, 3)."""
        if self._pixels is None:
            self._pixels = np.load(self._path, mmap_mode="r")
        return self._pixels[self._rows[key]]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pixels": None}


class DecodedImages:
    """Decodes a picture each time it is asked for: no disk space, but 10 to 100 times slower (`benchmark`)."""

    def __init__(self, plan: _Plan, index: _Index) -> None:
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
    chunks_dir: str | None = None,
) -> ImageStore:
    """Opens the store of exactly these items, and makes it first if the cache does not have it.

    The file's name is a hash of the items, their files' sizes and times, size and aspect, so that a change is seen without
    reading all images; the index has the hash of the images themselves. A process that finds another one at work on the same
    store waits for it; one that is killed loses at most `BLOCK` pictures.

    Args:
        items: what to store; keys are unique.
        size: side of the stored squares, in pixels.
        aspect: how a picture becomes a square.
        cache_dir: where stores are kept.
        kind: "packed": one memory-mapped file; "litdata": chunks, which can be streamed; "none": the images are checked once
            and decoded anew each time.
        chunks_dir: where LitData's chunks are kept, a folder or an address in a bucket; None: in the cache.

    Raises:
        InputError: no room on the disk; litdata is not installed.
    """
    plan = _Plan(items, size, aspect)
    path = cache_dir / "stores" / f"{plan.fingerprint()}.npy"
    if kind == "packed":
        _make_once(path, lambda: _pack(plan, path))
        return PackedStore(path)
    checked = path.with_suffix(".checked.json")
    _make_once(checked, lambda: _check(plan, checked))
    index = _read_index(checked)
    if kind == "litdata":
        from ctl_lightning.data.streaming import open_chunks  # an extra: imported by those who ask for it

        with FileLock(path.with_suffix(".chunks.lock")):
            return open_chunks(
                items, aspect, index.size, index.content, index.bad, f"{chunks_dir or path.parent}/{path.stem}.chunks"
            )
    return DecodedImages(plan, index)


def _make_once(path: Path, make: Callable[[], None]) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is making %s; waiting for it", path)
        held = lock.acquire()
    with held:
        if not path.exists():
            make()


def _pack(plan: _Plan, path: Path) -> None:
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    shape = (len(plan.items), plan.size, plan.size, 3)
    picture = plan.size * plan.size * 3
    if not (partial.exists() and journal.exists()):
        _check_room(path, len(plan.items) * picture)
        journal.unlink(missing_ok=True)
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    header = partial.stat().st_size - len(plan.items) * picture

    with partial.open("r+b") as file:

        def write(row: int, pixels: Pixels) -> None:
            _write_all(file.fileno(), pixels.tobytes(), header + row * picture)

        try:
            blocks = _in_blocks(plan, "packing", journal, write, lambda: os.fsync(file.fileno()))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"{path.parent}: the disk is full; what is packed is kept: make room and run the command again. "
                + _other_ways(path, len(plan.items) * picture)
            ) from None
    _write_index(path.with_suffix(".json"), plan, blocks)
    partial.replace(path)
    journal.unlink()


def _write_all(file: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:  # a disk that is nearly full takes a part
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


def _check(plan: _Plan, path: Path) -> None:
    journal = path.with_suffix(".journal")
    blocks = _in_blocks(plan, "checking", journal, lambda row, pixels: None, lambda: None)
    _write_index(path, plan, blocks)
    journal.unlink()


class _Block(NamedTuple):
    """What became of `BLOCK` items in a row: the hashes of their files, and key -> why one can not be read."""

    start: int
    hashes: list[str]
    bad: dict[str, str]


def _in_blocks(
    plan: _Plan, verb: str, journal: Path, write: Callable[[int, Pixels], None], sync: Callable[[], None]
) -> list[_Block]:
    """Decodes every item on all cores and gives it to `write`; notes block after block in `journal`, to go on there."""

    def attempt(row: int) -> tuple[str, str | None]:
        item = plan.items[row]
        try:
            with item.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return "", f"{item.path}: {'missing' if isinstance(error, FileNotFoundError) else reason(error)}"
        try:
            pixels = decode(item, plan.size, plan.aspect)
        except OSError as error:
            return found, f"{item.path}: {reason(error)}"
        write(row, pixels)
        return found, None

    done = _read_journal(journal)
    unreadable = sum(len(block.bad) for block in done.values())
    log.info("%s %d images at %d x %d pixels, once", verb, len(plan.items), plan.size, plan.size)
    starts = range(0, len(plan.items), BLOCK)
    before = min(len(done) * BLOCK, len(plan.items))
    # Threads, not processes: Pillow and the file system work without Python's lock, and a killed process leaves none behind.
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(f"{verb} images", len(plan.items), before) as shown,
        journal.open("a", encoding="utf-8") as noted,
    ):
        for start in starts:
            if start in done:
                continue
            rows = range(start, min(start + BLOCK, len(plan.items)))
            results = list(pool.map(attempt, rows))
            sync()
            bad = {plan.items[row].key: why for row, (_, why) in zip(rows, results, strict=True) if why is not None}
            done[start] = _Block(start, [found for found, _ in results], bad)
            noted.write(json.dumps(done[start]) + "\n")
            noted.flush()
            unreadable += len(bad)
            shown.note = f"{unreadable:,} unreadable" if unreadable else ""
            shown.advance(len(rows))
    return [done[start] for start in starts]


def _read_journal(path: Path) -> dict[int, _Block]:
    """The blocks that are done. Takes the last line away if a killed process has not written it whole."""
    if not path.exists():
        return {}
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    write_text(path, "".join(lines))
    blocks = [_Block(*json.loads(line)) for line in lines]
    return {block.start: block for block in blocks}


def _write_index(path: Path, plan: _Plan, blocks: Sequence[_Block]) -> None:
    bad = {key: why for block in blocks for key, why in block.bad.items()}
    hashes = [found for block in blocks for found in block.hashes]
    content = hashlib.sha256(f"{FORMAT}|{plan.size}|{plan.aspect}".encode())
    for item, found in zip(plan.items, hashes, strict=True):
        content.update(repr((item.key, item.crop, found)).encode())
    keys = [item.key for item in plan.items]
    index = {"size": plan.size, "content": content.hexdigest(), "keys": keys, "bad": dict(sorted(bad.items()))}
    write_text(path, json.dumps(index))


def _read_index(path: Path) -> _Index:
    try:
        return _Index(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: not a readable index of an image store ({error}); delete it and the file beside it: they are made anew"
        ) from None


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(
            f"{path.parent}: the image store needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free there. "
            + _other_ways(path, needed)
        )


def _other_ways(path: Path, needed: int) -> str:
    stores = [other for other in path.parent.glob("*.npy") if other != path]
    old = f"; {len(stores)} older stores in it may be deleted" if stores else ""
    return (
        f"Or choose another disk with paths.cache_dir=DIR, smaller pictures with data.stored_size=N ({needed / 1e9:.1f} GB now), "
        f"or none with data.store=none (slower){old}"
    )
