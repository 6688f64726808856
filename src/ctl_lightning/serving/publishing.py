"""Writes a trained network as a folder that others load: weights, config without private paths, model card; whole or not at all."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctl_lightning.models.checkpoint import FORMAT, read_checkpoint
from ctl_lightning.models.published import CARD, CONFIG, LIBRARY, WEIGHTS, check_weights, is_inside
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.reading import read_json
from ctl_lightning.serving.trained import Trained

PICTURE = "picture.png"

FILES = (CONFIG, WEIGHTS, CARD, PICTURE)
"""All that a published model consists of; the picture may be missing."""

OF_RUN = ("method", "protocol", "seed")

OF_TRAINER = ("precision", "max_epochs", "devices", "num_nodes", "accumulate_grad_batches", "gradient_clip_val")
"""Options of the trainer that say how it was trained; the others are of one machine."""


def check_output(folder: Path) -> None:
    """Raises InputError: there is something at this path that is not a published model, and would be replaced."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"output={folder}: there is a file; give a folder that is new, or a published model")
    names = {path.name for path in folder.iterdir()}
    if odd := sorted(names - {*FILES}):
        raise InputError(f"output={folder}: {odd[0]!r} in it is not of a published model; give another folder")
    try:
        content = read_json(folder / CONFIG) if names else {"library_name": LIBRARY}
    except (InputError, OSError):
        content = None
    if not isinstance(content, dict) or content.get("library_name") != LIBRARY:
        raise InputError(f"output={folder}: what is in it was not published by ctl_lightning; give another folder")


def write_published_model(trained: Trained, folder: Path, card: str, picture: Path | None) -> None:
    """Writes a published model, reads it back, and puts it in place of the one that is there.

    Args:
        trained: checkpoint that is published.
        folder: folder of the model; see `check_output`.
        card: text of its README.md.
        picture: picture for the card, a PNG file.

    Raises:
        InputError: weights that are not finite, or not of the network that the options describe; an unreadable picture.
        OSError: the disk is full, ...
    """
    check_output(folder)
    check_weights(trained.checkpoint, trained.path)
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        _write(trained, temporary, card, picture)
        _compare(trained, temporary)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(trained: Trained, folder: Path, card: str, picture: Path | None) -> None:
    from safetensors.torch import save_file

    config = json.dumps(config_of(trained), indent=2, allow_nan=False) + "\n"
    (folder / CONFIG).write_text(config, encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")
    # Each a memory of its own, dense: safetensors takes no others.
    state = {name: value.detach().contiguous().clone() for name, value in _state(trained).items()}
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors makes a file that its owner alone reads
    if picture is not None:
        shutil.copyfile(picture, folder / PICTURE)


def _state(trained: Trained) -> dict[str, Tensor]:
    return trained.checkpoint["state_dict"]


def _compare(trained: Trained, folder: Path) -> None:
    """Raises InputError: what was written reads as something else."""
    written, state = read_checkpoint(folder / WEIGHTS), _state(trained)
    if not all(torch.equal(written["state_dict"][name], value) for name, value in state.items()):
        raise InputError(f"ckpt_path={trained.path}: its weights read back otherwise than written; try another disk")


def _replace(new: Path, folder: Path) -> None:
    """Moves a folder to a place, and deletes the one that is there; if that fails, it stays."""
    old = folder.with_name(f".{secrets.token_hex(4)}")
    there = folder.exists()
    if there:
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if there:
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def config_of(trained: Trained) -> dict[str, Any]:
    """The content of config.json: all that is read of a checkpoint but its weights, and no path of this machine."""
    checkpoint, config = trained.checkpoint, trained.config
    return {
        "library_name": LIBRARY,
        "package_version": _package_version(),
        "format": FORMAT,
        "pytorch-lightning_version": checkpoint["pytorch-lightning_version"],
        "hyper_parameters": _without_file(trained.options),
        "config": {
            **{name: config[name] for name in OF_RUN},
            "data": public_data(config["data"]),
            "trainer": {name: config["trainer"][name] for name in OF_TRAINER if name in config["trainer"]},
        },
        "TripletDataModule": {"pairs": checkpoint["TripletDataModule"]["pairs"]},
        "classifier": checkpoint.get("classifier"),
        "train_seconds": checkpoint.get("train_seconds"),
        "train_counts": checkpoint.get("train_counts"),
    }


def _package_version() -> str | None:
    try:
        return version(LIBRARY)
    except PackageNotFoundError:  # run from a source tree
        return None


def _without_file(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the model; of a file of weights that it began with, the name alone."""
    backbone = options["backbone"]
    weights = backbone.get("weights")
    return {**options, "backbone": backbone | {"weights": weights and Path(weights).name}}


def public_data(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the data as they are published.

    A path that begins with a root, a home or .. is of one machine: places become the defaults of conf/, files their
    names. Addresses go: nothing is fetched by what a published model says.
    """
    data = {name: value for name, value in options.items() if name != "_target_"}
    source = dict(data.get("source", {}))
    defaults = {"root": "cache/synthetic" if source.get("name") == "synthetic" else "data", "cache_dir": "cache"}
    for name in ("root", "cache_dir", "chunks_dir"):
        if name in data and not (isinstance(data[name], str) and is_inside(data[name])):
            data[name] = defaults.get(name)
    for options_of, names in ((data, ("split_file", "triplets_file")), (source, ("pairs_file", "categories_file"))):
        for name in names:
            if (place := options_of.get(name)) is not None and not is_inside(place):
                options_of[name] = Path(place).name
    if (images := source.get("images_dir")) is not None and not is_inside(images):
        source["images_dir"] = "images"
    addresses = {name: None for name in ("metadata_url", "images_url") if name in source}
    return data | ({"source": source | addresses} if "source" in data else {})
