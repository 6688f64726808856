"""How a checkpoint is found, read as plain data, and added to. No class that it names is imported."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ctl_lightning.models.components.libraries.registry import LIBRARIES
from ctl_lightning.models.components.network import Network
from ctl_lightning.models.published import (
    WEIGHTS,
    check_weights,
    is_published,
    on_this_machine,
    read_published_model,
)
from ctl_lightning.models.registry import METHODS, make_network, own_options
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import replacing

FORMAT = 3
"""Version of the checkpoint format; `_upgraded` reads older ones. Package version 0.1 wrote none, which means 1."""

CONTINUED = (2, FORMAT)
"""Formats whose runs can be continued: Lightning reads the file itself, without the upgrade of older ones."""

NEEDED = {"state_dict": dict, "hyper_parameters": dict, "pytorch-lightning_version": str}
"""What every checkpoint has, of which type."""

OF_TRAINING = {"callbacks": dict, "epoch": int, "global_step": int}
"""What a checkpoint has if a run can go on with it; someone may have left it out of what they publish."""

MONITOR = "val/auc"
"""Metric that chooses the best checkpoint and that a sweep maximises."""

NETWORK = "network."
"""Prefix of the names of the network's weights in a checkpoint."""

RENAMED_WEIGHTS = {"shift": "loss.shift", "temperature.logarithm": "loss.temperature.logarithm"}
"""Name of a weight in a checkpoint of format 1 -> its name today."""

SOURCES = {
    "ctl_lightning.data.synthetic.SyntheticLooks": "synthetic",
    "ctl_lightning.data.stl.ShopTheLook": "shop_the_look",
    "ctl_lightning.data.street2shop.Street2Shop": "street2shop",
    "ctl_lightning.data.folder.LooksFolder": "folder",
}
"""Class that a checkpoint of format 1 names as its data source -> name of that source today. No class is imported."""

DATA_BEFORE = {
    **{"interpolation": "bilinear", "twins": "keep", "folds": None, "fold": 0, "train_share": 1.0},
    **{"scene": "crop", "boxes": False},
}
"""Options of the data that came later than some checkpoints, at what they were before there was a choice."""

LOSSES_BEFORE = {"info_nce": {"box_weight": 0.5}}
"""Loss -> such options of it."""

METHODS_BEFORE = {"attention_temperature": 1.0, "learn_temperature": False}
"""Such options of methods."""

LAST = Path("checkpoints/last.ckpt")
"""Path of the last checkpoint within a run directory."""


def checkpoint_of(path: Path) -> Path:
    """The checkpoint file that a path means: of a run directory its best, or its last if the method learns nothing.

    Of a published model, a folder or hf://OWNER/NAME, it is the file of its weights; `read_checkpoint` reads that, too.

    Raises:
        InputError: a directory without checkpoints, or one where it is not clear which is the best; a model that cannot
            be fetched.
    """
    path = on_this_machine(path)
    if not path.is_dir():
        return path
    if is_published(path):
        return path / WEIGHTS
    found = sorted(path.glob("checkpoints/best*.ckpt"))
    if len(found) > 1:  # a run was killed between writing one and deleting the other
        states = read_checkpoint(path / LAST).get("callbacks", {}).values()
        named = {Path(state["best_model_path"]).name for state in states if state.get("best_model_path")}
        found = [one for one in found if one.name in named]
        if len(found) != 1:
            raise InputError(
                f"ckpt_path={path}: it is not clear which of its checkpoints is the best; name one of them"
            )
    best = found[0] if found else path / LAST
    if not best.is_file():
        raise InputError(f"ckpt_path={path}: a directory without checkpoints/best*.ckpt; give one that `train` made")
    return best


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint as plain data; no class that the file names is imported.

    Raises:
        InputError: the file is missing, unreadable, or not a checkpoint of this program.
    """
    published = path.name == WEIGHTS
    checkpoint = read_published_model(path) if published else _loaded(path)
    kinds = NEEDED | OF_TRAINING | {"format": int}
    if not isinstance(checkpoint, dict) or not (
        NEEDED.keys() <= checkpoint.keys()
        and all(isinstance(checkpoint[name], kind) for name, kind in kinds.items() if name in checkpoint)
    ):
        raise InputError(f"ckpt_path={path}: not a checkpoint of ctl_lightning; give one that `train` wrote")
    options = checkpoint["hyper_parameters"]
    if not isinstance(options.get("method"), str) or not isinstance(options.get("categories"), list):
        raise InputError(f"ckpt_path={path}: not a checkpoint of ctl_lightning; give one that `train` wrote")
    written = checkpoint.get("format", 1)
    if written > FORMAT:
        raise InputError(
            f"ckpt_path={path}: a newer version of ctl_lightning wrote it (checkpoint format {written}, here {FORMAT}); "
            "update ctl_lightning"
        )
    if written < 2:
        checkpoint = _named_as_in_2(checkpoint)
    current = _completed(checkpoint if written == FORMAT else _with_preprocessing(checkpoint))
    if published:
        check_weights(current, path)
    return current


def _loaded(path: Path) -> Any:
    """The content of a file that `torch.save` wrote, as plain values. Raises InputError: missing or unreadable."""
    if not path.is_file():
        raise InputError(f"ckpt_path={path}: no such file; checkpoints are in a run directory's folder checkpoints")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error class of its own for a broken or foreign file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"ckpt_path={path}: not a readable checkpoint ({reason}); give another one") from None


def _with_preprocessing(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of format 2 as it would be written today: its backbone names its library and its preprocessing."""
    options, config = checkpoint["hyper_parameters"], checkpoint.get("config")
    old = options.get("backbone")
    if not isinstance(old, dict) or "name" not in old:
        return checkpoint  # what is wrong is told where the network is made
    backbone = {"library": "small" if old["name"] == "small" else "torchvision", **old}
    found = LIBRARIES[backbone["library"]].preprocessing({"weights": None, **backbone})  # type: ignore[typeddict-item]
    backbone["preprocessing"] = found.plain()
    if isinstance(config, dict) and isinstance(config.get("model"), dict):
        config = config | {"backbone": backbone, "model": config["model"] | {"backbone": backbone}}
    return checkpoint | {"hyper_parameters": options | {"backbone": backbone}, "config": config}


