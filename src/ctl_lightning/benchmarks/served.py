"""What serving is measured with: an untrained checkpoint, photos of its data, and the engines that are installed."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.models.checkpoint import FORMAT
from ctl_lightning.runtime.config import Config
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.backend import Backend
from ctl_lightning.serving.catalogue.change import Product, change_catalogue
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.engines import EngineName
from ctl_lightning.serving.exporters import check_onnx
from ctl_lightning.training.module import CompleteTheLook


class Served(NamedTuple):
    """What is served.

    Attributes:
        checkpoint: file of a checkpoint that was not trained; how fast it is does not depend on that.
        products: products of the data, of all categories in turn.
        scenes: photos of scenes.
    """

    checkpoint: Path
    products: list[Product]
    scenes: list[Path]


def served(
    folder: Path, config: Config, data: TripletDataModule, module: CompleteTheLook, products: int, scenes: int
) -> Served:
    """Writes the checkpoint, and chooses at most so many photos, from the whole length of the lists.

    Args:
        folder: folder to write into.
        config: resolved config of `benchmark`.
        data: set up.
        module: the checkpoint's.
        products: number of products.
        scenes: number of scenes.
    """
    path = folder / "untrained.ckpt"
    options = {option: getattr(data, option) for option in ("stored_size", "image_size", "interpolation")}
    told: dict[str, Any] = {
        "method": config["model"]["method"],
        "protocol": None,
        "seed": config["seed"],
        "trainer": {"precision": "32-true"},
        "data": config["data"] | options,
    }
    content = {"format": FORMAT, "pytorch-lightning_version": "2", "TripletDataModule": {"pairs": {}}, "config": told}
    torch.save(content | {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    listed = [
        Product(product, category, data.source.image_path(data.root, product))
        for product, category in sorted(data.table.catalogue.items())
    ]
    photos = [data.source.image_path(data.root, scene) for scene in sorted(data.table.products_of_scene)]
    return Served(path, _spread(listed, products), _spread(photos, scenes))


def write_catalogue(folder: Path, given: Served) -> None:
    """Writes a catalogue of the products, which is searched exactly."""
    change_catalogue(folder, Encoder(given.checkpoint), given.products, "set", Backend("exact", {}, {}), 16, 1.0)


def engines() -> list[EngineName]:
    """Names of the engines whose packages are installed."""
    try:
        check_onnx("engine=onnx")
    except InputError:
        return ["torch"]
    return ["torch", "onnx"]


def _spread(every: list[Any], count: int) -> list[Any]:
    return every[:: max(1, len(every) // count)][:count]
