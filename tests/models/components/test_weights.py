"""Weights of an image network are found however others have saved them, or a line says what the file holds."""

import argparse
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import BACKBONE, pictures, small
from safetensors.torch import save_file
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone, preprocessing_of
from ctl_lightning.models.components.libraries.small import SmallNetwork
from ctl_lightning.models.components.weights import load_file
from ctl_lightning.runtime.errors import InputError

FIRST = "regions.0.0.weight"

State = dict[str, Tensor]


def state_of(seed: int) -> State:
    """Weights and statistics of a small network, none of them as they begin."""
    torch.manual_seed(seed)
    network = SmallNetwork()
    network(torch.rand(4, 3, 56, 56))  # BatchNorm's statistics move
    return dict(network.state_dict())


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def loaded(path: Path) -> State:
    network = SmallNetwork()
    load_file(network, path, "small")
    return network.state_dict()


def refusal(path: Path) -> str:
    """What is said of a file that is refused; the network stays as it was."""
    network = SmallNetwork()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with warnings.catch_warnings(action="error"), pytest.raises(InputError) as caught:
        load_file(network, path, "small")
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    said = str(caught.value)
    assert said.startswith(f"backbone.weights={path}: ")
    assert "\n" not in said
    assert len(said) < 700
    return said.removeprefix(f"backbone.weights={path}: ")


