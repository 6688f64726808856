"""Which class each method and loss name stands for. Configs and checkpoints give such a name, never a class."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_type_hints

from ctl_lightning.models.bpr_dae import DualAutoEncoder
from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.libraries.library import BackboneOptions
from ctl_lightning.models.components.losses import (
    BPRLoss,
    ContrastiveLoss,
    HingeLoss,
    InBatchHingeLoss,
    InfoNCELoss,
    LogisticLoss,
    Loss,
)
from ctl_lightning.models.components.network import Network
from ctl_lightning.models.geometry import Geometry
from ctl_lightning.models.global_only import GlobalOnly
from ctl_lightning.models.hybrid import Hybrid
from ctl_lightning.models.ibr import LowRankMahalanobis
from ctl_lightning.models.imagenet import RawFeatures
from ctl_lightning.models.local_only import LocalOnly
from ctl_lightning.models.popularity import Popularity
from ctl_lightning.models.recipe import Recipe
from ctl_lightning.models.siamese import Siamese
from ctl_lightning.runtime.errors import InputError, suggestion

METHODS: dict[str, type[Network]] = {
    "hybrid": Hybrid,
    "global": GlobalOnly,
    "local": LocalOnly,
    "siamese": Siamese,
    "ibr": LowRankMahalanobis,
    "bpr_dae": DualAutoEncoder,
    "imagenet": RawFeatures,
    "popularity": Popularity,
    "geometry": Geometry,
    "recipe": Recipe,
}

LOSSES: dict[str, type[Loss]] = {
    "triplet": HingeLoss,
    "in_batch_triplet": InBatchHingeLoss,
    "info_nce": InfoNCELoss,
    "contrastive": ContrastiveLoss,
    "logistic": LogisticLoss,
    "bpr": BPRLoss,
}


def make_network(
    method: str, categories: int, backbone: BackboneOptions, options: Mapping[str, Any], loss: str | None = None
) -> Network:
    """Makes the network of a method, with random weights.

    Args:
        method: name of the method, a key of METHODS.
        categories: number of categories.
        backbone: options of the backbone.
        options: options of the method, which are the keywords of its constructor.
        loss: name of the loss to train it with, a key of LOSSES; None if it is not trained.

    Raises:
        ValueError: an option out of its range, or of another method; a loss that cannot train it.
        TypeError: an option is missing.
        InputError: no such method, image network or layer.
    """
    kind = _find(METHODS, "model", method)
    for name in options.keys() - (own := own_options(kind)):
        raise ValueError(
            f"method={method} has no option {name!r}{suggestion(name, own)}; it has: {', '.join(own) or 'none'}"
        )
    made = Backbone(backbone) if kind.sees else None
    network = kind(made, categories, **options)
    if loss is not None and network.losses and loss not in network.losses:
        plain = " with model.squared=false" if options.get("squared") is False else ""
        raise ValueError(f"loss={loss} cannot train method={method}{plain}; give loss={', '.join(network.losses)}")
    return network


def make_loss(options: Mapping[str, Any]) -> Loss:
    """Makes a loss from its `name`, a key of LOSSES, and its own options.

    Raises the errors of `make_network`; an option is named `loss.OPTION` there.
    """
    kind = _find(LOSSES, "loss", options["name"])
    own = {name: value for name, value in options.items() if name != "name"}
    for name in own_options(kind).keys() - own:
        raise ValueError(f"loss.{name}: loss={options['name']} needs it")
    try:
        return kind(**own)
    except ValueError as error:
        raise ValueError(f"loss.{error}") from None


def own_options(kind: type[Network] | type[Loss]) -> dict[str, Any]:
    """The options that a method or a loss has of its own: name -> annotation."""
    hints = get_type_hints(kind.__init__)
    return {name: hints[name] for name in inspect.signature(kind).parameters if name not in ("backbone", "categories")}


def model_hints(options: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of the options of conf/model, for the method and the loss that the options name.

    Args:
        options: options of conf/model, as far as they are known.

    Returns:
        Name -> annotation, or such a mapping for options within options.
    """
    method, loss = options.get("method"), options.get("loss")
    name = loss.get("name") if isinstance(loss, Mapping) else None
    own = own_options(METHODS[method]) if method in METHODS else dict.fromkeys(options, Any)
    of_loss = own_options(LOSSES[name]) if name in LOSSES else dict.fromkeys(loss or (), Any)
    return {
        **own,
        "method": Literal[tuple(METHODS)],
        "backbone": BackboneOptions,
        "loss": {**of_loss, "name": Literal[tuple(LOSSES)]},
    }


def _find(known: Mapping[str, Any], option: str, name: str) -> Any:
    if name not in known:
        raise InputError(f"there is no {option}={name}{suggestion(str(name), known)}; there are: {', '.join(known)}")
    return known[name]
