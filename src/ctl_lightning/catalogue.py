"""python -m ctl_lightning.catalogue: product photos -> a catalogue of vectors, in which `recommend` and `demo` search."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from ctl_lightning.runtime.config import Config, check_options, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

if TYPE_CHECKING:
    from ctl_lightning.serving.catalogue.change import Changed

OPTIONS: dict[str, Any] = {
    "products": str | None,
    "images": str | None,
    "change": Literal["set", "add", "remove"],
    "max_bad_images": float | int,
    "keep_memory": bool | None,
    "batch_size": int | None,
    "device": str,
    "engine": Literal["torch", "onnx"],
}
BATCH, CPU_BATCH = 64, 16
"""Number of pictures that go through the network at once; on a CPU larger batches need fresh memory, which costs more than they gain."""

CATALOGUE: dict[str, Any] = {
    "dir": str,
    "backend": Literal["exact", "faiss", "qdrant", "pgvector"] | None,
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
    options = resolved(config)
    check(options)
    import torch

    from ctl_lightning.runtime.memory import can_keep, keep_freed_memory
    from ctl_lightning.serving.catalogue.backend import Backend
    from ctl_lightning.serving.catalogue.change import change_catalogue
    from ctl_lightning.serving.catalogue.products import products_of
    from ctl_lightning.serving.encoder import Encoder, require_query

    if options["keep_memory"] or (options["keep_memory"] is None and can_keep()):
        keep_freed_memory()
    folder = Path(options["catalogue"]["dir"]).expanduser()
    encoder = Encoder(Path(str(options["ckpt_path"])).expanduser(), options["device"], options["engine"])
    require_query(encoder)  # now rather than when the catalogue is searched
    products = products_of(options, encoder, folder)
    backend = Backend.of(options["catalogue"])
    batch = options["batch_size"] or (CPU_BATCH if torch.device(encoder.device).type == "cpu" else BATCH)
    made = change_catalogue(folder, encoder, products, options["change"], backend, batch, options["max_bad_images"])
    tell(folder, made)


def check(options: Config) -> None:
    """Raises InputError: an option of another type, or out of its range."""
    check_options({name: options[name] for name in OPTIONS}, OPTIONS)
    check_options(options["catalogue"], CATALOGUE, "catalogue.")
    for name, value in options["catalogue"].items():
        if name.startswith("hnsw_") and value is not None and value < 2:
            raise InputError(f"catalogue.{name}={value}: must be at least 2")
        if name in ("collection", "part") and value is not None and not re.fullmatch(r"[\w.-]{1,200}", value):
            raise InputError(f"catalogue.{name}={value!r}: give a name of letters, digits and . _ -")
    if (options["batch_size"] is not None and options["batch_size"] < 1) or not 0 <= options["max_bad_images"] <= 1:
        raise InputError("batch_size must be at least 1, and max_bad_images a share from 0 to 1")


def tell(folder: Path, made: "Changed") -> None:
    """Prints what became of a catalogue."""
    from rich.table import Table

    from ctl_lightning.runtime.console import console
    from ctl_lightning.serving.catalogue.files import Manifest

    table = Table("category", "products")
    table.columns[1].justify = "right"
    for category, count in made.counts.items():
        table.add_row(category, f"{count:,}")
    console.print(table)
    console.print(
        f"{sum(made.counts.values()):,} products: {made.embedded:,} embedded, {made.kept:,} kept; {made.removed:,} taken out, "
        f"{made.unreadable:,} left out because of their images"
    )
    manifest = Manifest.read(folder)
    if manifest is not None and manifest.backend != "exact":
        graphs = f", {len(manifest.graphs)} of {len(made.counts)} categories by a graph" if manifest.hnsw else ""
        console.print(f"searched by {manifest.backend}{graphs}")
    console.print(f"  {folder}")


if __name__ == "__main__":
    main()
