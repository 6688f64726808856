"""A published folder is read as a stranger's: what is not texts, numbers and tensors of the network is refused in one line."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import module
from safetensors.torch import load_file, save_file

from ctl_lightning.models.checkpoint import FORMAT, checkpoint_of, network_of, read_checkpoint
from ctl_lightning.models.published import CONFIG, LIBRARY, WEIGHTS, is_inside, is_published
from ctl_lightning.runtime.errors import InputError

BROKEN = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published model of a tiny hybrid."""
    torch.manual_seed(0)
    made, path = module(), tmp_path / "published"
    path.mkdir()
    data = {"root": "data", "cache_dir": "cache", "stored_size": 36, "image_size": 32, "source": {"name": "folder"}}
    content = {
        "library_name": LIBRARY,
        "format": FORMAT,
        "pytorch-lightning_version": "2",
        "hyper_parameters": dict(made.hparams),
        "config": {"method": "hybrid", "protocol": None, "seed": 0, "data": data, "trainer": {"precision": "32-true"}},
        "TripletDataModule": {"pairs": {"train": "ab", "test": "cd"}},
        "classifier": {"threshold": 1.0, "slope": -2.0, "intercept": 2.0},
    }
    (path / CONFIG).write_text(json.dumps(content))
    save_file({name: value.contiguous().clone() for name, value in made.state_dict().items()}, path / WEIGHTS)
    return path


def changed(*path: str | int, to: Any) -> BROKEN:
    """Replaces one value in config.json."""

    def change(folder: Path) -> None:
        content = json.loads((folder / CONFIG).read_text())
        inner = content
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = to
        (folder / CONFIG).write_text(json.dumps(content))

    return change


def text(content: str) -> BROKEN:
    return lambda folder: (folder / CONFIG).write_text(content)


def weights(change: Callable[[dict[str, Any]], object]) -> BROKEN:
    """Replaces what is in model.safetensors."""

    def replace(folder: Path) -> None:
        state = {name: value.clone() for name, value in load_file(folder / WEIGHTS).items()}
        change(state)
        save_file(state, folder / WEIGHTS)

    return replace


def header(entries: dict[str, Any], claimed: int | None = None) -> BROKEN:
    """Writes a file of weights by hand, with a header that may lie."""

    def write(folder: Path) -> None:
        words = json.dumps(entries).encode()
        length = len(words) if claimed is None else claimed
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + words + bytes(64))

    return write


def outside(name: str) -> BROKEN:
    """Moves a file out of the folder, and puts a link to it in its place."""

    def link(folder: Path) -> None:
        shutil.move(folder / name, folder.parent / f"secret-{name}")
        (folder / name).symlink_to(f"../secret-{name}")

    return link


