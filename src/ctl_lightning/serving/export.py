"""Writes the two encoders as files that run without this package: product -> vector, scene crop + category -> query."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from ctl_lightning.models.components.network import Network
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import replacing, write_text
from ctl_lightning.runtime.locks import alone
from ctl_lightning.serving.catalogue.files import METRIC
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.recommender import require_query

TOLERANCE = 1e-4
"""Largest difference between a number of an exported vector and the network's own: other kernels add in another order."""

Inputs = dict[str, Tensor]
"""Inputs of an encoder by name: `image`, and of the query's also `category`."""


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
        _check_onnx()
    images = torch.randint(
        0, 256, (3, 3, encoder.size, encoder.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
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
    batch = torch.export.Dim("batch", min=1)
    with (
        _one_line(
            f"torch.export cannot write {path.name}", "serve it with `recommend` or `demo`, which need no export"
        ),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "No complete tensor found")  # channels-last weights, on the CPU
        program = torch.export.export(
            module, tuple(inputs.values()), dynamic_shapes={key: {0: batch} for key in inputs}
        )
        torch.export.save(program, path)
        read = torch.export.load(path).module()
        _compare(module, inputs, lambda some: read(*some.values()).detach().numpy())
    return program


def write_onnx(path: Path, program: ExportedProgram, module: nn.Module, inputs: Inputs) -> None:
    """Writes PATH, reads it back and compares. Raises InputError: torch.onnx cannot, or it gives other vectors."""
    import onnxruntime

    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    way_out = "the .pt2 files and serving.json are written; give onnx=false"
    with (
        _one_line(f"onnx=true: torch.onnx cannot write {path.name}", way_out),
        replacing(path) as temporary,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        torch.onnx.export(
            program,
            f=str(temporary),
            input_names=list(inputs),
            output_names=["vector"],
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        _compare(
            module, inputs, lambda some: session.run(None, {name: value.numpy() for name, value in some.items()})[0]
        )


@contextmanager
def _one_line(what: str, way_out: str) -> Iterator[None]:
    """Turns the errors of torch's exporters, which have no class of their own, into one line."""
    try:
        yield
    except OSError:  # says itself what is wrong, and where
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise InputError(f"{what} ({type(error).__name__}: {reason}); {way_out}") from error


def _compare(module: nn.Module, inputs: Inputs, exported: Callable[[Inputs], NDArray[np.float32]]) -> None:
    """Raises ValueError: for three pictures or for one, the vectors are not the network's."""
    for count in (3, 1):
        some = {name: value[:count] for name, value in inputs.items()}
        with torch.no_grad():
            expected = module(*some.values()).numpy()
        difference = float(np.abs(exported(some) - expected).max())
        if not difference <= TOLERANCE:
            raise ValueError(f"its vectors differ from the network's by {difference:.2g}")


def _check_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise InputError(f"onnx=true: {error.name} is not installed; pip install 'ctl_lightning[onnx]'") from None
