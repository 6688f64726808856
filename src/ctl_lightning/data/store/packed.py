"""How a picture is looked up by its key: in one memory-mapped file, or decoded every time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ctl_lightning.data.images import Pixels, decode, reason
from ctl_lightning.data.store.packing import Index, Plan, listing_of, read_index
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import mapped_array


class ImageStore(Protocol):
    """Pictures by key.

    Attributes:
        size: side of the squares, in pixels.
        content: hash of image files, keys, crops, size, aspect and interpolation; equal hash, equal pictures, on any machine.
        bad: key -> reason why its image could not be read; these keys have no picture.
        listing: text file with a line for each bad image; it exists only if there are any.
    """

    size: int
    content: str
    bad: Mapping[str, str]
    listing: Path

    def __getitem__(self, key: str) -> Pixels:
        """The picture of a key, uint8 (size, size, 3), RGB; it must not be written to."""


class PackedStore:
    """Image store in one memory-mapped file. Cheap to send to a worker process, which maps the file itself."""

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
            whole = mapped_array(path).shape == shape
        except ValueError:
            whole = False
        if not whole:
            raise InputError(
                f"{path}: broken, or not the {shape[0]:,} pictures of its index: a copy that was cut off? Delete it: it is made anew"
            )

    def __getitem__(self, key: str) -> Pixels:
        """The picture of a key as a view of the file, uint8 (size, size, 3)."""
        if self._pixels is None:
            self._pixels = mapped_array(self._path)
        return self._pixels[self._rows[key]]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pixels": None}


class DecodedImages:
    """Image store that decodes a picture every time: needs no disk space, but is slower (`benchmark` says how much)."""

    def __init__(self, plan: Plan, index: Index, listing: Path) -> None:
        self.listing = listing
        self.size, self.content = index.size, index.content
        self.bad: Mapping[str, str] = index.bad
        self._how = plan.aspect, plan.interpolation
        self._items = {item.key: item for item in plan.items}

    def __getitem__(self, key: str) -> Pixels:
        """The picture of a key. Raises InputError: its file has broken or gone since it was checked."""
        item = self._items[key]
        try:
            return decode(item, self.size, *self._how)
        except OSError as error:
            raise InputError(
                f"{item.path}: {reason(error)}; it could be read when the run began: mend it, and run the command again"
            ) from None