def pickled(name: str, zipped: bool = True) -> BROKEN:
    def write(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        torch.save({"state_dict": {}}, folder / name, _use_new_zipfile_serialization=zipped)

    return write


def without(name: str) -> BROKEN:
    return lambda folder: (folder / name).unlink()


def pipe(name: str) -> BROKEN:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


FIRST = "network.backbone.mean"
NETWORK, DATA = "hyper_parameters", ("config", "data")

HOSTILE: dict[str, tuple[BROKEN, str]] = {
    "a pickle named model.safetensors": (pickled(WEIGHTS), "a pickle in place of safetensors"),
    "an old pickle named model.safetensors": (pickled(WEIGHTS, zipped=False), "a pickle in place of safetensors"),
    "a pickle beside": (pickled("pytorch_model.bin"), r"no such file \(pytorch_model.bin is there, but"),
    "an index": (
        lambda folder: (folder / WEIGHTS).rename(folder / "model.safetensors.index.json"),
        r"no such file \(model.safetensors.index.json is there, but",
    ),
    "no config": (without(CONFIG), "config.json: no such file"),
    "weights elsewhere": (outside(WEIGHTS), "a link to a place outside its folder"),
    "config elsewhere": (outside(CONFIG), "a link to a place outside its folder"),
    "a pipe for weights": (pipe(WEIGHTS), "not a file"),
    "a pipe for the config": (pipe(CONFIG), "not a file"),
    "a header of 10 GB": (header({}, 10 << 30), "10,737,418,240 bytes"),
    "a header longer than the file": (header({}, 1 << 20), "cut off"),
    "a header that is no JSON": (lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 4) + b"{{{{"), "not a readable"),
    "an empty file of weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "not a safetensors file"),
    "offsets beyond the file": (
        header({FIRST: {"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 4 << 20]}}),
        "not a readable safetensors file",
    ),
    "a size that is not that of its bytes": (
        header({FIRST: {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 64]}}),
        "not a readable safetensors file",
    ),
    "a name that leads out": (weights(lambda state: state.update({"../../x": torch.zeros(1)})), r"it has '../../x'"),
    "a weight that is missing": (weights(lambda state: state.pop(FIRST)), f"it lacks '{FIRST}'"),
    "a weight of another shape": (
        weights(lambda state: state.update({FIRST: torch.zeros(4, 1, 1)})),
        r"has the sizes \(4x1x1\) and \(3x1x1\)",
    ),
    "a weight of another kind": (
        weights(lambda state: state.update({FIRST: torch.zeros(3, 1, 1, dtype=torch.int32)})),
        "holds numbers of the type torch.int32",
    ),
    "a weight that is not finite": (weights(lambda state: state[FIRST][0].fill_(torch.nan)), "is not finite"),
    "not JSON": (text("{"), "not valid JSON"),
    "JSON of another kind": (text("[]"), "not a model that ctl_lightning published"),
    "another library's": (text('{"model_type": "bert"}'), "not a model that ctl_lightning published"),
    "nested without end": (text("[" * 100_000), "brackets within brackets"),
    "nested deeply": (
        changed("classifier", to=json.loads("[" * 100 + "]" * 100)),
        "brackets within brackets within brackets",
    ),
    "a huge config": (lambda folder: os.truncate(folder / CONFIG, 1 << 30), "1,073,741,824 bytes are no description"),
    "a number without end": (changed("train_seconds", to=10**400), "out of all bounds"),
    "an infinite number": (text('{"library_name": "ctl_lightning", "train_seconds": 1e999}'), "out of all bounds"),
    "not a number": (text('{"library_name": "ctl_lightning", "train_seconds": NaN}'), "not valid JSON"),
    "a newer format": (changed("format", to=FORMAT + 1), "a newer version of ctl_lightning wrote it .* update"),
    "a format that is no number": (changed("format", to="2"), "format is '2'"),
    "no hyper_parameters": (changed(NETWORK, to=None), "hyper_parameters is None"),
    "categories that are no list": (changed(NETWORK, "categories", to="Shoes"), "expected is a list of names"),
    "categories that are no texts": (changed(NETWORK, "categories", to=["Shoes", 1]), "expected is a list of names"),
    "a category twice": (changed(NETWORK, "categories", to=["Shoes", "Shoes"]), "a name twice"),
    "a category that drives a terminal": (changed(NETWORK, "categories", 0, to="\x1b[2J"), "a control character"),
    "another number of categories": (changed(NETWORK, "categories", to=["Shoes"]), "has the sizes"),
    "a method that is not there": (changed(NETWORK, "method", to="os.system"), "describes no network"),
    "a network that would fill the memory": (changed(NETWORK, "hidden", to=10**9), "has the sizes"),
    "a network larger than any": (changed(NETWORK, "hidden", to=10**18), "describes no network"),
    "an option that is no number": (changed(NETWORK, "dim", to={"a": 1}), "describes no network"),
    "a backbone that is not there": (changed(NETWORK, "backbone", "name", to="../x"), "describes no network"),
    "a backbone that is no options": (changed(NETWORK, "backbone", to=[1]), "describes no network"),
    "a loss that is not there": (changed(NETWORK, "loss", to={"name": "builtins.eval"}), "describes no network"),
    "a class among the data": (changed(*DATA, "_target_", to="os.system"), r"it names a class \('os.system'\)"),
    "a class for the source": (changed(*DATA, "source", "_target_", to="os.system"), "it names a class"),
    "a class for the backbone": (changed(NETWORK, "backbone", "_target_", to="os.system"), "it names a class"),
    "data outside": (changed(*DATA, "root", to="../.."), r"data.root is '../..'"),
    "a cache outside": (changed(*DATA, "cache_dir", to="/etc"), r"data.cache_dir is '/etc'"),
    "chunks in the home": (changed(*DATA, "chunks_dir", to="~/.ssh"), "data.chunks_dir"),
    "a hidden place": (changed(*DATA, "root", to="a/.git"), "nor a hidden one"),
    "a file outside the data": (changed(*DATA, "source", "pairs_file", to="../../x"), "data.source.pairs_file"),
    "a place that is no text": (changed(*DATA, "root", to=5), "data.root is 5"),
    "data that are no options": (changed(*DATA, to="x"), "config.data is 'x'"),
    "pictures without end": (changed(*DATA, "stored_size", to=10**6), r"data.stored_size is 1000000; expected"),
    "pictures of no size": (changed(*DATA, "image_size", to="32"), "data.image_size is '32'"),
    "training pairs of texts": (changed("train_counts", to={"p1": "many"}), "train_counts is"),
    "training pairs below 1": (changed("train_counts", to={"p1": -1}), "train_counts has a number below 1"),
    "a classifier of texts": (changed("classifier", "slope", to="x"), "classifier is"),
    "hashes that are no texts": (changed("TripletDataModule", "pairs", to=[1]), "TripletDataModule.pairs is"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_line(case: str, folder: Path) -> None:
    breaks, why = HOSTILE[case]
    breaks(folder)
    with pytest.raises(InputError, match=why) as refused:
        read_checkpoint(checkpoint_of(folder))
    message = str(refused.value)
    assert message.startswith(f"ckpt_path={folder}")
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 600


def test_a_folder_is_a_checkpoint_without_the_state_of_its_training(folder: Path) -> None:
    path = checkpoint_of(folder)
    assert path == folder / WEIGHTS
    found = read_checkpoint(path)
    torch.manual_seed(0)
    made = module()
    assert found["hyper_parameters"] == dict(made.hparams)
    for name, value in network_of(found, path).state_dict().items():
        assert torch.equal(value, made.network.state_dict()[name])
    assert not {"epoch", "callbacks", "optimizer_states"} & found.keys()


def test_the_cache_of_the_hub_links_to_its_blobs(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "models--owner--name"
    snapshot, blobs = model / "snapshots" / "abc", model / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate((CONFIG, WEIGHTS)):
        shutil.move(folder / name, blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert read_checkpoint(checkpoint_of(snapshot))["format"] == FORMAT


def test_a_folder_that_is_a_link_is_that_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert read_checkpoint(checkpoint_of(tmp_path / "link"))["format"] == FORMAT


def test_weights_of_half_precision_are_weights(folder: Path) -> None:
    weights(lambda state: state.update({FIRST: state[FIRST].to(torch.bfloat16)}))(folder)
    assert read_checkpoint(folder / WEIGHTS)["state_dict"][FIRST].dtype == torch.bfloat16


def test_what_is_not_ours_in_the_config_is_not_taken_over(folder: Path) -> None:
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(content | {"callbacks": {}, "epoch": 1, "global_step": 2}))
    assert not {"callbacks", "epoch", "global_step"} & read_checkpoint(folder / WEIGHTS).keys()


@pytest.mark.parametrize(
    ("place", "inside"),
    [
        *(("data", True), ("data/stl_fashion", True), ("a b/c.json", True), ("data/", True)),
        *(("..", False), ("a/../b", False), ("/a", False), ("~/a", False), (".git/x", False), ("C:\\x", False)),
        *(("a\\..\\b", False), ("a\0b", False), ("http://x/y", False)),
    ],
)
def test_a_place_is_inside_or_not(place: str, inside: bool) -> None:
    assert is_inside(place) == inside


def test_a_run_directory_is_no_published_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert not is_published(tmp_path / "run")
    assert not is_published(tmp_path / "nothing")
    assert is_published(folder)
    assert is_published(folder / WEIGHTS)
    assert is_published(Path("hf://owner/name"))
