"""Does a run train on features that a frozen backbone computed once, and how are they computed?"""

from pathlib import Path

import torch
from torch import Tensor

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.store.features import features_file
from ctl_lightning.models.components.libraries.library import BackboneOptions
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.module import CompleteTheLook


def uses_cache(backbone: BackboneOptions, augment: str) -> bool:
    """Whether the options ask for cached features.

    Args:
        backbone: options of the backbone. `cache` is "auto": yes if the features of a picture are the same whenever
            training asks for it, or if `cache_views` random views of it are to be enough; "always": the same, but an
            error instead of no; or "never".
        augment: augmentation of training pictures, such as "crop"; see TripletDataModule.

    Raises:
        InputError: `cache` is "always", but the features of a picture would not stay the same; `cache_views` asks for
            views that would never be used.
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
    """Makes `data` give features instead of pictures; computes them on `device` if its cache has none.

    Args:
        module: module with the backbone.
        data: data module, already set up.
        device: torch device that computes the features.
        only_if_there: whether to compute none, as for a run that only measures and needs few of them.

    Returns:
        File of the features; None if they are not there and are not to be computed.

    Raises:
        InputError: no room on the disk; features too large for `cache_dtype`.
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
