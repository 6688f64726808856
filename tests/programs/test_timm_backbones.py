"""A run with a network of timm, by its name: cached, tuned, compiled, served, published; a wrong name is one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from factories import TINY, Compose, composed, make_catalogue, train_on
from torch import nn

from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.publish import publish
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.recommender import Recommender
from ctl_lightning.train import train

RESNET = ("backbone=timm", "backbone.name=test_resnet", "backbone.weights=null", "backbone.grid=2")


def run_of(looks: Path, cache: Path, folder: Path, *words: str) -> dict[str, Any]:
    """The last checkpoint of a run on looks."""
    train_on(looks, cache, folder, *RESNET, "data.augment=none", "model.schedule=constant", *words, "backbone.grid=2")
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def score(checkpoint: dict[str, Any]) -> float:
    (best,) = {
        float(one["best_model_score"]) for one in checkpoint["callbacks"].values() if one.get("best_model_score")
    }
    return best


def assert_close(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(value, other["state_dict"][name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.long
def test_cached_features_train_as_pictures_do(looks: Path, cache: Path, tmp_path: Path) -> None:
    own = tmp_path / "cache"
    cached = run_of(looks, own, tmp_path / "cached")
    assert list((own / "features").glob("*.npy"))
    plain = run_of(looks, own, tmp_path / "plain", "backbone.cache=never")
    assert score(cached) == pytest.approx(score(plain), abs=0.01)
    assert_close(cached, plain, 0.02)
    frozen = {name: value for name, value in cached["state_dict"].items() if name.startswith("network.backbone.")}
    assert all(torch.equal(value, plain["state_dict"][name]) for name, value in frozen.items())


@pytest.mark.long
def test_a_tuned_one_trains_the_same_with_checkpointing_and_compiled(
    looks: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    real = nn.Module.compile

    def traced_only(self: nn.Module) -> None:
        compiled.append(type(self).__name__)
        real(self, backend="eager")  # what is tested here takes a minute with the real compiler

    monkeypatch.setattr(nn.Module, "compile", traced_only)
    plain = run_of(looks, cache, tmp_path / "plain", "backbone.frozen=false")
    frozen = run_of(looks, cache, tmp_path / "frozen")
    name = next(name for name in plain["state_dict"] if name.endswith("conv1.weight"))
    assert not torch.equal(plain["state_dict"][name], frozen["state_dict"][name])
    recomputed = run_of(looks, cache, tmp_path / "recomputed", "backbone.frozen=false", "backbone.checkpointing=true")
    assert_close(plain, recomputed, 1e-3)
    assert not compiled
    traced = run_of(looks, cache, tmp_path / "traced", "backbone.frozen=false", "compile=true")
    assert compiled == ["Backbone", "Hybrid"]
    assert_close(plain, traced, 1e-3)


@pytest.mark.long
def test_it_is_served_and_published_as_any_other(looks: Path, cache: Path, tmp_path: Path) -> None:
    run_of(looks, cache, tmp_path / "run")
    run = tmp_path / "run"
    catalogue, folder = make_catalogue(run, tmp_path / "catalogue"), tmp_path / "model"
    publish(composed("publish", tmp_path / "hydra", f"ckpt_path={run}", f"output={folder}"))
    photo = min((looks / "images").rglob("*.jpg"))
    looked = [Recommender.from_checkpoint(str(one), catalogue).look(photo) for one in (run, folder)]
    assert looked[0].answers[0].products
    assert [one.products for one in looked[0].answers] == [one.products for one in looked[1].answers]
    again = run_of(looks, cache, tmp_path / "again", f"init_from={folder}")
    assert (
        again["hyper_parameters"]["backbone"]["preprocessing"]
        == read_checkpoint(folder / "model.safetensors")["hyper_parameters"]["backbone"]["preprocessing"]
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["backbone.name=vit_tinny_patch16_224"], "backbone.name: timm has no network 'vit_tinny_patch16_224'; did you mean 'vit_tiny_patch16_224'?; `timm.list_models()` lists them"),
        (["backbone.name=test_vit.nosuchtag"], "backbone.name: test_vit has no weights 'nosuchtag'; there are: r160_in1k"),
        (["backbone.layers=[9]"], "backbone.layers=[9]: test_resnet has 5 maps, numbered from 0 (or from -1 at the end); their channels and sides are 32 x 80,"),
        (["backbone.layers=[]"], "backbone.layers=[]: give at least one number, or null"),
        (["backbone.weights=installed"], "backbone.weights=installed: neither a file nor one of the names hub of test_resnet"),
        (["backbone.weights=hbu"], "backbone.weights=hbu: neither a file nor one of the names hub of test_resnet; did you mean 'hub'?"),
    ],
)  # fmt: skip
def test_a_slip_is_one_line_with_the_way_out(compose: Compose, words: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        train(compose(*TINY, *RESNET, *words))
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
