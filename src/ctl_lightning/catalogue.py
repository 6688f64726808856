"""python -m ctl_lightning.catalogue: product photos -> a catalogue of vectors, in which `recommend` and `demo` search."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Table

from ctl_lightning.data.pairs import NAME_ID, read_catalogue
from ctl_lightning.data.sources.folder import images_below
from ctl_lightning.runtime.config import check_options, check_switches, program
from ctl_lightning.runtime.console import console
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import read_names
from ctl_lightning.runtime.memory import keep_freed_memory
from ctl_lightning.serving.catalogue.change import Backend, Change, Product, change_catalogue
from ctl_lightning.serving.catalogue.files import MANIFEST, BackendName, Manifest
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.recommender import require_query

OPTIONS: dict[str, Any] = {
    "products": str | None,
    "images": str | None,
    "change": Change,
    "max_bad_images": float | int,
    "batch_size": int,
    "device": str,
}
CATALOGUE: dict[str, Any] = {
    "dir": str,
    "backend": BackendName | None,
    "url": str | None,
    "collection": str | None,
    "part": str | None,
    **dict.fromkeys(("hnsw_from", "hnsw_links", "hnsw_build", "hnsw_search"), int | None),
}


@program("catalogue")
def main(config: DictConfig) -> None:
    """Makes or changes one catalogue."""
    catalogue(config)


def catalogue(config: DictConfig) -> None:
    """Embeds what is new, keeps what is known, and prints what the catalogue holds.

    Raises:
        InputError: what the user can mend.
    """
    check_options({name: config[name] for name in OPTIONS}, OPTIONS)
    check_switches(config, "keep_memory")
    check_options(dict(config.catalogue), CATALOGUE, "catalogue.")
    for name, value in config.catalogue.items():
        if str(name).startswith("hnsw_") and value is not None and value < 2:
            raise InputError(f"catalogue.{name}={value}: must be at least 2")
        if name in ("collection", "part") and value is not None and not re.fullmatch(r"[\w.-]{1,200}", value):
            raise InputError(f"catalogue.{name}={value!r}: give a name of letters, digits and . _ -")
    if config.batch_size < 1 or not 0 <= config.max_bad_images <= 1:
        raise InputError("batch_size must be at least 1, and max_bad_images a share from 0 to 1")
    if config.keep_memory:
        keep_freed_memory()
    folder = Path(config.catalogue.dir).expanduser()
    encoder = Encoder(Path(str(config.ckpt_path)).expanduser(), config.device)
    require_query(encoder)  # now rather than when the catalogue is searched
    products = _products(encoder, folder, config)
    made = change_catalogue(
        folder, encoder, products, config.change, _backend(config.catalogue), config.batch_size, config.max_bad_images
    )
    table = Table("category", "products")
    table.columns[1].justify = "right"
    for category, count in made.counts.items():
        table.add_row(escape(category), f"{count:,}")
    console.print(table)
    console.print(
        f"{sum(made.counts.values()):,} products: {made.embedded:,} embedded, {made.kept:,} kept; {made.removed:,} taken out, "
        f"{made.unreadable:,} left out because of their images"
    )
    manifest = Manifest.read(folder)
    if manifest is not None and manifest.backend != "exact":
        graphs = f", {len(manifest.graphs)} of {len(made.counts)} categories by a graph" if manifest.hnsw else ""
        console.print(f"searched by {manifest.backend}{graphs}", markup=False)
    console.print(f"  {folder}", markup=False)


def _backend(options: DictConfig) -> Backend:
    return Backend(
        options.backend,
        {name: options[f"hnsw_{name}"] for name in ("from", "links", "build", "search")},
        {name: options[name] for name in ("url", "collection", "part")},
    )


def _products(encoder: Encoder, folder: Path, config: DictConfig) -> list[Product] | None:
    """What the options name; None: what the catalogue holds."""
    if config.products not in (None, "data"):
        path = Path(config.products).expanduser()
        if config.change == "remove":
            names = _listed(path) if path.suffix == ".json" else read_names(path, "products", "product")
            return [Product(name, "", Path()) for name in names]
        return _of_file(encoder, path, config.images)
    if config.change != "set" or config.images is not None:
        option = f"change={config.change}" if config.change != "set" else f"images={config.images}"
        raise InputError(f"{option}: give the products with products=FILE")
    if config.products is None and (folder / MANIFEST).exists():
        return None
    return _of_its_data(encoder, config)


def _of_its_data(encoder: Encoder, config: DictConfig) -> list[Product]:
    """All products of the data that the checkpoint was trained on."""
    data = encoder.trained.data({"root": config.data.root, "cache_dir": config.paths.cache_dir})
    data.prepare_data()
    data.read_table()
    encoder.trained.check_categories(data)
    return [
        Product(product, category, data.source.image_path(data.root, product))
        for product, category in sorted(data.table.catalogue.items())
    ]


def _listed(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(f"products={path}: there is no such file; give a JSON file, product -> category")
    if path.stat().st_size < 20 and path.read_bytes().strip() in (b"", b"{}", b"[]"):
        raise InputError(f"products={path}: there is no product in it; write product -> category")
    return read_catalogue(path, NAME_ID)


def _of_file(encoder: Encoder, path: Path, photos: str | None) -> list[Product]:
    listed = _listed(path)
    folder = Path(photos).expanduser() if photos is not None else path.parent / "images"
    if not folder.is_dir():
        raise InputError(f"images={folder}: there is no such folder; give that of the products' photos")
    found = images_below(folder)
    products = []
    for product, name in sorted(listed.items()):
        try:
            category = encoder.category(name)
        except InputError as error:
            raise InputError(f"products={path}: product {product}: {error}") from None
        images = found.get(product, [folder / f"{product}.jpg"])
        if len(images) > 1:
            raise InputError(
                f"images={folder}: product {product} has several: {', '.join(map(str, images))}; leave one"
            )
        products.append(Product(product, category, images[0]))
    return products


if __name__ == "__main__":
    main()
