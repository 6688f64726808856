"""Which products a catalogue is made of: those of a file and a folder of photos, or of the checkpoint's training data."""

from pathlib import Path

from ctl_lightning.data.names import id_problem
from ctl_lightning.data.pictures.folder import PictureFolder
from ctl_lightning.data.products import read_products
from ctl_lightning.runtime.config import Config
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.reading import read_names
from ctl_lightning.serving.catalogue.change import Product
from ctl_lightning.serving.catalogue.files import MANIFEST
from ctl_lightning.serving.encoder import Encoder


def products_of(options: Config, encoder: Encoder, folder: Path) -> list[Product] | None:
    """The products that the options of the program `catalogue` name; None: those that the catalogue already holds.

    Args:
        options: the options `products`, `images`, `change`, `data.root` and `paths.cache_dir`.
        encoder: encoder of the checkpoint.
        folder: folder of the catalogue.

    Raises:
        InputError: what they name is not there, or cannot be read.
    """
    if options["products"] not in (None, "data"):
        path = Path(options["products"]).expanduser()
        if options["change"] == "remove":
            listed = path.suffix in (".json", ".csv", ".parquet")
            names = _listed(path) if listed else read_names(path, "products", "product")
            return [Product(name, "", Path()) for name in names]
        return _of_file(encoder, path, options["images"])
    if options["change"] != "set" or options["images"] is not None:
        option = f"change={options['change']}" if options["change"] != "set" else f"images={options['images']}"
        raise InputError(f"{option}: give the products with products=FILE")
    if options["products"] is None and (folder / MANIFEST).exists():
        return None
    return _of_its_data(encoder, options)


def _of_its_data(encoder: Encoder, options: Config) -> list[Product]:
    """All products of the data that the checkpoint was trained on."""
    data = encoder.trained.data({"root": options["data"]["root"], "cache_dir": options["paths"]["cache_dir"]})
    data.prepare_data()
    data.read_table()
    encoder.trained.check_categories(data)
    return [
        Product(product, category, data.source.image_path(data.root, product))
        for product, category in sorted(data.table.catalogue.items())
    ]


def _listed(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(
            f"products={path}: there is no such file; give product -> category, a .json, .csv or .parquet file"
        )
    try:
        return read_products(path, id_problem)
    except InputError as error:
        raise InputError(f"products={error}") from None


def _of_file(encoder: Encoder, path: Path, photos: str | None) -> list[Product]:
    listed = _listed(path)
    folder = Path(photos).expanduser() if photos is not None else path.parent / "images"
    if not folder.is_dir():
        raise InputError(f"images={folder}: there is no such folder; give that of the products' photos")
    found = PictureFolder(folder)
    products = []
    for product, name in sorted(listed.items()):
        try:
            category = encoder.category(name)
        except InputError as error:
            raise InputError(f"products={path}: product {product}: {error}") from None
        images = found.find(product) or [found.expected(product)]
        if len(images) > 1:
            raise InputError(
                f"images={folder}: product {product} has several: {', '.join(map(str, images))}; leave one"
            )
        products.append(Product(product, category, images[0]))
    return products
