"""Asks torch's exporters for other forms of a network (torch.export, ONNX), and compares what those say with what the network says."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from ctl_lightning.runtime.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOLERANCE = 1e-4
"""Largest difference between a number of an exported vector and the network's own: other kernels add in another order."""

Inputs = dict[str, Tensor]
"""Inputs of a network by name: `image`, and of the query's also `category`."""


def random_pictures(size: int) -> Tensor:
    """Three pictures to export and to compare with, always the same ones, uint8 (3, 3, size, size)."""
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def check_onnx(option: str) -> None:
    """Raises InputError, which names the option that asks for ONNX: a package that it needs is not installed."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise InputError(f"{option}: {error.name} is not installed; pip install 'ctl_lightning[onnx]'") from None


@contextmanager
def one_line(what: str, way_out: str) -> Iterator[None]:
    """Turns the errors of torch's exporters, which have no class of their own, into one line."""
    try:
        yield
    except OSError:  # says itself what is wrong, and where
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise InputError(f"{what} ({type(error).__name__}: {reason}); {way_out}") from error


def exported(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """What torch.export makes of a network in eval mode, for any number of pictures."""
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's tracing: channels-last weights, sizes that are compared
        return torch.export.export(module, tuple(inputs.values()), dynamic_shapes={name: {0: batch} for name in inputs})


def to_onnx(path: Path, program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Writes a program in ONNX's form; `inputs` and `outputs` become the names of what goes in and comes out."""
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        torch.onnx.export(
            program,
            f=str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            external_data=False,
            verbose=False,
        )


def opened_onnx(path: Path) -> "InferenceSession":
    """A file in ONNX's form, ready to be run on the CPU by as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own choice takes no notice of OMP_NUM_THREADS
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(module: nn.Module, inputs: Inputs, other: Callable[[Inputs], Sequence[NDArray[np.float32]]]) -> None:
    """Raises ValueError: for three pictures or for one, another form of a network gives other numbers than the network.

    Args:
        module: the network; it gives a tensor, or a tuple of them.
        inputs: inputs, three of each.
        other: what its other form makes of inputs: as many arrays.
    """
    for count in (3, 1):
        some = {name: value[:count] for name, value in inputs.items()}
        with torch.no_grad():
            given = module(*some.values())
        for expected, found in zip(given if isinstance(given, tuple) else (given,), other(some), strict=True):
            # Of vectors the numbers are at most 1; those of features are larger, and so is their rounding.
            scale = max(1.0, float(expected.abs().max()))
            difference = float(np.abs(found - expected.numpy()).max()) / scale
            if not difference <= TOLERANCE:
                raise ValueError(f"its vectors differ from the network's by {difference:.2g}")
