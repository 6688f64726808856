"""The contract of a library of image networks, and the options of a backbone that it reads."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import (
    Any,
    Literal,
    NotRequired,  # on Python 3.11 pydantic cannot read typing's
)

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from ctl_lightning.models.components.preprocessing import Preprocessing, PreprocessingOptions
from ctl_lightning.runtime.errors import InputError

LibraryName = Literal["small", "torchvision", "timm"]

PooledPart = Literal["final", "stages", "colours"]
"""Part of the pooled vector: what the network pools at its end; mean and standard deviation of the map of each of its
stages, early ones being fine and plain; the colours of the picture (`components.colours`)."""


class BackboneOptions(TypedDict):
    """Options of conf/backbone, as plain values.

    See `Backbone` for most, its library for `name`, `weights` and layers, `training.feature_cache` for `cache` and those
    after it.
    """

    __pydantic_config__ = {"extra": "forbid"}  # type: ignore[misc]  # noqa: RUF012

    library: LibraryName
    name: str
    weights: str | None
    preprocessing: PreprocessingOptions
    pooled_layer: NotRequired[str]  # of small and torchvision
    region_layer: NotRequired[str]
    stage_layers: NotRequired[list[str] | None]
    layers: NotRequired[list[int] | None]  # of timm
    pooled: NotRequired[list[PooledPart]]  # none in checkpoints from before there was a choice
    grid: int
    frozen: bool
    checkpointing: bool
    cache: Literal["auto", "always", "never"]
    cache_views: int
    cache_dtype: Literal["float16", "bfloat16"]


def pooled_parts(options: BackboneOptions) -> list[PooledPart]:
    """The parts that a backbone's pooled vector is made of, in their order."""
    alone: list[PooledPart] = ["final"]
    return options.get("pooled", alone)


Maps = dict[str, Tensor]
"""Outputs of a network for pictures: `pooled` (B, F) or a map (B, F, H, W), and `regions` (B, C, H, W); and, if the
pooled vector has the stages, a map (B, C, H, W) of each of `Library.stages`."""


class Library(ABC):
    """Where image networks come from: what is different from one library to the next."""

    @abstractmethod
    def make(self, options: BackboneOptions) -> nn.Module:
        """The network with random weights: normalised pixels (B, 3, S, S) -> `Maps`.

        Raises:
            InputError: unknown network or layer.
        """

    def stage_layers(self, options: BackboneOptions) -> list[str] | None:
        """Names of the layers whose maps are those of the stages; None: the network knows its stages itself."""
        return None

    @abstractmethod
    def stages(self, network: nn.Module) -> list[str]:
        """Names in `Maps` of the maps of its stages, from the first to the last; empty unless the options ask for them."""

    @abstractmethod
    def probed_size(self, network: nn.Module) -> int:
        """Side in pixels of pictures that the network takes for certain, to find the widths of its outputs."""

    def memory_format(self, frozen: bool) -> torch.memory_format:
        """Order in memory of pictures and weights: channels last, which convolutions are fastest with."""
        return torch.channels_last

    @abstractmethod
    def identity(self, options: BackboneOptions) -> dict[str, Any]:
        """What of the options decides the features, beside weights, grid and preprocessing, as plain values."""

    @abstractmethod
    def preprocessing(self, options: BackboneOptions) -> Preprocessing:
        """What the named weights were trained on, if no file says otherwise. Raises InputError: unknown network."""

    def named_weights(self, name: str) -> list[str]:
        """Names of the weights that the library has of a network, for `backbone.weights`; none unless it says so."""
        return []

    def load_named(self, network: nn.Module, name: str, weights: str) -> None:
        """Loads the weights of this name, one of `named_weights`. Raises InputError: they cannot be had."""
        raise InputError(f"backbone.weights={weights}: there are no weights of {name} by a name; give a file")

    def in_file(self, network: nn.Module) -> nn.Module:
        """The part of the network whose names a file of weights has."""
        return network

    @abstractmethod
    def recomputed(self, network: nn.Module) -> Callable[[Tensor], Maps]:
        """The network, with activations computed again in the backward pass instead of kept; the same numbers."""
