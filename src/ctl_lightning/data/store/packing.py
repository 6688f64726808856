"""How an image store is made: in parallel, block by block, so that after a kill the next process goes on from there."""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ctl_lightning.data.images import Aspect, ImageItem, Interpolation, Pixels, decode, reason
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import sha256_of, write_text
from ctl_lightning.runtime.large_files import array_file, check_room, told_if_full, write_at
from ctl_lightning.runtime.progress import progress
from ctl_lightning.runtime.reading import json_value, read_json

log = logging.getLogger(__name__)

Result = TypeVar("Result")

FORMAT = 6
"""Format version; goes up when equal items would be stored as other bytes, so that old files are not taken for new."""

BLOCK = 256
"""Number of pictures written before they are noted as done: the most that a killed packing loses."""


class Plan(NamedTuple):
    """What a store holds. Equal plans give equal bytes.

    Attributes:
        items: pictures to store.
        size: side of the squares, in pixels.
        aspect: how a picture becomes a square.
        interpolation: filter that resizes it.
        versions: size in bytes and time in ns of each item's file; None: the file is missing.
    """

    items: Sequence[ImageItem]
    size: int
    aspect: Aspect
    interpolation: Interpolation
    versions: Sequence[tuple[int, int] | None]

    def fingerprint(self) -> str:
        """A hash of what is known without reading an image, such as file sizes; not of where the files lie."""
        return self._digest(self.versions)[:20]

    def content(self, hashes: Sequence[str]) -> str:
        """A hash of the images themselves, made from `hashes`, the hash of each item's file."""
        return self._digest(hashes)

    def _digest(self, files: Sequence[object]) -> str:
        digest = hashlib.sha256(f"{FORMAT}|{self.size}|{self.aspect}|{self.interpolation}".encode())
        for item, file in zip(self.items, files, strict=True):
            digest.update(repr((item.key, item.crop, file)).encode())
        return digest.hexdigest()


def version_of(path: Path) -> tuple[int, int] | None:
    """Size in bytes and modification time in ns of a file; None: it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


class Index(NamedTuple):
    """Content of the index file beside a store: see `ImageStore`; `keys` are in the order of the rows."""

    size: int
    content: str
    keys: list[str]
    bad: dict[str, str]


def read_index(path: Path) -> Index:
    """Reads the index file at `path`. Raises InputError: not readable; it says what to delete."""
    try:
        index = Index(**read_json(path))
        if not isinstance(index.keys, list) or not all(isinstance(key, str) for key in [*index.keys, *index.bad]):
            raise TypeError("other values than such a file has")
        return index
    except (OSError, InputError, TypeError) as error:
        raise InputError(
            f"{path}: not a readable index of an image store ({error}); delete it and the file beside it: they are made anew"
        ) from None


def listing_of(path: Path) -> Path:
    """Path of the text file that lists the bad images of the store or index at `path`."""
    return path.with_name(path.name.partition(".")[0] + ".bad.txt")


def _adopt(plan: Plan, path: Path) -> bool:
    """Reuses a store of the same images with other file times (a copy, a second download): nothing is decoded again.

    Returns:
        Whether there was such a store.
    """
    keys = [item.key for item in plan.items]
    equal = []
    for other in path.parent.glob("*.npy"):
        with suppress(InputError):  # another store's broken index is no concern of this one
            index = read_index(other.with_suffix(".json"))
            if (index.size, index.keys) == (plan.size, keys):
                equal.append((other, index))
    if not equal:
        return False
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("comparing images", len(keys)) as shown:
        hashes = []
        for found in pool.map(_hash, (item.path for item in plan.items)):
            hashes.append(found)
            shown.advance()
    content = plan.content(hashes)
    for other, index in equal:
        if index.content == content:
            write_text(path.with_suffix(".json"), json.dumps(index._asdict()))
            _list_bad(listing_of(path), index.bad)
            try:
                os.link(other, path)
            except OSError:  # a file system without links
                return False
            log.info("the same images as in %s: not packed again", other)
            return True
    return False


def _hash(path: Path) -> str:
    """The sha256 of a file's bytes; empty if it cannot be opened, or is none: opening a pipe would wait for ever."""
    try:
        return sha256_of(path) if path.is_file() else ""
    except OSError:
        return ""


def pack(plan: Plan, path: Path) -> None:
    """Makes the store at `path` and its index beside it. Raises InputError: no room on the disk."""
    if _adopt(plan, path):
        return
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    shape = (len(plan.items), plan.size, plan.size, 3)
    picture = plan.size * plan.size * 3
    needed = len(plan.items) * picture
    begun = partial.exists() and journal.exists()
    if not begun:
        check_room(path, "the image store needs", needed, _other_ways(path, needed))
        journal.unlink(missing_ok=True)
    header = array_file(partial, shape, np.uint8, keep=begun)

    with partial.open("r+b") as file:

        def write(row: int, pixels: Pixels) -> None:
            write_at(file.fileno(), pixels.tobytes(), header + row * picture)

        with told_if_full(path.parent, "is packed", lambda: _other_ways(path, needed)):
            blocks = _in_blocks(plan, "packing", journal, write, lambda: os.fsync(file.fileno()))
    _write_index(path.with_suffix(".json"), plan, blocks)
    partial.replace(path)
    journal.unlink()