def _named_as_in_2(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of format 1 with the names of format 2. Its `format` stays 1, so that no run continues it."""
    options = checkpoint["hyper_parameters"]
    if options["method"] in METHODS:
        others = {name for kind in METHODS.values() for name in own_options(kind)} - own_options(
            METHODS[options["method"]]
        ).keys()
        options = {name: value for name, value in options.items() if name not in others}
    state = {RENAMED_WEIGHTS.get(name, name): value for name, value in checkpoint["state_dict"].items()}
    upgraded = {"format": 1, **checkpoint, "hyper_parameters": options, "state_dict": state}
    source = checkpoint.get("config", {}).get("data", {}).get("source", {})
    if "_target_" in source:
        named = {"name": SOURCES.get(source["_target_"], source["_target_"])}
        source = named | {name: value for name, value in source.items() if name != "_target_"}
        upgraded["config"] = checkpoint["config"] | {"data": checkpoint["config"]["data"] | {"source": source}}
    return upgraded


def _completed(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint with the options that came later, at what they were before there was a choice."""
    options, config = checkpoint["hyper_parameters"], checkpoint.get("config")
    own = own_options(METHODS[options["method"]]) if options["method"] in METHODS else {}
    later: dict[str, Any] = {
        name: value for name, value in METHODS_BEFORE.items() if name in own and name not in options
    }
    if isinstance(loss := options.get("loss"), dict) and loss.get("name") in LOSSES_BEFORE:
        later["loss"] = LOSSES_BEFORE[loss["name"]] | loss
    if isinstance(backbone := options.get("backbone"), dict):
        later["backbone"] = _backbone_before(backbone)
    checkpoint = checkpoint | {"hyper_parameters": options | later}
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        return checkpoint
    if isinstance(config.get("model"), dict):
        config = config | {"model": config["model"] | later}
    if isinstance(backbone := config.get("backbone"), dict):
        config = config | {"backbone": _backbone_before(backbone)}
    return checkpoint | {"config": config | {"data": DATA_BEFORE | config["data"]}}


def _backbone_before(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a backbone with those that came later, at what they were before there was a choice."""
    traced = {} if options.get("library") == "timm" else {"stage_layers": None}
    return {"pooled": ["final"], **traced, **options}


@contextmanager
def fits_this_revision(path: Path) -> Iterator[None]:
    """Turns errors from making a checkpoint's network in this block into InputError: another revision wrote it."""
    try:
        yield
    except (InputError, TypeError, ValueError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"ckpt_path={path}: it does not fit this revision of ctl_lightning ({reason}); train again"
        ) from None


def network_of(checkpoint: Mapping[str, Any], path: Path) -> Network:
    """The network of a checkpoint with its weights, in eval mode, without Lightning.

    Args:
        checkpoint: contents of the checkpoint, from `read_checkpoint`.
        path: file of the checkpoint, for error messages.

    Raises:
        InputError: another revision of the package wrote it.
    """
    options = dict(checkpoint["hyper_parameters"])
    with fits_this_revision(path):
        if options["method"] not in METHODS:
            raise ValueError(f"method {options['method']!r}")
        own = {name: options[name] for name in own_options(METHODS[options["method"]])}
        network = make_network(options["method"], len(options["categories"]), options["backbone"], own)
        state = checkpoint["state_dict"]
        network.load_state_dict({name.removeprefix(NETWORK): state[name] for name in state if name.startswith(NETWORK)})
    return network.eval()


def add_to_checkpoint(path: Path, **values: Any) -> None:
    """Adds plain values to an existing checkpoint file. Raises InputError as `read_checkpoint` does."""
    checkpoint = read_checkpoint(path)
    with replacing(path) as temporary:
        torch.save(checkpoint | values, temporary)
