"""Whether a run trains on features that a frozen backbone computed once, and who computes them."""

from pathlib import Path

import torch
from torch import Tensor

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.store.features import features_file
from ctl_lightning.models.components.backbone import BackboneOptions
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.module import CompleteTheLook


def uses_cache(backbone: BackboneOptions, augment: str) -> bool:
    """What the options ask for.

    Args:
        backbone: `cache` "auto": if the features of a picture are the same whenever training asks for it, or `cache_views` of
            them are to do; "always": or else an error; "never".
        augment: of training pictures; see TripletDataModule.

    Raises:
        InputError: "always", but the features of a picture would not stay the same; views that nobody would see.
    """
    reason = None
    if backbone["cache"] == "never":
        reason = "backbone.cache=never"
    elif not backbone["frozen"]:
        reason = "the backbone is tuned, so its features change; give backbone.frozen=true"
    elif augment == "colour":
        reason = "data.augment=colour changes pictures anew in each step; give data.augment=crop or none"
    elif augment == "crop" and not backbone["cache_views"]:
        reason = (
            "data.augment=crop cuts pictures anew in each step; give data.augment=none, or backbone.cache_views=4 for a choice of "
            "four random views"
        )
    if reason and backbone["cache"] == "always":
        raise InputError(f"backbone.cache=always: {reason}, or backbone.cache=auto")
    if backbone["cache_views"] > 0 and (reason or augment == "none"):
        raise InputError(
            f"backbone.cache_views={backbone['cache_views']}: nobody would see them: {reason or 'data.augment=none asks for centres'}"
        )
    return reason is None


def cache_features(
    module: CompleteTheLook, data: TripletDataModule, device: torch.device, only_if_there: bool = False
) -> Path | None:
    """Lets `data` give features in place of pictures; computes them on `device` if its cache has none.

    Args:
        module: whose backbone.
        data: set up.
        device: that computes.
        only_if_there: compute none: who only measures needs few of them.

    Returns:
        The file of the features; None if they are not there and not to be computed.

    Raises:
        InputError: no room on the disk; numbers too large for the type.
    """
    options: BackboneOptions = module.hparams["backbone"]
    backbone = module.network.backbone.to(device)

    @torch.inference_mode()
    def encode(pictures: Tensor) -> tuple[Tensor, Tensor]:
        return backbone(pictures.to(device, non_blocking=True))

    views = options["cache_views"] if data.augment != "none" else 0
    plan = data.feature_plan(backbone.identity(), views, options["cache_dtype"])
    if only_if_there and not features_file(plan, data.cache_dir).exists():
        return None
    return data.use_features(plan, encode)
