"""How large are pictures, and how are they resized, where the data options leave that to the backbone's weights?"""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ctl_lightning.models.components.backbone import preprocessing_of
from ctl_lightning.models.components.preprocessing import IMAGENET, Preprocessing, overridden
from ctl_lightning.runtime.config import Config, literal, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.starting_point import preprocessing_of_start

log = logging.getLogger(__name__)


def with_preprocessing(config: DictConfig) -> DictConfig:
    """A config with what the weights of its backbone were trained on, in place of each null of it.

    These are `backbone.preprocessing`, and of the data `stored_size`, `image_size` and `interpolation`.

    Raises:
        InputError: unknown network; a preprocessing that cannot be read; data options that contradict it.
    """
    options = resolved(config)
    found = _start(options) or preprocessing_of(options["backbone"])
    if not _has_weights(options) and (given := options["data"]["interpolation"]) is not None:
        found = found._replace(interpolation=given)  # nobody has resized pictures for them yet
    changed = {"backbone": {"preprocessing": found.plain()}, "data": _picture_options(options["data"], found)}
    return OmegaConf.merge(config, literal(changed))  # type: ignore[return-value]


def _has_weights(options: Config) -> bool:
    """Whether a resolved config's backbone does not start from nothing."""
    return options["backbone"]["weights"] is not None or options.get("init_from") is not None


def _start(options: Config) -> Preprocessing | None:
    """The preprocessing of the checkpoint that the run starts from (`init_from`); None: it starts from none."""
    if (given := options.get("init_from")) is None:
        return None
    try:
        found = preprocessing_of_start(given)
    except InputError:
        if options["ckpt_path"] is None:
            raise
        return None  # a run that goes on may have lost it
    return overridden(found, options["backbone"]["preprocessing"], "backbone.preprocessing")


def _picture_options(data: Config, found: Preprocessing) -> dict[str, Any]:
    """The three data options; those that are given stay. A backbone that takes any size has the paper's."""
    stored, seen, resampled = (data[name] for name in ("stored_size", "image_size", "interpolation"))
    if resampled is not None and resampled != found.interpolation and found.size is not None:
        raise InputError(
            f"data.interpolation={resampled}: the backbone's weights were trained on pictures that were resized by "
            f"{found.interpolation}; leave it out, or say with backbone.preprocessing.interpolation={resampled} that they were not"
        )
    if seen is None:
        seen = found.size or IMAGENET.size
        seen = seen if stored is None else min(seen, round(stored * found.crop_share))
    if stored is None:
        stored = round(seen / found.crop_share)
    return {"stored_size": stored, "image_size": seen, "interpolation": resampled or found.interpolation}


def warn_of_sizes(options: Config) -> None:
    """Warns if the pictures of a resolved config are smaller than those of the backbone's weights, or leave no room to cut."""
    data, backbone = options["data"], options["backbone"]
    size, share = backbone["preprocessing"]["size"], backbone["preprocessing"]["crop_share"]
    if _has_weights(options) and size is not None and data["image_size"] < size:
        log.warning(
            "data.image_size=%s data.stored_size=%s: the weights of %s were trained on %s pixels; leave both out, or give "
            "data.image_size=%s data.stored_size=%s",
            *(data["image_size"], data["stored_size"], backbone["name"], size, size, round(size / share)),
        )
    if data["augment"] != "none" and data["stored_size"] == data["image_size"]:
        log.warning(
            "data.augment=%s: pictures are stored at the %s pixels that the network sees, so a random part of one is all of it, mirrored "
            "or not; data.stored_size=%s leaves room",
            *(data["augment"], data["image_size"], round(data["image_size"] / IMAGENET.crop_share)),
        )
