"""A published model: a folder with config.json and model.safetensors, as the Hub has it. It is read as a stranger's: as numbers and texts alone."""

import math
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ctl_lightning.models.registry import METHODS, make_loss, make_network, own_options
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.hub import HubModel, fetched
from ctl_lightning.runtime.reading import read_json, shown

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

LIBRARY = "ctl_lightning"
"""What `library_name` in config.json says."""

CONTENT: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "pytorch-lightning_version": str,
    "hyper_parameters": dict,
    "config": dict,
    "TripletDataModule": dict,
    "classifier": dict,
    "train_seconds": (int, float),
    "train_counts": dict,
}
"""The parts of a checkpoint that config.json has, and of which type; the last three may be missing."""

MAY_BE_MISSING = ("classifier", "train_seconds", "train_counts")

DATA_PLACES = ("root", "cache_dir", "chunks_dir", "split_file", "triplets_file")
"""Options of the data that are paths, from the working directory."""

SOURCE_PLACES = ("pairs_file", "categories_file", "images_dir")
"""Options of a source that are paths, from the data's root."""

LARGEST_CONFIG, LARGEST_HEADER = 16 << 20, 16 << 20
"""Bytes; the Hub has no config.json, and safetensors no header, that is anywhere near."""

DEPTH = 16
"""Most levels of brackets in config.json; ours has six."""

LARGEST = {"stored_size": 8192, "image_size": 8192, "batch_size": 65536, "eval_batch_size": 65536, "num_workers": 1024}
"""Option of the data -> its largest value: a network's pictures are not larger, and memory is not endless."""

NOT_READ = ("pytorch_model.bin", "model.safetensors.index.json", "model.ckpt", "pytorch_model.bin.index.json")
"""Files in which others publish weights, and which are not read: pickles, and lists of further files."""


def is_published(path: Path) -> bool:
    """Whether a path means a published model: on the Hub, a folder, or the weights in it. Raises InputError: a wrong hf://."""
    if HubModel.named(path) is not None or path.name == WEIGHTS:
        return True
    return path.is_dir() and any(os.path.lexists(path / name) for name in (CONFIG, WEIGHTS))


def on_this_machine(path: Path) -> Path:
    """The path itself; of hf://OWNER/NAME the folder that it is fetched to. Raises InputError: it cannot be fetched."""
    try:
        model = HubModel.named(path)
        return path if model is None else fetched(model, (CONFIG, WEIGHTS))
    except InputError as error:
        raise InputError(f"ckpt_path={error}") from None


def read_published_model(path: Path) -> dict[str, Any]:
    """Reads a published model as a checkpoint's content, as far as it is published; `check_weights` compares its weights.

    Args:
        path: its file model.safetensors, beside which config.json is.

    Raises:
        InputError: a file is missing, unreadable, too large, not ours, or names what is not in the folder.
    """
    content = _read_config(path.parent / CONFIG)
    return content | {"state_dict": _read_weights(path)}


