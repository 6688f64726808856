"""Does a run train on features that a frozen backbone computed once, and how are they computed?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.scene_inputs import UNSTORED
from ctl_lightning.data.store.features import features_file
from ctl_lightning.data.store.scene_pictures import Strip
from ctl_lightning.models.components.libraries.library import BackboneOptions
from ctl_lightning.models.components.network import Network
from ctl_lightning.models.components.strips import pooled_strips
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
    reason = _why_not(backbone, augment)
    if reason and backbone["cache"] == "always":
        raise InputError(f"backbone.cache=always: {reason}, or backbone.cache=auto")
    if backbone["cache_views"] > 0 and (reason or augment == "none"):
        raise InputError(
            f"backbone.cache_views={backbone['cache_views']}: nobody would see them: {reason or 'data.augment=none asks for centres'}"
        )
    return reason is None


def _why_not(backbone: BackboneOptions, augment: str) -> str | None:
    """Why features cannot be computed once, and the way out; None: they can."""
    if backbone["cache"] == "never":
        return "backbone.cache=never"
    if not backbone["frozen"]:
        return "the backbone is tuned, so its features change; give backbone.frozen=true"
    if augment == "colour":
        return "data.augment=colour changes pictures anew in each step; give data.augment=crop or none"
    if augment == "crop" and not backbone["cache_views"]:
        return (
            "data.augment=crop cuts pictures anew in each step; give data.augment=none, or backbone.cache_views=4 for a choice of "
            "four random views"
        )
    return None


def check_scene_inputs(
    method: type[Network], name: str, loss: str, backbone: BackboneOptions, data: Mapping[str, Any]
) -> None:
    """Checks that a method can be shown what `data.scene` and `data.boxes` say.

    Args:
        method: class of the method.
        name: its name.
        loss: name of the loss.
        backbone: options of the backbone.
        data: options of the data.

    Raises:
        InputError: it cannot; or that takes cached features, and there are to be none.
    """
    scene, boxes = data["scene"], data["boxes"]
    if scene not in method.scene_inputs:
        raise InputError(
            f"data.scene={scene}: method={name} cannot be shown that of a scene; give data.scene={' or '.join(method.scene_inputs)}"
        )
    if boxes and loss != "info_nce":
        raise InputError(f"data.boxes=true: loss={loss} has no box loss; give loss=info_nce, or data.boxes=false")
    if boxes and "strips" not in method.scene_inputs:
        raise InputError(
            f"data.boxes=true: method={name} compares a product with the regions of a scene, which a box has not; give data.boxes=false"
        )
    if not method.sees:
        return
    needs = {
        f"method={name}": method.on_features,
        f"data.scene={scene}": scene in UNSTORED,
        "data.boxes=true": boxes,
    }
    wants = next((what for what, needed in needs.items() if needed), None)
    if wants is not None and (reason := _why_not(backbone, data["augment"])):
        raise InputError(f"{wants}: it takes features that a frozen backbone computes once, but {reason}")


def cache_features(
    module: CompleteTheLook, data: TripletDataModule, device: torch.device, only_if_there: bool = False
) -> Path | None:
    """Makes `data` give features instead of pictures; computes them on `device` if its cache has none.

    Args:
        module: module with the backbone.
        data: data module, already set up.
        device: torch device that computes the features.
        only_if_there: whether to compute none, as for a run that only measures and needs few of them; parts of scenes
            that no store has are always computed.

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

    @torch.inference_mode()
    def encode_strips(scenes: Sequence[Sequence[Strip]]) -> Tensor:
        return pooled_strips(backbone, scenes, device)

    views = options["cache_views"] if data.augment != "none" else 0
    plan = data.feature_plan(backbone.identity(), views, options["cache_dtype"])
    only_if_there = only_if_there and data.scene not in UNSTORED
    if only_if_there and not features_file(plan, data.cache_dir).exists():
        return None
    return data.use_features(plan, encode, encode_strips)
