"""How are the weights of an image network found in a file, however others have saved them? No code in a file is run."""

import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctl_lightning.runtime.errors import InputError

log = logging.getLogger(__name__)

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Endings of files of weights; what is in one is told from its first bytes."""

WRAPPERS = re.compile(r"(^|\.)(?:(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")
"""What torch.compile, FSDP and activation checkpointing put into the middle of a name."""

AVERAGES = {"ema", "swa", "averaged", "averaging", "teacher", "momentum", "target", "k"}
"""Words in a key that mean an average of the weights over training, such as `state_dict_ema` or MoCo's `encoder_k`."""

UNNEEDED = "num_batches_tracked"
"""A count that BatchNorm keeps and that files from before torch 0.4.1 lack; nothing here depends on it."""

DEPTH = 8
"""Levels of nesting that are looked through; what trainers write has at most four."""


def load_file(network: nn.Module, path: Path, name: str) -> None:
    """Loads the weights of a network, or of the part of it that is used, from a file.

    The state dict may be anywhere in the file, under any key (`state_dict`, `model`, ...), and its names may have any
    prefix (`module.`, `backbone.`, ...). What the network does not have, such as a classifier, is ignored. Of weights
    and their average, the weights are taken.

    Args:
        network: network whose parameters and buffers are overwritten; all of them must be in the file, with their
            shapes, and finite. Other floating-point types are converted.
        path: file that `torch.save` or safetensors wrote.
        name: name of the network, such as "resnet50", for messages.

    Raises:
        InputError: unreadable, or other weights; the message says what the file holds and what differs first.
    """
    where = f"backbone.weights={path}"
    content = _read(path, where)
    tensors = {_unwrapped(key): value for key, value in _tensors(content)}
    own = network.state_dict()
    needed = {key: value for key, value in own.items() if not key.endswith(UNNEEDED)}
    if not tensors:
        raise InputError(f"{where}: holds {_described(content)}, no weights; expected are {_expected(needed, name)}")
    prefix = _prefix(tensors, needed, where, name)
    if prefix is None:
        raise InputError(f"{where}: these are not the weights of {name}: {_difference(content, tensors, needed)}")
    found = {key: _plain(tensors[prefix + key], needed[key], f"{where}: {prefix}{key}") for key in needed}
    for key in own.keys() - needed.keys():
        count = tensors.get(prefix + key)
        if count is not None and (count.dtype, count.shape) == (own[key].dtype, own[key].shape):
            found[key] = count
    network.load_state_dict(found, strict=False)


