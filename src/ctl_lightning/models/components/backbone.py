"""How uint8 pictures become one pooled vector and one region map each. The only file that applies their preprocessing."""

import hashlib
import logging
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ctl_lightning.models.components.colours import BINS, RANGE, WIDTH, colour_histogram
from ctl_lightning.models.components.libraries.library import BackboneOptions, Maps, PooledPart, pooled_parts
from ctl_lightning.models.components.libraries.registry import LIBRARIES
from ctl_lightning.models.components.preprocessing import (
    READERS,
    Preprocessing,
    beside,
    of_checkpoint,
    of_values,
    overridden,
)
from ctl_lightning.models.components.weights import load_file
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.hub import fetched_file

USUAL = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
"""Names of files of weights on the Hub; first those of open_clip, which has timm's networks in it."""

log = logging.getLogger(__name__)

STRIP = 96
"""Height in pixels of the picture that tells whether a network takes strips."""


class Features(NamedTuple):
    """Features of B pictures: `pooled` (B, F) and `regions` (B, R, C), the regions row by row of the grid."""

    pooled: Tensor
    regions: Tensor


class Backbone(nn.Module):
    """An image network of a library, chosen by name, with the preprocessing of its weights.

    Args:
        options: `library` and `name` of the network, and its layers, see the library; `pooled`, the parts of the pooled
            vector, see `PooledPart`; `preprocessing`, what is not None takes the place of ImageNet's; `grid`, the side of
            the grid of regions: the region map is averaged down to grid x grid regions; `frozen`, whether it is not
            trained: no gradients, always eval mode, and BatchNorm statistics do not move; `checkpointing`, whether
            training computes activations again instead of keeping them.

    Raises:
        InputError: unknown network or layer; a network that refuses pictures; a layer of another shape.
        ValueError: a grid below 1; a pooled vector of no parts, or of one part twice.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        if options["grid"] < 1:
            raise ValueError(f"backbone.grid must be at least 1, not {options['grid']}")
        self._options, self._parts = options, pooled_parts(options)
        if not self._parts or len({*self._parts}) < len(self._parts):
            raise ValueError(f"backbone.pooled must be some of final, stages and colours, each once, not {self._parts}")
        self._library = LIBRARIES[options["library"]]
        self.network = self._library.make(options)
        self._memory_format = self._library.memory_format(options["frozen"])
        self.network.to(memory_format=self._memory_format)
        self._stages = self._library.stages(self.network)
        self.grid, self.frozen = options["grid"], options["frozen"]
        self.to_grid = nn.AdaptiveAvgPool2d(self.grid)
        self._recomputed = self._library.recomputed(self.network) if options["checkpointing"] else None
        preprocessing = of_values(options["preprocessing"], "backbone.preprocessing")
        # Buffers, so that the preprocessing is saved with the weights.
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))
        if self.frozen:
            self.network.requires_grad_(False)
        self.pooled_features, self.region_features = self._widths()
        self.train()

    def _widths(self) -> tuple[int, int]:
        """Numbers F of pooled and C of region features. Raises InputError: the layers give no vector, or no map."""
        name, layers = self._options["name"], self._options
        try:
            maps = self._probed(self._library.probed_size(self.network))
        except (RuntimeError, AssertionError, ValueError):
            raise InputError(
                f"backbone.name={name}: it refuses pictures of 64 pixels; give a network that takes pictures of any size, "
                "such as resnet50, efficientnet_b0 or convnext_tiny, or timm's of that name with backbone=timm"
            ) from None
        pooled, regions = maps.get("pooled", maps["regions"]).shape, maps["regions"].shape
        if not (len(pooled) == 2 or _is_map(pooled)):
            raise InputError(
                f"backbone.pooled_layer={layers.get('pooled_layer')}: of {name} it gives {tuple(pooled)}, neither a vector (B, F) nor a "
                "map (B, C, H, W); give another layer"
            )
        if not _is_map(regions):
            raise InputError(
                f"backbone.region_layer={layers.get('region_layer')}: of {name} it gives {tuple(regions)}, not a map (B, C, H, W); give "
                "another layer"
            )
        for name in self._stages:
            if not _is_map(maps[name].shape):
                raise InputError(
                    f"backbone.stage_layers={layers.get('stage_layers')}: one of {self._options['name']} gives {tuple(maps[name].shape)}, "
                    "not a map (B, C, H, W); name other layers"
                )
        widths = {
            "final": pooled[1],
            "stages": sum(2 * maps[name].shape[1] for name in self._stages),
            "colours": WIDTH,
        }
        return sum(widths[part] for part in self._parts), regions[1]

    def _probed(self, size: int) -> dict[str, Tensor]:
        with torch.no_grad(), redirect_stderr(StringIO()):  # where torch.fx prints tracebacks
            maps: dict[str, Tensor] = self.eval().network(torch.zeros(1, 3, size, size))
        return maps

    def check_size(self, size: int) -> None:
        """Raises InputError: the network does not take pictures of `size` pixels, or gives too few regions of them."""
        training, name = self.training, self._options["name"]
        try:
            with torch.no_grad():  # and in eval mode, or the black picture would count in BatchNorm's statistics
                self.eval()(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.mean.device))
        except (RuntimeError, AssertionError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"data.image_size={size}: {name} does not take such pictures ({' '.join(str(error).split())[:100]}), but those of "
                f"{self._library.probed_size(self.network)} pixels; give data.image_size=null data.stored_size=null"
            ) from None
        finally:
            self.train(training)

    def check_strips(self, short_side: int) -> None:
        """Raises InputError: the network does not take the strips of scenes whose shorter side is `short_side` pixels."""
        try:
            with torch.no_grad():
                self.pooled(torch.zeros(1, 3, STRIP, short_side, dtype=torch.uint8, device=self.mean.device))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise InputError(
                f"data.scene=strips: {self._options['name']} does not take pictures that are not square ({' '.join(str(error).split())[:100]}); "
                "give data.scene=crop, or another backbone"
            ) from None

    def train(self, mode: bool = True) -> "Backbone":
        """Sets training or eval mode; a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor) -> Features:
        """uint8 RGB pictures (B, 3, S, S) -> pooled (B, F), regions (B, grid², C).

        Raises:
            InputError: the region layer gives fewer regions than the grid asks for.
        """
        maps = self._maps(images)
        found = maps["regions"]
        if min(found.shape[2:]) < self.grid:
            raise InputError(
                f"backbone.grid={self.grid}: pictures of {images.shape[3]} pixels have only {found.shape[2]} x "
                f"{found.shape[3]} regions in this layer; give a smaller grid, or a larger data.image_size"
            )
        return Features(self._pooled(images, maps), self.to_grid(found).flatten(2).transpose(1, 2))

    def pooled(self, images: Tensor) -> Tensor:
        """uint8 RGB pictures of any proportions that the network takes, (B, 3, H, W) -> pooled (B, F)."""
        return self._pooled(images, self._maps(images))

    def _maps(self, images: Tensor) -> Maps:
        network = self._recomputed if self._recomputed is not None and self.training else self.network
        # No word about gradients: no parameter of a frozen network asks for any, and torch.export refuses such words.
        maps: Maps = network(self.pixels(images))
        return maps

    def _pooled(self, images: Tensor, maps: Maps) -> Tensor:
        parts = [self._part(part, images, maps) for part in self._parts]
        return parts[0] if len(parts) == 1 else torch.cat([part.float() for part in parts], 1)

    def _part(self, part: PooledPart, images: Tensor, maps: Maps) -> Tensor:
        """A part of the pooled vector, (B, ·)."""
        if part == "colours":
            return colour_histogram(images)
        if part == "stages":
            flat = [maps[name].flatten(2).float() for name in self._stages]
            return torch.cat([moment for one in flat for moment in (one.mean(2), one.std(2, correction=0))], 1)
        pooled = maps.get("pooled", maps["regions"])  # one layer may give both
        return pooled.mean((2, 3)) if pooled.ndim == 4 else pooled

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 pictures (B, 3, S, S) -> normalised pixels, as the network was trained, in its memory format."""
        # (x / 255 - mean) / std with one new tensor: large tensors are expensive on a CPU.
        normalised = (images * (1 / (255 * self.std))).sub_(self.mean / self.std)
        return normalised.contiguous(memory_format=self._memory_format)

    def identity(self) -> dict[str, Any]:
        """All that the features depend on, as plain values: name, layers, grid, hash of weights, mean and deviation."""
        # The final part alone is not named, as it was not before there were others: caches and catalogues still count.
        parts: dict[str, Any] = {} if self._parts == ["final"] else {"pooled": self._parts}
        if self._stages:
            parts["stages"] = self._library.stage_layers(self._options) or self._stages
        if "colours" in self._parts:
            parts["colours"] = [*BINS, RANGE]
        return self._library.identity(self._options) | parts | {"grid": self.grid, "weights": hash_of_weights(self)}

    def load_weights(self, weights: str) -> None:
        """Loads pretrained weights. Their preprocessing is in the options that the backbone was made with.

        Args:
            weights: a name that the library has for weights of this network, such as IMAGENET1K_V2 or hub, or a file; see
                `load_file`.

        Raises:
            InputError: neither a known name nor a readable file with weights of this network; a download that fails.
        """
        name, names = self._options["name"], self._library.named_weights(self._options["name"])
        if weights in names:
            self._library.load_named(self.network, name, weights)
        elif (path := local_weights(weights)).exists():
            load_file(self._library.in_file(self.network), path, name)
        else:
            raise InputError(
                f"backbone.weights={weights}: neither a file nor one of the names {', '.join(names) or '(none)'} "
                f"of {name}{suggestion(weights, names)}"
            )


def preprocessing_of(options: BackboneOptions) -> Preprocessing:
    """The preprocessing of the weights that options name, with what the options say in its place.

    That of a file is what is written in it (a checkpoint of ours) or beside it, see `preprocessing.beside`; else, and
    that is told, that of the library's own weights of the network.

    Raises:
        InputError: unknown network; a value or a file that is no preprocessing.
    """
    library, weights = LIBRARIES[options["library"]], options["weights"]
    found = library.preprocessing(options)
    if weights is not None and weights not in library.named_weights(options["name"]):
        path = local_weights(weights)
        if own := of_checkpoint(path, found):
            found = own
        elif written := beside(path):
            found, where = written
            log.info("backbone.weights=%s: their preprocessing is written in %s", weights, where)
        elif found.size is not None and path.is_file():
            log.info(
                "backbone.weights=%s: nothing beside the file says how its pictures were made; taken as for %s: mean %s, "
                "std %s, %s pixels, %s; if that is wrong, set the options of backbone.preprocessing, or write %s",
                *(weights, options["name"], found.mean, found.std, found.size, found.interpolation),
                path.with_suffix(".json").name,
            )
    return overridden(found, options["preprocessing"], "backbone.preprocessing")


def local_weights(weights: str) -> Path:
    """The file that `backbone.weights` names; fetched, with its preprocessing, if it lies on the Hub. Raises InputError."""
    if not weights.startswith("hf://"):
        return Path(weights).expanduser()
    try:
        return fetched_file(weights, USUAL, READERS)
    except InputError as error:
        raise InputError(f"backbone.weights={error}") from None


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
