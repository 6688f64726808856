"""Shop-the-Look's own files on disk (Kang et al. 2019, section 4): pairs, categories and images by id."""

import json
from dataclasses import dataclass
from pathlib import Path

from ctl_lightning.data.pairs import PairTable, parse_catalogue, read_pairs
from ctl_lightning.errors import InputError


@dataclass(frozen=True)
class ShopTheLook:
    """The format of the public Shop-the-Look release.

    Attributes:
        pairs_file: one JSON object a line, {"product", "scene", "bbox": [left, top, right, bottom]}.
        categories_file: one JSON object, product -> category path such as "Apparel & Accessories|Shoes".
        images_dir: the folder of images; the image of an id `ab...` is `ab/<id>.jpg` in it.
    """

    pairs_file: str
    categories_file: str
    images_dir: str = "images"

    def prepare(self, root: Path) -> None:
        """Nothing to make: the files are the user's."""

    def read(self, root: Path) -> PairTable:
        """Reads and validates both files. Raises InputError that names the file, the line and the way out."""
        for needed in (self.categories_file, self.pairs_file, self.images_dir):
            if not (root / needed).exists():
                raise InputError(
                    f"data.root={root}: {needed} is not there; this program expects {self.pairs_file}, "
                    f"{self.categories_file} and {self.images_dir}/ab/<id>.jpg of the Shop-the-Look data "
                    "(https://github.com/kang205/STL-Dataset); give its folder with data.root=DIR"
                )
        path = root / self.categories_file
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON ({error})") from None
        catalogue = parse_catalogue(content, path)
        return PairTable(read_pairs(root / self.pairs_file, catalogue), catalogue)

    def image_path(self, root: Path, image: str) -> Path:
        """Where the image of a scene's or product's id lies."""
        return root / self.images_dir / image[:2] / f"{image}.jpg"
