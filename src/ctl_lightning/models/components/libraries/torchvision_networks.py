"""The library `torchvision`: its classification networks, with the layers that conf/backbone names."""

from pickle import UnpicklingError

from torch import nn
from torchvision import models
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.transforms import InterpolationMode

from ctl_lightning.models.components.libraries.library import BackboneOptions
from ctl_lightning.models.components.libraries.traced import TracedLibrary
from ctl_lightning.models.components.preprocessing import IMAGENET, Interpolation, Preprocessing
from ctl_lightning.runtime.errors import InputError, suggestion

INTERPOLATIONS: dict[InterpolationMode, Interpolation] = {
    InterpolationMode.BILINEAR: "bilinear",
    InterpolationMode.BICUBIC: "bicubic",
}


STAGES = {"mobilenet_v2": ["features.1", "features.3", "features.6", "features.13", "features.17"]}
"""Network -> the layers that end its stages: the last of each resolution."""


class Torchvision(TracedLibrary):
    """Networks that take pictures of 64 pixels as well as of other sizes: not ViT, MaxViT or Inception, which timm has."""

    def network(self, name: str) -> nn.Module:
        """See `TracedLibrary.network`."""
        check_name(name)
        network: nn.Module = get_model(name, weights=None)
        return network

    def known_stages(self, name: str) -> list[str]:
        """See `TracedLibrary.known_stages`."""
        residual = ("resnet", "resnext", "wide_resnet")
        return [f"layer{number}" for number in range(1, 5)] if name.startswith(residual) else STAGES.get(name, [])

    def preprocessing(self, options: BackboneOptions) -> Preprocessing:
        """See `Library.preprocessing`; of weights without a name, that of torchvision's first ones."""
        check_name(options["name"])
        known = get_model_weights(options["name"]).__members__
        if not known:
            return IMAGENET
        chosen = known.get(str(options["weights"]), next(iter(known.values())))
        found = chosen.transforms()
        if not hasattr(found, "crop_size"):  # a network for something else than classification
            return IMAGENET
        size, resized = found.crop_size[0], found.resize_size[0]
        mean, std = (tuple(round(float(one), 6) for one in values) for values in (found.mean, found.std))
        return Preprocessing(mean, std, size, INTERPOLATIONS[found.interpolation], min(1.0, size / resized))  # type: ignore[arg-type]

    def named_weights(self, name: str) -> list[str]:
        """See `Library.named_weights`: torchvision's enum, such as IMAGENET1K_V2."""
        return list(get_model_weights(name).__members__)

    def load_named(self, network: nn.Module, name: str, weights: str) -> None:
        """See `Library.load_named`."""
        try:
            state = get_model_weights(name)[weights].get_state_dict(progress=True, check_hash=True)
        # No network; a broken file in torch's cache.
        except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
            raise InputError(
                f"backbone.weights={weights}: could not download them ({' '.join(str(error).split())}); "
                "give a file with backbone.weights=FILE, or take backbone=efficientnet_lite0, whose weights come by pip"
            ) from None
        network.load_state_dict(state, strict=False)  # the classifier is cut off


def check_name(name: str) -> None:
    """Raises InputError: torchvision has no classification network of this name."""
    known = list_models(module=models)
    if name not in known:
        raise InputError(
            f"backbone.name: no network {name!r}{suggestion(name, known)}; the names of torchvision's classification networks "
            f"are known here; timm's are with backbone=timm backbone.name={name}"
        )
