"""What runs the backbone of an encoder: torch, or ONNX Runtime, which is faster on a CPU."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone, Features
from ctl_lightning.runtime.errors import InputError
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

EngineName = Literal["torch", "onnx"]

Engine = Callable[[Tensor], Features]
"""uint8 RGB pictures (n, 3, S, S) -> their features, as the backbone gives them."""


class OnnxEngine:
    """A backbone that ONNX Runtime runs, in float32: the same features but for rounding.

    It is exported anew whenever it is opened. No file of it is kept, which would have to be told from those of other weights,
    and other versions of torch and of ONNX. It can be used from several threads.

    Args:
        backbone: backbone, on the CPU and in eval mode.
        size: side S of the pictures in pixels.

    Raises:
        InputError: ONNX is not installed; a backbone that torch cannot export, or whose export says something else.
    """

    def __init__(self, backbone: Backbone, size: int) -> None:
        check_onnx("engine=onnx")
        module, inputs = _Parts(backbone).eval(), {"image": random_pictures(size)}
        with (
            one_line("engine=onnx: torch cannot export this backbone", "give engine=torch"),
            TemporaryDirectory() as made,
        ):
            path = Path(made, "backbone.onnx")
            to_onnx(path, exported(module, inputs), list(inputs), Features._fields)
            self._session = opened_onnx(path)
            compare(module, inputs, self._run)

    def __call__(self, images: Tensor) -> Features:
        """uint8 RGB pictures (n, 3, S, S) -> pooled (n, F), regions (n, R, C)."""
        pooled, regions = self._run({"image": images})
        return Features(torch.from_numpy(pooled), torch.from_numpy(regions))

    def _run(self, inputs: Inputs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pooled, regions = self._session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return pooled, regions


class _Parts(nn.Module):
    """A backbone whose features are a plain tuple, as exporters want it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB pictures (n, 3, S, S) -> pooled (n, F), regions (n, R, C)."""
        pooled, regions = self.backbone(image)
        return pooled, regions


def engine_of(name: EngineName, backbone: Backbone, size: int, device: str) -> Engine:
    """What runs a backbone in eval mode on a device, for pictures of `size` pixels.

    Raises:
        InputError: no such engine; ONNX Runtime and another device than the CPU; what `OnnxEngine` raises.
    """
    if name not in get_args(EngineName):
        raise InputError(f"engine={name}: there is no such engine; there are: {', '.join(get_args(EngineName))}")
    if name == "torch":
        return backbone
    if torch.device(device).type != "cpu":
        raise InputError(f"engine=onnx: it runs on the CPU alone, and device={device}; give engine=torch")
    return OnnxEngine(backbone, size)
