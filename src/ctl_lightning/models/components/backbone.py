"""How uint8 pictures become one pooled vector and one region map each. The only file that knows their preprocessing."""

import hashlib
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.feature_extraction import create_feature_extractor
from typing_extensions import TypedDict  # on Python 3.11 pydantic cannot read typing's

from ctl_lightning.models.components.gradient_checkpointing import Recomputed
from ctl_lightning.models.components.weights import load_file
from ctl_lightning.runtime.errors import InputError, suggestion

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BackboneOptions(TypedDict):
    """Options of conf/backbone, as plain values.

    See `Backbone` for most, `Backbone.load_weights` for `weights`, `training.feature_cache` for `cache` and those after
    it.
    """

    __pydantic_config__ = {"extra": "forbid"}  # type: ignore[misc]  # noqa: RUF012

    name: str
    weights: str | None
    pooled_layer: str
    region_layer: str
    grid: int
    frozen: bool
    checkpointing: bool
    cache: Literal["auto", "always", "never"]
    cache_views: int
    cache_dtype: Literal["float16", "bfloat16"]


class Features(NamedTuple):
    """Features of B pictures: `pooled` (B, F) and `regions` (B, R, C), the regions row by row of the grid."""

    pooled: Tensor
    regions: Tensor


class SmallNetwork(nn.Module):
    """Five convolutions for synthetic looks of about 56 pixels, trained from scratch on a CPU in minutes.

    A unit of `regions` sees 28 x 28 pixels, so no unit sees both walls of a synthetic look of 56 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        # Patches first: overlapping convolutions at full size took half of the run time and learned no more.
        self.regions = nn.Sequential(
            _convolution(3, 48, 4, 4, 0), _convolution(48, 96, 3, 2, 1), _convolution(96, 96, 3, 1, 1)
        )
        self.pooled = nn.Sequential(_convolution(96, 128, 3, 2, 1), _convolution(128, 128, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) -> feature maps (B, 128, S / 16, S / 16)."""
        return self.pooled(self.regions(images))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Backbone(nn.Module):
    """An image network, chosen by name, that gives the outputs of two of its layers.

    Args:
        name: "small", or the name of a classification network of torchvision, such as "resnet50", that takes pictures of
            64 pixels as well as of other sizes (not ViT, MaxViT or Inception).
        pooled_layer: name of the layer that gives the pooled vector; a map is averaged over its area.
        region_layer: name of the layer that gives the region map.
        grid: side of the grid of regions; the region map is averaged down to grid x grid regions.
        frozen: whether it is not trained: no gradients, always eval mode, and BatchNorm statistics do not move.
        checkpointing: whether training computes activations again instead of keeping them; see `Recomputed`.

    Raises:
        InputError: unknown network or layer; a network for pictures of one size alone; a layer of another shape.
        ValueError: a grid below 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, pooled_layer: str, region_layer: str, grid: int, frozen: bool, checkpointing: bool = False
    ) -> None:
        super().__init__()
        network = _network(name)
        try:
            self.network = create_feature_extractor(network, {pooled_layer: "pooled", region_layer: "regions"})
        except ValueError:
            layers = ", ".join(layer for layer, _ in network.named_children())
            raise InputError(
                f"backbone: {name} has no layer {pooled_layer!r} or {region_layer!r}; its outermost layers are {layers}"
            ) from None
        self.network.to(memory_format=torch.channels_last)
        self.to_grid = nn.AdaptiveAvgPool2d(grid)
        self.grid = grid
        self.frozen = frozen
        self._identity = {"name": name, "pooled_layer": pooled_layer, "region_layer": region_layer, "grid": grid}
        self._recomputed = Recomputed(self.network) if checkpointing else None
        # Buffers, so that the preprocessing is saved with the weights.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
        if frozen:
            self.network.requires_grad_(False)
        if grid < 1:
            raise ValueError(f"backbone.grid must be at least 1, not {grid}")
        self.pooled_features, self.region_features = self._widths()
        self.train()

    @classmethod
    def of(cls, options: BackboneOptions) -> "Backbone":
        """The backbone that options describe, with random weights."""
        return cls(
            options["name"],
            options["pooled_layer"],
            options["region_layer"],
            options["grid"],
            options["frozen"],
            options["checkpointing"],
        )

    def _widths(self) -> tuple[int, int]:
        """Numbers F of pooled and C of region features. Raises InputError: the layers give no vector, or no map."""
        name, pooled_layer, region_layer = (self._identity[key] for key in ("name", "pooled_layer", "region_layer"))
        try:
            with torch.no_grad(), redirect_stderr(StringIO()):  # where torch.fx prints tracebacks
                maps = self.eval().network(torch.zeros(1, 3, 64, 64))
        except (RuntimeError, AssertionError, ValueError):
            raise InputError(
                f"backbone.name={name}: it refuses pictures of 64 pixels; give a network that takes pictures of any size, "
                "such as resnet50, efficientnet_b0 or convnext_tiny"
            ) from None
        pooled, regions = maps.get("pooled", maps["regions"]).shape, maps["regions"].shape
        if not (len(pooled) == 2 or _is_map(pooled)):
            raise InputError(
                f"backbone.pooled_layer={pooled_layer}: of {name} it gives {tuple(pooled)}, neither a vector (B, F) nor a "
                "map (B, C, H, W); give another layer"
            )
        if not _is_map(regions):
            raise InputError(
                f"backbone.region_layer={region_layer}: of {name} it gives {tuple(regions)}, not a map (B, C, H, W); give "
                "another layer"
            )
        return pooled[1], regions[1]

    def train(self, mode: bool = True) -> "Backbone":
        """Sets training or eval mode; a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor) -> Features:
        """uint8 RGB pictures (B, 3, S, S) -> pooled (B, F), regions (B, grid², C).

        Raises:
            InputError: the region layer gives fewer regions than the grid asks for.
        """
        pixels = self.pixels(images)
        network = self._recomputed if self._recomputed is not None and self.training else self.network
        # No word about gradients: no parameter of a frozen network asks for any, and torch.export refuses such words.
        maps = network(pixels)
        found = maps["regions"]
        pooled = maps.get("pooled", found)  # one layer may give both
        if min(found.shape[2:]) < self.grid:
            raise InputError(
                f"backbone.grid={self.grid}: pictures of {images.shape[3]} pixels have only {found.shape[2]} x "
                f"{found.shape[3]} regions in this layer; give a smaller grid, or a larger data.image_size"
            )
        regions = self.to_grid(found)
        if pooled.ndim == 4:
            pooled = pooled.mean((2, 3))
        return Features(pooled, regions.flatten(2).transpose(1, 2))

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 pictures (B, 3, S, S) -> normalised pixels, as the network was trained, in the channels-last format."""
        # (x / 255 - mean) / std with one new tensor: large tensors are expensive on a CPU.
        normalised = (images * (1 / (255 * self.std))).sub_(self.mean / self.std)
        return normalised.contiguous(memory_format=torch.channels_last)

    def identity(self) -> dict[str, Any]:
        """All that the features depend on, as plain values: name, layers, grid, hash of weights and preprocessing."""
        return self._identity | {"weights": hash_of_weights(self)}

    def load_weights(self, weights: str, name: str) -> None:
        """Loads pretrained weights, and the preprocessing that they were trained with.

        Args:
            weights: a name in torchvision's enum for this network, such as IMAGENET1K_V2, or a file; see `load_file`.
            name: name of the network, such as "resnet50".

        Raises:
            InputError: neither a known name nor a readable file with weights of this network; a download that fails.
        """
        path = Path(weights).expanduser()
        if name != "small" and weights in (known := get_model_weights(name)).__members__:
            try:
                state = known[weights].get_state_dict(progress=True, check_hash=True)
            except (
                OSError,
                RuntimeError,
                UnpicklingError,
                EOFError,
            ) as error:  # no network; a broken file in torch's cache
                raise InputError(
                    f"backbone.weights={weights}: could not download them ({' '.join(str(error).split())}); "
                    "give a file with backbone.weights=FILE"
                ) from None
            self.network.load_state_dict(state, strict=False)  # the classifier is cut off
            preprocessing = known[weights].transforms()
            self.mean.copy_(torch.tensor(preprocessing.mean).view(3, 1, 1))
            self.std.copy_(torch.tensor(preprocessing.std).view(3, 1, 1))
        elif path.exists():
            for buffer, value in load_file(self.network, path, name).items():
                getattr(self, buffer).copy_(value)
        else:
            names = [] if name == "small" else list(get_model_weights(name).__members__)
            raise InputError(
                f"backbone.weights={weights}: neither a file nor one of the names {', '.join(names) or '(none)'} "
                f"of {name}{suggestion(weights, names)}"
            )


def hash_of_weights(module: nn.Module) -> str:
    """Hash of names, types, shapes and values in a module's state dict: equal hash, equal outputs up to rounding."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _is_map(shape: torch.Size) -> bool:
    """Whether an output for a square picture is (B, C, S, S); networks of tokens give (B, N, C) or (B, S, S, C)."""
    return len(shape) == 4 and shape[2] == shape[3]


def _network(name: str) -> nn.Module:
    if name == "small":
        return SmallNetwork()
    known = ["small", *list_models(module=models)]
    if name not in known:
        raise InputError(
            f"backbone.name: no network {name!r}{suggestion(name, known)}; the names of torchvision's classification networks "
            "are known here, and small"
        )
    network: nn.Module = get_model(name, weights=None)
    return network
