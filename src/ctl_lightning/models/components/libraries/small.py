"""The library `small`: one network of five convolutions, for synthetic looks."""

from torch import Tensor, nn

from ctl_lightning.models.components.libraries.library import BackboneOptions
from ctl_lightning.models.components.libraries.traced import TracedLibrary
from ctl_lightning.models.components.preprocessing import IMAGENET, Preprocessing
from ctl_lightning.runtime.errors import InputError


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


class Small(TracedLibrary):
    """The library of `SmallNetwork` alone. It takes pictures of any size."""

    def network(self, name: str) -> nn.Module:
        """See `TracedLibrary.network`."""
        if name != "small":
            raise InputError(
                f"backbone.name={name}: backbone.library=small has one network, small; give backbone=resnet50 backbone.name=NAME for one of torchvision, backbone=timm for one of timm"
            )
        return SmallNetwork()

    def known_stages(self, name: str) -> list[str]:
        """See `TracedLibrary.known_stages`: its convolutions."""
        return ["regions.0", "regions.1", "regions.2", "pooled.0", "pooled.1"]

    def preprocessing(self, options: BackboneOptions) -> Preprocessing:
        """See `Library.preprocessing`."""
        return IMAGENET._replace(size=None)
