"""Writes the two encoders as files that run without this package: product -> vector, scene crop + category -> query."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctl_lightning.models.components.network import Network
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import replacing, write_text
from ctl_lightning.serving.catalogue.files import METRIC
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.recommender import require_query

TOLERANCE = 1e-4
"""Largest difference between a number of an exported vector and the network's own: other kernels add in another order."""


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
    """Writes product.pt2, query.pt2 (torch.export), their ONNX forms if wanted, and serving.json.

    serving.json says what must be known to use them. Every encoder is read back and compared with the network before
    its file counts.

    Args:
        encoder: encoder on the CPU.
        folder: folder to write the files into.
        onnx: whether product.onnx and query.onnx are written, too.

    Returns:
        The files written.

    Raises:
        InputError: a method whose distance has no one-query form; ONNX is not installed; a file gives other vectors
            than the network.
    """
    network = require_query(encoder)
    if onnx:
        _check_onnx()
    options = encoder.trained.config["data"]
    folder.mkdir(parents=True, exist_ok=True)
    # Files of an earlier export go first, so that files of two networks never lie together.
    for name in ("serving.json", "product.onnx", "query.onnx"):
        (folder / name).unlink(missing_ok=True)
    images = torch.randint(
        0, 256, (3, 3, encoder.size, encoder.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    categories = torch.arange(3) % len(encoder.categories)
    encoders: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {
        "product": (ProductEncoder(network), {"image": images}),
        "query": (QueryEncoder(network), {"image": images, "category": categories}),
    }
    written = []
    for name, (module, inputs) in encoders.items():
        written += _write_encoder(folder / name, module.eval(), inputs, onnx)
    described = {
        "identity": encoder.identity(),
        "categories": encoder.categories,
        "image_size": options["image_size"],
        "stored_size": options["stored_size"],
        "aspect": options["aspect"],
        "metric": METRIC,
        "classifier": encoder.trained.classifier and encoder.trained.classifier.plain(),
    }
    write_text(folder / "serving.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return [*written, folder / "serving.json"]


def _write_encoder(path: Path, module: nn.Module, inputs: dict[str, Tensor], onnx: bool) -> list[Path]:
    """Writes PATH.pt2, and PATH.onnx if wanted. Raises InputError: what is read back gives other vectors."""
    with torch.no_grad():
        expected = module(*inputs.values()).numpy()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes={key: {0: batch} for key in inputs})
    written = [path.with_suffix(".pt2")]
    with replacing(written[0]) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # channels-last weights, on the CPU
        torch.export.save(program, temporary)
        _compare(written[0], torch.export.load(temporary).module()(*inputs.values()).detach().numpy(), expected)
    if onnx:
        written.append(path.with_suffix(".onnx"))
        with replacing(written[1]) as temporary:
            _write_onnx(temporary, program, inputs)
            _compare(written[1], _run_onnx(temporary, inputs), expected)
    return written


def _check_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise InputError(f"onnx=true: {error.name} is not installed; pip install 'ctl_lightning[onnx]'") from None


def _write_onnx(path: Path, program: Any, inputs: dict[str, Tensor]) -> None:
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        torch.onnx.export(
            program, f=str(path), input_names=list(inputs), output_names=["vector"], external_data=False, verbose=False
        )


def _run_onnx(path: Path, inputs: dict[str, Tensor]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def _compare(path: Path, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise InputError(f"{path}: its vectors differ from the network's by {difference:.2g}; it is not kept")
