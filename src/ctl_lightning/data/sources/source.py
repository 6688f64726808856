"""What a format of data on disk is asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctl_lightning.data.pairs import PairTable
from ctl_lightning.data.sources.remote import Remote

if TYPE_CHECKING:
    from ctl_lightning.data.sources.synthetic import Truth


class Source:
    """A format of files on disk: the two methods without a default, and what else it can say of its data.

    Attributes:
        published: how many `pairs`, `products` and so on there are, as its authors publish them; None: nobody does.
    """

    published: Mapping[str, int] | None = None

    def read(self, root: Path) -> PairTable:
        """Reads the pairs and the catalogue. Raises InputError."""
        raise TypeError(f"{type(self).__name__} does not read")

    def image_path(self, root: Path, image: str) -> Path:
        """Where the image of a scene's or product's id lies."""
        raise TypeError(f"{type(self).__name__} has no images")

    def prepare(self, root: Path) -> None:
        """Makes what can be made; nothing, if the files are fetched, or the user's."""

    def check(self, root: Path) -> list[str]:
        """Every problem of the files in `root`, a line each, of a format that looks at all of them."""
        return []

    def metadata(self, root: Path) -> list[Remote]:
        """The few files that say what there is, if they can be fetched."""
        return []

    def images(self, root: Path) -> list[Remote]:
        """Every image that the metadata in `root` names and that has an address."""
        return []

    def check_fetched(self, root: Path, names: Sequence[str]) -> None:
        """Compares metadata files that were fetched, of these names, with what is published of them. Raises InputError."""

    def truth(self, root: Path) -> "Truth | None":
        """What decides in every look, where that is known."""
        return None
