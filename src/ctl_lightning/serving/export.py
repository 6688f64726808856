"""Writes the two encoders as files that run without this package: product -> vector, scene crop + category -> query."""

import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ctl_lightning.models.components.network import Network
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import replacing, write_text
from ctl_lightning.runtime.locks import alone
from ctl_lightning.serving.catalogue.files import METRIC
from ctl_lightning.serving.encoder import Encoder, require_query
from ctl_lightning.serving.exporters import (
    Inputs,
    check_onnx,
    compare,
    exported,
    one_line,
    opened_onnx,
    random_pictures,
    to_onnx,
)


class ProductEncoder(nn.Module):
    """uint8 products (B, 3, S, S), RGB -> f_p (B, D)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """The vectors f_p, (B, D)."""
        return self.network.embed_product(image)


class QueryEncoder(nn.Module):
    """uint8 scene crops (B, 3, S, S), RGB, and category indices (B,) -> q (B, D) with distance 2 - q·f_p."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, category: Tensor) -> Tensor:
        """The queries q, (B, D)."""
        query = self.network.query(self.network.embed_scene(image, category))
        assert query is not None
        return query


def export(encoder: Encoder, folder: Path, onnx: bool) -> list[Path]:
    """Writes product.pt2, query.pt2 (torch.export), serving.json, and then the ONNX forms of both if wanted.

    serving.json says what must be known to use them. Every encoder is read back and compared with the network before
    its file counts. An earlier export in the folder stays until the new .pt2 files are all there; if ONNX then fails,
    the .pt2 files and serving.json are kept.

    Args:
        encoder: encoder on the CPU.
        folder: folder to write the files into.
        onnx: whether product.onnx and query.onnx are written, too.

    Returns:
        The files written.

    Raises:
        InputError: a method whose distance has no one-query form, or whose scenes are strips; ONNX is not installed;
            torch cannot write the network in such a form, or the file gives other vectors than the network.
    """
    network = require_query(encoder)
    if encoder.shows_strips:
        raise InputError(
            f"ckpt_path={encoder.trained.path}: its scenes are strips of several sizes (data.scene=strips), and an exported encoder takes one "
            "square; serve it with `recommend` or `demo`, which need no export"
        )
    if onnx:
        check_onnx("onnx=true")
    images = random_pictures(encoder.size)
    categories = torch.arange(3) % len(encoder.categories)
    encoders: dict[str, tuple[nn.Module, Inputs]] = {
        "product": (ProductEncoder(network).eval(), {"image": images}),
        "query": (QueryEncoder(network).eval(), {"image": images, "category": categories}),
    }
    names = [*(f"{name}.pt2" for name in encoders), "serving.json"]
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"output={folder}: another process writes there; wait for it, or choose another folder"
    with alone(folder / ".lock", busy):
        with TemporaryDirectory(prefix=".export-", dir=folder) as made:
            programs = {name: write_program(Path(made, f"{name}.pt2"), *both) for name, both in encoders.items()}
            write_text(Path(made, "serving.json"), json.dumps(_described(encoder), indent=1, ensure_ascii=False) + "\n")
            # serving.json goes first and comes last: files of two networks never pass for one export.
            for name in ("serving.json", *(f"{name}.onnx" for name in encoders)):
                (folder / name).unlink(missing_ok=True)
            for name in names:
                Path(made, name).replace(folder / name)
        written = [folder / name for name in names]
        if onnx:
            for name, (module, inputs) in encoders.items():
                written.append(folder / f"{name}.onnx")
                write_onnx(written[-1], programs[name], module, inputs)
    return written


def _described(encoder: Encoder) -> dict[str, Any]:
    """Content of serving.json."""
    options = encoder.trained.config["data"]
    return {
        "identity": encoder.identity(),
        "categories": encoder.categories,
        "image_size": options["image_size"],
        "stored_size": options["stored_size"],
        "aspect": options["aspect"],
        "interpolation": options["interpolation"],
        "metric": METRIC,
        "classifier": encoder.trained.classifier and encoder.trained.classifier.plain(),
    }


def write_program(path: Path, module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """Writes PATH, reads it back and compares. Raises InputError: torch.export cannot, or it gives other vectors."""
    way_out = "serve it with `recommend` or `demo`, which need no export"
    with one_line(f"torch.export cannot write {path.name}", way_out), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # channels-last weights, on the CPU
        program = exported(module, inputs)
        torch.export.save(program, path)
        read = torch.export.load(path).module()
        compare(module, inputs, lambda some: [read(*some.values()).detach().numpy()])
    return program


def write_onnx(path: Path, program: ExportedProgram, module: nn.Module, inputs: Inputs) -> None:
    """Writes PATH in ONNX's form, reads it back and compares. Raises InputError: torch.onnx cannot, or it gives other vectors."""
    way_out = "the .pt2 files and serving.json are written; give onnx=false"
    with one_line(f"onnx=true: torch.onnx cannot write {path.name}", way_out), replacing(path) as temporary:
        to_onnx(temporary, program, list(inputs), ["vector"])
        session = opened_onnx(temporary)
        compare(module, inputs, lambda some: session.run(None, {name: value.numpy() for name, value in some.items()}))
