"""What pictures were the weights of a backbone trained on: size, interpolation, mean, standard deviation? Where is it written?

Nobody has to name a format: the file that lies beside weights from a hub is found and read.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from typing_extensions import TypedDict  # on Python 3.11 pydantic cannot read typing's

from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.reading import read_json

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

RESAMPLE: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic")
"""Pillow's numbers of the interpolations, which Hugging Face's preprocessor_config.json has, from 0."""

Colour = tuple[float, float, float]


class Preprocessing(NamedTuple):
    """Pictures as the weights of a network were trained on them.

    Attributes:
        mean: mean of red, green and blue that is subtracted, of values in [0, 1].
        std: what is divided by then.
        size: side of the square that the network sees, in pixels; None: any.
        interpolation: how pictures were resized.
        crop_share: `size` as a share of the side of the resized picture that it was cut from, at most 1.
    """

    mean: Colour = (0.485, 0.456, 0.406)
    std: Colour = (0.229, 0.224, 0.225)
    size: int | None = 224
    interpolation: Interpolation = "bilinear"
    crop_share: float = 0.875

    def plain(self) -> dict[str, Any]:
        """Name -> value, as in a config and a checkpoint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


IMAGENET = Preprocessing()
"""That of torchvision's first ImageNet weights, and the paper's."""


class PreprocessingOptions(TypedDict):
    """Options of conf/backbone that take the place of a value of `Preprocessing`; None: the weights' own."""

    mean: list[float] | None
    std: list[float] | None
    size: int | None
    interpolation: Interpolation | None
    crop_share: float | None


def of_values(values: Mapping[str, Any], where: str) -> Preprocessing:
    """Preprocessing from plain values; what is absent or None is ImageNet's.

    Args:
        values: values by the name of an attribute of `Preprocessing`.
        where: option or file that they come from, for messages.

    Raises:
        InputError: a value that is no such thing, an unknown name.
    """
    for name in sorted(values.keys() - set(Preprocessing._fields)):
        raise InputError(
            f"{where}: there is no {name!r}{suggestion(name, Preprocessing._fields)}; there are: {', '.join(Preprocessing._fields)}"
        )
    whole = IMAGENET.plain() | {name: value for name, value in values.items() if value is not None or name == "size"}
    mean, std = (_colour(whole[name], f"{where}: {name}", least) for name, least in (("mean", 0.0), ("std", 1e-6)))
    size, kind, share = whole["size"], whole["interpolation"], whole["crop_share"]
    if size is not None and not (isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**14):
        raise InputError(f"{where}: size is {size!r}, and must be a number of pixels, such as 224")
    if kind not in get_args(Interpolation):
        raise InputError(f"{where}: interpolation is {kind!r}, and must be {', '.join(get_args(Interpolation))}")
    if not (_is_number(share) and 0 < share <= 1):
        raise InputError(f"{where}: crop_share is {share!r}, and must be above 0 and at most 1, such as 0.875")
    return Preprocessing(mean, std, size, kind, float(share))


def overridden(found: Preprocessing, options: PreprocessingOptions | None, where: str) -> Preprocessing:
    """Preprocessing with the values that options give in place of those of the weights. Raises InputError as `of_values`."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    return of_values(found.plain() | given, where)


def beside(weights: Path) -> tuple[Preprocessing, Path] | None:
    """The preprocessing that is written beside a file of weights, and where; None: nowhere.

    It is looked for in FILE.json of the same name (the attributes of `Preprocessing`), then in what hubs keep in one
    folder with the weights: config.json (timm's, or ours), open_clip_config.json, preprocessor_config.json.

    Raises:
        InputError: such a file that cannot be read, or holds other values.
    """
    own = weights.with_suffix(".json")
    for path, read in ((own, dict), *((weights.parent / name, reader) for name, reader in READERS.items())):
        if path.is_file():
            found = read_json(path)
            if isinstance(found, Mapping) and (values := _values(read, found)) is not None:
                return of_values(values, str(path)), path
            if path == own and own.name not in READERS:
                raise InputError(f"{own}: not a preprocessing; expected is such as {IMAGENET.plain()}")
    return None


def of_checkpoint(path: Path, otherwise: Preprocessing) -> Preprocessing | None:
    """The preprocessing of a checkpoint of ours; None: the file is something else, or broken, which loading it tells.

    Args:
        path: file of the checkpoint.
        otherwise: what an older one, which has mean and std alone, was trained on.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        values = otherwise.plain() | content.get("hyper_parameters", {}).get("backbone", {}).get("preprocessing", {})
        colours = {
            name: content["state_dict"][f"network.backbone.{name}"].flatten().tolist() for name in ("mean", "std")
        }
    except Exception:  # torch.load has no error class of its own for a broken or foreign file
        return None
    return of_values(values | {name: [round(one, 6) for one in value] for name, value in colours.items()}, str(path))


def _values(read: "Callable[[Mapping[str, Any]], dict[str, Any] | None]", found: Mapping[str, Any]) -> Any:
    try:
        return read(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError):
        return None  # a file of this name with another purpose


def of_timm(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of timm's `pretrained_cfg`, or of a config.json that has it; None: it has none."""
    found = config.get("pretrained_cfg", config)
    if "input_size" not in found:
        return None
    return {
        "mean": found["mean"],
        "std": found["std"],
        "size": found["input_size"][-1],
        "interpolation": found["interpolation"],
        "crop_share": found["crop_pct"],
    }


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config.json: of timm, or of a model that `publish` wrote."""
    found: dict[str, Any] = of_timm(config) or config["hyper_parameters"]["backbone"]["preprocessing"]
    return found


def _of_open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an open_clip_config.json; it resizes to the size and crops nothing."""
    found = config["preprocess_cfg"]
    size = found["size"] if "size" in found else config["model_cfg"]["vision_cfg"]["image_size"]
    return {
        "mean": found["mean"],
        "std": found["std"],
        "size": size[-1] if isinstance(size, list) else size,
        "interpolation": found.get("interpolation", "bicubic"),
        "crop_share": 1.0,
    }


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a preprocessor_config.json of Hugging Face's transformers."""
    size, crop = config["size"], config.get("crop_size")
    side = size if isinstance(size, int) else size["height"] if "height" in size else size["shortest_edge"]
    seen = crop if isinstance(crop, int) else (crop or {}).get("height", side)
    return {
        "mean": config["image_mean"],
        "std": config["image_std"],
        "size": seen if config.get("do_center_crop", crop is not None) else side,
        "interpolation": RESAMPLE[config["resample"]],
        "crop_share": seen / side if config.get("do_center_crop", crop is not None) else 1.0,
    }


READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "config.json": _of_config,
    "open_clip_config.json": _of_open_clip,
    "preprocessor_config.json": _of_transformers,
}
"""File that a hub keeps beside weights -> what reads its values."""


def _colour(value: Any, where: str, least: float) -> Colour:
    if not (
        isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_number(one) and one >= least for one in value)
    ):
        raise InputError(f"{where}={value!r}: must be three numbers, of red, green and blue, such as [0.5, 0.5, 0.5]")
    red, green, blue = (float(one) for one in value)
    return red, green, blue


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
