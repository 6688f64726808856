"""What every format of data on disk can be asked for. A new one: a file beside this, a line in `registry.py`, conf/data/NAME.yaml."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from ctl_lightning.data.fetching.remote import Remote
from ctl_lightning.data.pairs import PairTable
from ctl_lightning.data.sources.truth import Truth


class Source:
    """A format of files on disk. Every format defines `read` and `image_path`; the other methods do nothing by default.

    Attributes:
        published: published numbers of the data set, such as {"pairs": 72198, "products": 38111}; None: there are none.
        photos: whether its pictures are photos, of which one may be there under several ids; drawn ones are not.
    """

    published: Mapping[str, int] | None = None
    photos: ClassVar[bool] = True

    def read(self, root: Path) -> PairTable:
        """Reads the pairs and the catalogue. Raises InputError: files missing or malformed."""
        raise TypeError(f"{type(self).__name__} does not read")

    def image_path(self, root: Path, image: str) -> Path:
        """Image file of a scene or product id."""
        raise TypeError(f"{type(self).__name__} has no images")

    def prepare(self, root: Path) -> None:
        """Makes the files that can be made; nothing, if they are fetched or are the user's own."""

    def check(self, root: Path) -> list[str]:
        """Every problem of the files in `root`, one message each; empty if the format does not look for them all."""
        return []

    def metadata(self, root: Path) -> list[Remote]:
        """The few files that list pairs and products, if they can be fetched."""
        return []

    def images(self, root: Path) -> list[Remote]:
        """Every image that the metadata in `root` names and that has an address."""
        return []

    def check_fetched(self, root: Path, names: Sequence[str]) -> None:
        """Compares fetched metadata files of these names with the published numbers. Raises InputError: they differ."""

    def truth(self, root: Path) -> Truth | None:
        """What decides in every look, where it is known (synthetic looks); None: not known."""
        return None