def _read(path: Path, where: str) -> Any:
    """The content of a file, as plain values and tensors."""
    if path.is_dir():
        inside = sorted(
            one for pattern in ("*", "checkpoints/*") for one in path.glob(pattern) if one.suffix in ENDINGS
        )
        give = (
            f"give the file, such as {inside[0]}"
            if inside
            else f"with no file in it that ends with {', '.join(ENDINGS)}"
        )
        raise InputError(f"{where}: a folder; {give}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    if foreign := _foreign(start):
        raise InputError(f"{where}: {foreign}")
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or start[257:262] == b"ustar":
        return _read_torch(path, where)
    if start[8:9] == b"{":
        return _read_safetensors(path, where)
    raise InputError(f"{where}: not a readable file of weights; expected is what torch.save or safetensors writes")


def _foreign(start: bytes) -> str | None:
    """What a file is, by its first bytes, that people take for weights; None: it may be weights."""
    if not start:
        return "an empty file (0 bytes); fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, in place of the weights; fetch them with `git lfs pull`"
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file, such as Keras writes; convert it to a state dict of torch"
    text = start.lstrip(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"<":
        return "a web page, in place of the weights; fetch the file itself"
    if text[:1] == b"{" and b'"weight_map"' in start:
        return "the index of weights in several files; save them as one file"
    return None


def _read_torch(path: Path, where: str) -> Any:
    try:
        # Of a path, torch would look at the ending too; its warnings come before what is wrong is told.
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error class of its own for a broken or foreign file
        said = str(error)
        if "TorchScript" in said:
            raise InputError(f"{where}: a TorchScript program; save its state_dict() with torch.save") from None
        named = re.search(r"GLOBAL (\S+)", said) or re.search(r"(?:instruction|class|type) ([\w.]+\.[\w.]+)", said)
        if "weights_only" in said and named:
            raise InputError(
                f"{where}: holds Python objects beside tensors ({named[1]}), and reading those can run code, so it is not "
                "read; where you trust it, load it with torch.load(FILE, weights_only=False) and save the state dict in "
                "it again with torch.save(STATE_DICT, NEW_FILE)"
            ) from None
        reason = (said.splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{where}: not a readable file of weights, perhaps cut off ({reason})") from None


def _read_safetensors(path: Path, where: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file as load

    try:
        return load(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: not a readable safetensors file, perhaps cut off ({reason})") from None


def _tensors(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts and lists, with its dotted name."""
    if isinstance(content, Tensor):
        yield prefix.removesuffix("."), content
    elif isinstance(content, (Mapping, list, tuple)) and depth < DEPTH:
        items: Iterable[tuple[Any, Any]] = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in items:
            yield from _tensors(value, f"{prefix}{key}.", depth + 1)


def _unwrapped(key: str) -> str:
    return WRAPPERS.sub(r"\1", key)


def _prefix(tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor], where: str, name: str) -> str | None:
    """The prefix under which the tensors of a file have all the needed ones; None: there is none."""
    first = next(iter(needed))
    all_found = [prefix for prefix in _prefixes(tensors, [first]) if not _lacking(tensors, needed, prefix)]
    plain = [prefix for prefix in all_found if not AVERAGES & {*re.split(r"[._]", prefix)}] or all_found
    different = [
        one for one in plain[1:] if any(not torch.equal(tensors[one + k], tensors[plain[0] + k]) for k in needed)
    ]
    if different:
        names = " and ".join(repr(_word(one)) for one in (plain[0], *different))
        raise InputError(
            f"{where}: holds weights of {name} under {names}; save those that are meant as a file of their own"
        )
    if not plain:
        return None
    if plain == all_found and AVERAGES & {*re.split(r"[._]", plain[0])}:
        log.warning("%s: only averaged weights are there; those under %r are taken", where, _word(plain[0]))
    elif others := [prefix for prefix in all_found if prefix not in plain]:
        log.warning(
            "%s: the weights under %r are taken, not their average %r", where, _word(plain[0]), _word(others[0])
        )
    return plain[0]


def _prefixes(tensors: Iterable[str], needed: Iterable[str]) -> list[str]:
    """What stands before the needed names in the names of a file, shortest first."""
    found = {key.removesuffix(one) for one in needed for key in tensors if key.endswith(one)}
    return sorted((prefix for prefix in found if not prefix or prefix.endswith(".")), key=lambda one: (len(one), one))


def _lacking(tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor], prefix: str) -> list[str]:
    """The needed names that are not in the file under this prefix, or have another shape there."""
    return [
        key
        for key, value in needed.items()
        if prefix + key not in tensors or tensors[prefix + key].shape != value.shape
    ]


def _plain(value: Tensor, like: Tensor, where: str) -> Tensor:
    """A tensor of a file as it is loaded: dense, of the type of `like`, finite. Raises InputError."""
    if value.is_meta or value.layout != torch.strided or value.is_quantized:
        raise InputError(f"{where} is no plain tensor ({'meta' if value.is_meta else value.layout}); save it as one")
    if value.is_floating_point() != like.is_floating_point() or value.is_complex():
        raise InputError(f"{where} holds numbers of the type {value.dtype}, expected is {like.dtype}")
    converted = value.detach().to(like.dtype)
    if not converted.isfinite().all():
        raise InputError(f"{where} is not finite (NaN or infinity): a training that diverged, or a file that is broken")
    return converted


def _difference(content: Any, tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> str:
    """What a file holds, what was expected, and the first name and shape that differ."""
    prefixes = _prefixes(tensors, needed) or [""]
    prefix = min(prefixes, key=lambda one: len(_lacking(tensors, needed, one)))
    lacking = _lacking(tensors, needed, prefix)
    expected = f"{lacking[0]} {_shape(needed[lacking[0]])}"
    if prefix + lacking[0] in tensors:
        has = f"has it as {_shape(tensors[prefix + lacking[0]])}"
    else:
        others = [key for key in tensors if key.startswith(prefix) and not key.endswith(UNNEEDED)]
        other = next((key for key in others if key.removeprefix(prefix) not in needed), None)
        has = f"has {_word(other)} {_shape(tensors[other])} instead" if other is not None else "does not have it"
    under = f" under {_word(prefix)!r}" if prefix else ""
    return (
        f"the file holds {_described(content)} with {len(tensors)} tensors, {len(needed) - len(lacking)} of the {len(needed)} "
        f"expected{under}; the first that differs is {expected}: the file {has}"
    )


def _expected(needed: Mapping[str, Tensor], name: str) -> str:
    first = next(iter(needed))
    return f"the {len(needed)} tensors of {name} by name, such as {first} {_shape(needed[first])}"


def _described(content: Any) -> str:
    """What a file holds, in words: "a dict with the keys epoch, model"."""
    if isinstance(content, Mapping):
        keys = [_word(str(key)) for key in list(content)[:4]]
        return (
            f"a dict with the keys {', '.join(keys)}{', ...' if len(content) > 4 else ''}" if keys else "an empty dict"
        )
    if isinstance(content, Tensor):
        return f"one tensor {_shape(content)}"
    if isinstance(content, (list, tuple)):
        return f"a {type(content).__name__} of {len(content)}"
    return f"a {type(content).__name__}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)).join("()")


def _word(text: str) -> str:
    """A name from a file, as it can be printed: no control characters, at most 80 letters."""
    shown = text.removesuffix(".")
    shown = shown if shown.isprintable() else ascii(shown)[1:-1]
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
