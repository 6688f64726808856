"""How Shop-the-Look's files are read and fetched (Kang et al. 2019, section 4): pairs, categories, images by id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctl_lightning.data.fetching.remote import Remote
from ctl_lightning.data.names import hex_id_problem
from ctl_lightning.data.pairs import PairTable, read_pairs
from ctl_lightning.data.products import read_products
from ctl_lightning.data.sources.source import Source
from ctl_lightning.runtime.errors import InputError


@dataclass(frozen=True)
class ShopTheLook(Source):
    """The format of the public Shop-the-Look release.

    Attributes:
        pairs_file: file with one JSON object on each line, {"product", "scene", "bbox": [left, top, right, bottom]}.
        categories_file: file with one JSON object, product -> category path such as "Apparel & Accessories|Shoes".
        images_dir: folder of images; the image of an id `ab...` is `ab/<id>.jpg` in it.
        metadata_url: address below which both files are published; None: nowhere.
        images_url: address below which the image of an id `abcdef...` is `ab/cd/ef/<id>.jpg`; None: nowhere.
        sha256: file name -> hash of the published file, for the hashes that are known.
        published: published numbers of the data set, such as {"pairs": 72198, "products": 38111}.
    """

    pairs_file: str
    categories_file: str
    images_dir: str = "images"
    metadata_url: str | None = None
    images_url: str | None = None
    sha256: Mapping[str, str] | None = None
    published: Mapping[str, int] | None = None

    def metadata(self, root: Path) -> list[Remote]:
        """The pairs file and the categories file, if they are published."""
        if self.metadata_url is None:
            return []
        url, known = self.metadata_url.rstrip("/"), self.sha256 or {}
        return [
            Remote(name, f"{url}/{name}", root / name, known.get(name))
            for name in (self.pairs_file, self.categories_file)
        ]

    def images(self, root: Path) -> list[Remote]:
        """The image of every scene and product in `root`'s files, if published. Raises InputError: unreadable files."""
        if self.images_url is None:
            return []
        table, url = self.read_metadata(root), self.images_url.rstrip("/")
        return [
            Remote(image, f"{url}/{image[:2]}/{image[2:4]}/{image[4:6]}/{image}.jpg", self.image_path(root, image))
            for image in sorted(table.products_of_scene.keys() | table.catalogue.keys())
        ]

    def read(self, root: Path) -> PairTable:
        """Reads and validates both files. Raises InputError that names the file, the line and the way out."""
        table = self.read_metadata(root)
        self._require(root, self.images_dir)
        return table

    def read_metadata(self, root: Path) -> PairTable:
        """Reads and validates both files, whether or not there are images. Raises InputError with file and line."""
        self._require(root, self.categories_file, self.pairs_file)
        catalogue = read_products(root / self.categories_file, hex_id_problem)
        return PairTable(read_pairs(root / self.pairs_file, catalogue), catalogue)

    def check_fetched(self, root: Path, names: Sequence[str]) -> None:
        """Compares the fetched files with the published numbers, which stand in for hashes that are not known.

        Raises:
            InputError: the number of pairs or products is not the published one.
        """
        if self.pairs_file not in names:
            return
        table, published = self.read_metadata(root), self.published or {}
        in_pairs = len({pair.product for pair in table.pairs})
        with (root / self.pairs_file).open("rb") as file:
            lines = sum(1 for line in file if line.strip())  # the authors may have counted repeated pairs
        found = {"pairs": {len(table.pairs), lines}, "products": {len(table.catalogue), in_pairs}}
        for name, counts in found.items():
            if name in published and published[name] not in counts:
                raise InputError(
                    f"{root}: {max(counts):,} {name} in the files that were fetched, {published[name]:,} are published; delete them and run "
                    "the command again, or say that you expect others with 'data.source.published=null'"
                )

    def _require(self, root: Path, *names: str) -> None:
        for name in names:
            if not (root / name).exists():
                raise InputError(
                    f"data.root={root}: {name} is not there; `python -m ctl_lightning.prepare data=NAME` fetches it (stl_fashion, stl_home), or "
                    f"give a folder with {self.pairs_file}, {self.categories_file} and {self.images_dir}/ab/<id>.jpg "
                    "as data.root=DIR (https://github.com/kang205/STL-Dataset)"
                )

    def image_path(self, root: Path, image: str) -> Path:
        """Image file of a scene or product id."""
        return root / self.images_dir / image[:2] / f"{image}.jpg"