WRAPPED: dict[str, Callable[[State], Any]] = {
    "state_dict": lambda s: {"state_dict": s},
    "model": lambda s: {"model": s, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.1},
    "net and params": lambda s: {"net": {"params": s}},
    "DataParallel": lambda s: prefixed("module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "compiled DataParallel in a container": lambda s: {"state_dict": prefixed("module._orig_mod.", s)},
    "a compiled part": lambda s: {name.replace("regions.0.", "regions.0._orig_mod."): v for name, v in s.items()},
    "FSDP with activation checkpointing": lambda s: {
        name.replace("regions.0.", "_fsdp_wrapped_module.regions.0._checkpoint_wrapped_module."): v
        for name, v in s.items()
    },
    "a Lightning module": lambda s: {"state_dict": prefixed("model.backbone.", s), "pytorch-lightning_version": "2"},
    "encoder": lambda s: prefixed("encoder.", s),
    "with its classifier": lambda s: s | {"fc.weight": torch.zeros(3, 5), "fc.bias": torch.zeros(3)},
    "a tuple with the epoch": lambda s: (s, 7),
    "parameters": lambda s: {
        name: nn.Parameter(v, v.is_floating_point() and "running" not in name) for name, v in s.items()
    },
    "double precision": lambda s: {name: v.double() if v.is_floating_point() else v for name, v in s.items()},
    "without the counts of BatchNorm": lambda s: {name: v for name, v in s.items() if "num_batches" not in name},
    "with averaged counts": lambda s: {name: v.float() for name, v in s.items()},
    "EMA alone": lambda s: {"state_dict_ema": prefixed("module.", s)},
    "EMA of torch": lambda s: prefixed("module.", s) | {"n_averaged": torch.tensor(5)},
    "EMA beside, which is not taken": lambda s: {"model_ema": state_of(9), "model": s},
    "MoCo's two encoders": lambda s: {
        "state_dict": prefixed("module.encoder_k.", state_of(9)) | prefixed("module.encoder_q.", s)
    },
    "the same twice": lambda s: prefixed("model.", s) | prefixed("criterion.model.", s),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_weights_are_found_however_they_were_saved(tmp_path: Path, how: str) -> None:
    state = state_of(3)
    torch.save(WRAPPED[how](state), tmp_path / "w.pth")
    found = loaded(tmp_path / "w.pth")
    for name, value in state.items():
        if "num_batches" not in name:
            assert torch.equal(found[name], value), name


def test_half_precision_is_converted(tmp_path: Path) -> None:
    state = state_of(3)
    torch.save({name: v.half() if v.is_floating_point() else v for name, v in state.items()}, tmp_path / "w.bin")
    found = loaded(tmp_path / "w.bin")
    assert found[FIRST].dtype == torch.float32
    torch.testing.assert_close(found[FIRST], state[FIRST], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("file", ["w.safetensors", "pytorch_model.bin"])  # what is in it decides, not its name
def test_safetensors_are_read_with_their_prefix(tmp_path: Path, file: str) -> None:
    save_file(prefixed("backbone.", state_of(3)), tmp_path / file)
    assert torch.equal(loaded(tmp_path / file)[FIRST], state_of(3)[FIRST])


def test_the_files_of_old_torch_and_under_any_name_are_read(tmp_path: Path) -> None:
    torch.save(state_of(3), tmp_path / "w.safetensors", _use_new_zipfile_serialization=False)
    assert torch.equal(loaded(tmp_path / "w.safetensors")[FIRST], state_of(3)[FIRST])


def test_a_checkpoint_of_ours_gives_its_backbone_with_its_preprocessing(tmp_path: Path) -> None:
    trained = small()
    trained.network.load_state_dict(state_of(3))
    trained.mean += 0.1
    others = {"head.weight": torch.ones(3), **trained.state_dict(prefix="network.backbone.")}
    torch.save({"state_dict": others, "epoch": 3, "loops": {}}, tmp_path / "last.ckpt")
    weights = str(tmp_path / "last.ckpt")
    preprocessing = preprocessing_of(BACKBONE | {"weights": weights, "preprocessing": {}})
    torch.testing.assert_close(torch.tensor(preprocessing.mean), trained.mean.flatten())
    images, found = pictures(2), Backbone(BACKBONE | {"preprocessing": preprocessing.plain(), "grid": 7})
    found.load_weights(weights)
    torch.testing.assert_close(found.eval()(images).pooled, trained.eval()(images).pooled)


def test_which_of_weights_and_average_is_taken_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"ema": state_of(1)}, tmp_path / "alone.pth")
    torch.save({"ema": state_of(1), "model": state_of(2)}, tmp_path / "both.pth")
    loaded(tmp_path / "alone.pth")
    loaded(tmp_path / "both.pth")
    assert "only averaged weights are there; those under 'ema' are taken" in caplog.messages[0]
    assert "the weights under 'model' are taken, not their average 'ema'" in caplog.messages[1]


def other_shape() -> State:
    return state_of(1) | {"regions.1.0.weight": torch.zeros(7, 48, 3, 3)}


def without_one() -> State:
    return {"net." + name: value for name, value in state_of(1).items() if name != "pooled.0.0.weight"}


CONTENT: dict[str, tuple[Any, str]] = {
    "another network": (
        lambda: {"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7), "conv1.bias": torch.zeros(64)}},
        r"not the weights of small: the file holds a dict with the keys state_dict with 2 tensors, 0 of the 25 expected; the "
        r"first that differs is regions\.0\.0\.weight \(48x3x4x4\): the file has state_dict\.conv1\.weight \(64x3x7x7\)",
    ),
    "another shape": (
        other_shape,
        r"24 of the 25 expected; .* regions\.1\.0\.weight \(96x48x3x3\): the file has it as \(7x48x3x3\)",
    ),
    "one that is missing": (
        without_one,
        r"24 of the 25 expected under 'net'; .* pooled\.0\.0\.weight \(128x96x3x3\): the file does not have it$",
    ),
    "two different ones": (
        lambda: {"generator": state_of(1), "critic": state_of(2)},
        r"holds weights of small under 'critic' and 'generator'; save those that are meant",
    ),
    "an empty dict": (
        dict,
        r"holds an empty dict, no weights; expected are the 25 tensors of small by name, such as regi",
    ),
    "numbers": (lambda: {"epoch": 3, "lr": 0.1}, r"holds a dict with the keys epoch, lr, no weights"),
    "a list": (lambda: [1], r"holds a list of 1, no weights"),
    "one tensor": (lambda: torch.zeros(3, 4), r"holds one tensor \(3x4\)"),
    "a number": (lambda: 5, r"holds a int, no weights"),
    "NaN": (lambda: state_of(1) | {FIRST: torch.full((48, 3, 4, 4), np.nan)}, r"regions\.0\.0\.weight is not finite"),
    "too large for single precision": (
        lambda: state_of(1) | {FIRST: torch.full((48, 3, 4, 4), 1e300, dtype=torch.float64)},
        r"regions\.0\.0\.weight is not finite",
    ),
    "whole numbers": (
        lambda: state_of(1) | {FIRST: torch.zeros(48, 3, 4, 4, dtype=torch.int8)},
        r"holds numbers of the type torch\.int8, expected is torch\.float32",
    ),
    "meta tensors": (
        lambda: state_of(1) | {FIRST: torch.zeros(48, 3, 4, 4, device="meta")},
        r"regions\.0\.0\.weight is no plain tensor \(meta\)",
    ),
    "a sparse tensor": (
        lambda: state_of(1) | {FIRST: torch.zeros(48, 3, 4, 4).to_sparse()},
        r"regions\.0\.0\.weight is no plain tensor \(torch\.sparse_coo\)",
    ),
    "control characters": (
        lambda: {"\x1b[31m\n" + "x" * 200: torch.zeros(1)},
        r"keys \\x1b\[31m\\nxxx.*\.\.\. with 1 ten",
    ),
    "a pickled network": (
        SmallNetwork,
        r"holds Python objects .*small\.SmallNetwork.*save the state dict in it again",
    ),
    "a pickled network within": (lambda: {"model": nn.Linear(2, 2)}, r"holds Python objects .*\(torch\.nn\..*Linear\)"),
    "a namespace": (lambda: {"model": state_of(1), "args": argparse.Namespace(lr=1)}, r"\(argparse\.Namespace\)"),
    "a number of numpy": (lambda: {"model": state_of(1), "best": np.float64(0.5)}, r"\(numpy\.\S+scalar\)"),
    "an array of numpy": (lambda: {"a": np.zeros(3)}, r"\(numpy\.\S+_reconstruct\)"),
}


@pytest.mark.parametrize("what", CONTENT)
def test_what_is_no_such_weights_is_told_in_one_line(tmp_path: Path, what: str) -> None:
    make, says = CONTENT[what]
    torch.save(make(), tmp_path / "w.pth")
    found = refusal(tmp_path / "w.pth")
    assert re.search(says, found), found


def saved(path: Path) -> bytes:
    torch.save(state_of(1), path)
    return path.read_bytes()


def safe(path: Path) -> bytes:
    save_file(state_of(1), path)
    return path.read_bytes()


BYTES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "an empty file"),
    "Git LFS": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "`git lfs pull`"),
    "a web page": (lambda _: b"<!DOCTYPE html><html>Not found</html>", "a web page"),
    "a web page of XML": (lambda _: b"\xef\xbb\xbf\n<?xml version='1.0'?><Error/>", "a web page"),
    "Keras": (lambda _: b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "an index": (
        lambda _: b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}',
        "the index of",
    ),
    "text": (lambda _: b"garbage", "not a readable file of weights; expected is what"),
    "zeros": (lambda _: bytes(4000), "not a readable file of weights"),
    "cut off": (lambda p: saved(p)[:-5000], "not a readable file of weights, perhaps cut off"),
    "cut off early": (lambda p: saved(p)[:300], "not a readable file of weights, perhaps cut off"),
    "safetensors cut off": (lambda p: safe(p)[:-5000], "not a readable safetensors file, perhaps cut off"),
    "safetensors cut off early": (lambda p: safe(p)[:300], "not a readable safetensors file, perhaps cut off"),
    "safetensors with a huge header": (lambda _: b"\xff" * 8 + b'{"a": 1}', "not a readable safetensors file"),
    "a broken pickle": (lambda _: pickle.dumps({"a": 1})[:-3], "not a readable file of weights"),
    "code": (lambda _: b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.", "holds Python objects"),
}


@pytest.mark.parametrize("what", BYTES)
def test_a_file_that_is_none_is_told_in_one_line(tmp_path: Path, what: str) -> None:
    make, says = BYTES[what]
    (tmp_path / "w.pth").write_bytes(make(tmp_path / "made"))
    assert says in refusal(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_a_torchscript_program_is_told(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "w.pt")  # type: ignore[no-untyped-call]
    assert "a TorchScript program" in refusal(tmp_path / "w.pt")


def test_of_a_folder_the_file_in_it_is_proposed(tmp_path: Path) -> None:
    assert "a folder; with no file in it" in refusal(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert f"a folder; give the file, such as {tmp_path / 'checkpoints/last.ckpt'}" in refusal(tmp_path)
