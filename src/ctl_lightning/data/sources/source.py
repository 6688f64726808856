"""What is asked of a format of data on disk."""

from pathlib import Path
from typing import Protocol

from ctl_lightning.data.pairs import PairTable


class Source(Protocol):
    """A format of files on disk. `ShopTheLook` reads the real data, `SyntheticLooks` makes its own."""

    def prepare(self, root: Path) -> None:
        """Makes what can be made."""

    def read(self, root: Path) -> PairTable:
        """Reads the pairs and the catalogue."""

    def image_path(self, root: Path, image: str) -> Path:
        """Where the image of an id lies."""