def check_weights(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Compares the weights of a published model with its network, before that takes memory.

    Args:
        checkpoint: content from `read_published_model`, as it would be written today.
        path: file of the weights, for messages.

    Raises:
        InputError: a weight is missing, left over, of another shape, no number, or not finite.
    """
    state, expected = checkpoint["state_dict"], _expected(checkpoint["hyper_parameters"], path)
    for name in sorted(state.keys() ^ expected.keys()):
        has = "has" if name in state else "lacks"
        raise InputError(f"ckpt_path={path}: it {has} {shown(name)}, unlike the network that {CONFIG} describes")
    for name, own in expected.items():
        value = state[name]
        if value.shape != own.shape:
            sizes = " and ".join("x".join(map(str, one.shape)).join("()") for one in (value, own))
            raise InputError(f"ckpt_path={path}: {name} has the sizes {sizes} here and in what {CONFIG} describes")
        if value.is_complex() or value.is_floating_point() != own.is_floating_point():
            raise InputError(f"ckpt_path={path}: {name} holds numbers of the type {value.dtype}, not {own.dtype}")
        if not value.to(own.dtype).isfinite().all():
            raise InputError(f"ckpt_path={path}: {name} is not finite (NaN or infinity); nothing can be made of it")


def _expected(options: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Name -> weight of the network and the loss that options describe, without memory for their values."""
    try:
        method, loss = options["method"], options["loss"]
        own = {name: options[name] for name in own_options(METHODS[method])}
        with torch.device("meta"):
            network = make_network(method, len(options["categories"]), options["backbone"], own)
            parts = {"network": network, "loss": make_loss(loss)}
    except (InputError, TypeError, ValueError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"ckpt_path={path}: {CONFIG} describes no network of this version of ctl_lightning ({type(error).__name__}: "
            f"{reason}); update ctl_lightning, or publish it again"
        ) from None
    return {f"{part}.{name}": value for part, made in parts.items() for name, value in made.state_dict().items()}


def _read_config(path: Path) -> dict[str, Any]:
    """The parts of CONTENT in config.json."""
    where = f"ckpt_path={path}"
    _check_place(path, where)
    if path.stat().st_size > LARGEST_CONFIG:
        raise InputError(f"{where}: {path.stat().st_size:,} bytes are no description of a model")
    try:
        found = read_json(path)
    except InputError as error:
        raise InputError(f"ckpt_path={error}") from None
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    if not isinstance(found, dict) or found.get("library_name") != LIBRARY:
        raise InputError(f"{where}: not a model that ctl_lightning published; give one that `publish` wrote")
    for name, value in _values(found, where):
        if name == "_target_":
            raise InputError(f"{where}: it names a class ({shown(value)}); a published model names none")
    for name, kind in CONTENT.items():
        if not (isinstance(found.get(name), kind) or (name in MAY_BE_MISSING and found.get(name) is None)):
            raise InputError(f"{where}: {name} is {shown(found.get(name))}; give one that `publish` wrote")
    _check_hyper_parameters(found["hyper_parameters"], where)
    _check_data(found["config"].get("data"), where)
    for name, values, kinds in (
        ("classifier", found.get("classifier") or {}, (int, float)),
        ("TripletDataModule.pairs", found["TripletDataModule"].get("pairs"), str),
        ("train_counts", found.get("train_counts") or {}, int),
    ):
        if not (isinstance(values, dict) and all(_is(value, kinds) for value in values.values())):
            raise InputError(f"{where}: {name} is {shown(values)}; give one that `publish` wrote")
    if any(count < 1 for count in (found.get("train_counts") or {}).values()):
        raise InputError(f"{where}: train_counts has a number below 1; give one that `publish` wrote")
    return {name: found[name] for name in CONTENT if found.get(name) is not None}


def _values(value: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(name, value) of every entry of a JSON value. Raises InputError: brackets too deep, a number out of all bounds."""
    if depth > DEPTH:
        raise InputError(f"{where}: brackets within brackets within brackets; a published model has none that deep")
    if (isinstance(value, int) and abs(value) >= 1 << 63) or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(f"{where}: {shown(value)} is a number out of all bounds")
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in entries:
        yield str(name), inner
        yield from _values(inner, where, depth + 1)


def _check_hyper_parameters(options: Mapping[str, Any], where: str) -> None:
    names = options.get("categories")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: hyper_parameters.categories is {shown(names)}; expected is a list of names")
    if len({*names}) < len(names) or any(unicodedata.category(letter) == "Cc" for name in names for letter in name):
        raise InputError(f"{where}: hyper_parameters.categories has a name twice, or one with a control character")


def _check_data(options: Any, where: str) -> None:
    """Raises InputError: a path that leads elsewhere, or a size that no picture has."""
    source = options.get("source", {}) if isinstance(options, dict) else None
    if not isinstance(source, dict):
        raise InputError(f"{where}: config.data is {shown(options)}; give one that `publish` wrote")
    places = {f"data.{name}": options.get(name) for name in DATA_PLACES}
    for name, place in (places | {f"data.source.{name}": source.get(name) for name in SOURCE_PLACES}).items():
        if place is not None and not (isinstance(place, str) and is_inside(place)):
            raise InputError(
                f"{where}: {name} is {shown(place)}; a published model names no place outside, nor a hidden one"
            )
    for name, largest in LARGEST.items():
        if name in options and not (_is(options[name], int) and 0 <= options[name] <= largest):
            raise InputError(f"{where}: data.{name} is {shown(options[name])}; expected is a number up to {largest:,}")


def is_inside(place: str) -> bool:
    """Whether a path stays within the folder that it begins in, and is not hidden."""
    parts = PurePosixPath(place.replace("\\", "/")).parts
    return "\0" not in place and not any(part.startswith((".", "/", "~")) or ":" in part for part in parts)


def _is(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    where = f"ckpt_path={path}"
    _check_place(path, where)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    claimed = int.from_bytes(start[:8], "little")
    if start.startswith((b"PK", b"\x80")) and start[8:] != b"{":
        raise InputError(f"{where}: a pickle in place of safetensors, and reading it can run code, so it is not read")
    if len(start) < 9 or claimed > min(LARGEST_HEADER, path.stat().st_size - 8):
        raise InputError(f"{where}: not a safetensors file, or cut off (its header would have {claimed:,} bytes)")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: not a readable safetensors file, perhaps cut off ({reason})") from None


def _check_place(path: Path, where: str) -> None:
    """Raises InputError: there is no such file, or it is a link to elsewhere; the Hub's cache links to its blobs."""
    if not os.path.lexists(path):
        others = [name for name in NOT_READ if os.path.lexists(path.parent / name)]
        instead = f" ({others[0]} is there, but weights are read from one safetensors file alone)" if others else ""
        raise InputError(f"{where}: no such file{instead}; a published model is {CONFIG} and {WEIGHTS}")
    folder, real = Path(os.path.realpath(path.parent)), Path(os.path.realpath(path))
    blobs = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else folder
    if not any(real.is_relative_to(place) for place in (folder, blobs)):
        raise InputError(f"{where}: a link to a place outside its folder; put the file itself there")
    if not real.is_file():
        raise InputError(f"{where}: not a file")
