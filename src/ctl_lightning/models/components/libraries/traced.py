"""What small and torchvision share: two named layers of a network that torch.fx can trace."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from ctl_lightning.models.components.gradient_checkpointing import Recomputed
from ctl_lightning.models.components.libraries.library import BackboneOptions, Library, Maps, pooled_parts
from ctl_lightning.runtime.errors import InputError


class TracedLibrary(Library):
    """Networks that are traced, and cut off behind the layers `pooled_layer` and `region_layer`."""

    @abstractmethod
    def network(self, name: str) -> nn.Module:
        """The whole network of this name, with random weights. Raises InputError: unknown."""

    @abstractmethod
    def known_stages(self, name: str) -> list[str]:
        """The layers that end the stages of the network of this name; empty if nobody has said which they are."""

    def stage_layers(self, options: BackboneOptions) -> list[str]:
        """See `Library.stage_layers`. Raises InputError: nobody has said which they are."""
        if "stages" not in pooled_parts(options):
            return []
        layers = options.get("stage_layers") or self.known_stages(options["name"])
        if not layers:
            raise InputError(
                f"backbone.pooled: nobody has said which layers of {options['name']} its stages are; name them with "
                "backbone.stage_layers=[layer1], or leave stages out of backbone.pooled"
            )
        return layers

    def make(self, options: BackboneOptions) -> nn.Module:
        """See `Library.make`."""
        name, outputs = options["name"], {options["pooled_layer"]: "pooled", options["region_layer"]: "regions"}
        stages = self.stage_layers(options)
        for number, layer in enumerate(stages):
            outputs.setdefault(layer, f"stage{number}")  # an extractor gives each layer once
        network = self.network(name)
        try:
            cut: nn.Module = create_feature_extractor(network, outputs)
        except ValueError:
            layers = ", ".join(layer for layer, _ in network.named_children())
            raise InputError(
                f"backbone: {name} has no layer {' or '.join(map(repr, outputs))}; its outermost layers are {layers}"
            ) from None
        cut.stages = [outputs[layer] for layer in stages]  # type: ignore[assignment]
        return cut

    def stages(self, network: nn.Module) -> list[str]:
        """See `Library.stages`."""
        return list(network.stages)  # type: ignore[arg-type]

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
