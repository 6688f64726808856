"""What small and torchvision share: two named layers of a network that torch.fx can trace."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from ctl_lightning.models.components.gradient_checkpointing import Recomputed
from ctl_lightning.models.components.libraries.library import BackboneOptions, Library, Maps
from ctl_lightning.runtime.errors import InputError


class TracedLibrary(Library):
    """Networks that are traced, and cut off behind the layers `pooled_layer` and `region_layer`."""

    @abstractmethod
    def network(self, name: str) -> nn.Module:
        """The whole network of this name, with random weights. Raises InputError: unknown."""

    def make(self, options: BackboneOptions) -> nn.Module:
        """See `Library.make`."""
        name, pooled, regions = options["name"], options["pooled_layer"], options["region_layer"]
        network = self.network(name)
        try:
            cut: nn.Module = create_feature_extractor(network, {pooled: "pooled", regions: "regions"})
        except ValueError:
            layers = ", ".join(layer for layer, _ in network.named_children())
            raise InputError(
                f"backbone: {name} has no layer {pooled!r} or {regions!r}; its outermost layers are {layers}"
            ) from None
        return cut

    def probed_size(self, network: nn.Module) -> int:
        """See `Library.probed_size`."""
        return 64

    def identity(self, options: BackboneOptions) -> dict[str, Any]:
        """See `Library.identity`."""
        names = ("name", "pooled_layer", "region_layer")
        return {name: options[name] for name in names}  # type: ignore[literal-required]

    def recomputed(self, network: nn.Module) -> Callable[[Tensor], Maps]:
        """See `Library.recomputed`."""
        return Recomputed(network)  # type: ignore[arg-type]