def check(plan: Plan, path: Path) -> None:
    """Makes only the index, at `path`: every image is decoded once and not kept."""
    journal = path.with_suffix(".journal")
    blocks = _in_blocks(plan, "checking", journal, lambda row, pixels: None, lambda: None)
    _write_index(path, plan, blocks)
    journal.unlink()


class _Block(NamedTuple):
    """Result for `BLOCK` items in a row: first row, hashes of their files, and key -> why its image cannot be read."""

    start: int
    hashes: list[str]
    bad: dict[str, str]


def _in_blocks(
    plan: Plan, verb: str, journal: Path, write: Callable[[int, Pixels], None], sync: Callable[[], None]
) -> list[_Block]:
    """Decodes every item on all cores and passes it to `write`; notes finished blocks in `journal`, to resume there."""

    def attempt(row: int) -> tuple[str, str | None]:
        item = plan.items[row]
        found = _hash(item.path)
        try:
            pixels = decode(item, plan.size, plan.aspect, plan.interpolation)
        except OSError as error:
            return found, f"{item.path}: {'missing' if isinstance(error, FileNotFoundError) else reason(error)}"
        write(row, pixels)
        return found, None

    done = _read_journal(journal)
    unreadable = sum(len(block.bad) for block in done.values())
    blocks = [range(start, min(start + BLOCK, len(plan.items))) for start in range(0, len(plan.items), BLOCK)]
    before = min(len(done) * BLOCK, len(plan.items))
    already = f", {before} of them done before" if before else ""
    log.info("%s %d images at %d x %d pixels, once%s", verb, len(plan.items), plan.size, plan.size, already)
    # Threads, not processes: Pillow and the file system work without Python's lock, and a killed process leaves none behind.
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(f"{verb} images", len(plan.items), before) as shown,
        journal.open("a", encoding="utf-8") as noted,
    ):
        for rows, results in _one_ahead(pool, attempt, [rows for rows in blocks if rows.start not in done]):
            sync()
            bad = {plan.items[row].key: why for row, (_, why) in zip(rows, results, strict=True) if why is not None}
            done[rows.start] = block = _Block(rows.start, [found for found, _ in results], bad)
            noted.write(json.dumps(block) + "\n")
            noted.flush()
            unreadable += len(bad)
            shown.note = f"{unreadable:,} unreadable" if unreadable else ""
            shown.advance(len(rows))
    return [done[rows.start] for rows in blocks]


def _one_ahead(
    pool: ThreadPoolExecutor, work: Callable[[int], Result], blocks: Sequence[range]
) -> Iterator[tuple[range, list[Result]]]:
    """Blocks with their results, in order. The next block is worked on meanwhile, so that no core waits for the disk."""
    waiting: deque[tuple[range, list[Future[Result]]]] = deque()
    try:
        for rows in [*blocks, range(0)]:
            waiting.append((rows, [pool.submit(work, row) for row in rows]))
            if len(waiting) > 1:
                first, futures = waiting.popleft()
                yield first, [future.result() for future in futures]
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _read_journal(path: Path) -> dict[int, _Block]:
    """First row -> block, for the blocks that are done. Removes lines that a killed process has not written whole."""
    if not path.exists():
        return {}
    blocks = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(InputError, TypeError):
            blocks.append(_Block(*json_value(line, str(path))))
    write_text(path, "".join(json.dumps(block) + "\n" for block in blocks))
    return {block.start: block for block in blocks}


def _write_index(path: Path, plan: Plan, blocks: Sequence[_Block]) -> None:
    bad = {key: why for block in blocks for key, why in block.bad.items()}
    hashes = [found for block in blocks for found in block.hashes]
    keys = [item.key for item in plan.items]
    index = Index(plan.size, plan.content(hashes), keys, dict(sorted(bad.items())))
    write_text(path, json.dumps(index._asdict()))
    _list_bad(listing_of(path), index.bad)


def _list_bad(path: Path, bad: Mapping[str, str]) -> None:
    if bad:
        write_text(path, "".join(f"{why}\n" for why in sorted(set(bad.values()))))


def _other_ways(path: Path, needed: int) -> str:
    others = {other.name.partition(".")[0] for other in path.parent.iterdir()} - {path.stem}
    old = (
        f"; what begins with {', '.join(sorted(others))} in it belongs to other stores, and may be deleted"
        if others
        else ""
    )
    return (
        f"Or choose another disk with paths.cache_dir=DIR, smaller pictures with data.stored_size=N ({needed / 1e9:.1f} GB now), "
        f"or none with data.store=none (slower){old}"
    )
