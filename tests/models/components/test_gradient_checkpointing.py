"""Gradient checkpointing gives the same training for less memory."""

import copy

import pytest
import torch
from factories import backbone_of
from omegaconf import OmegaConf
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.runtime.config import config_dir

LAYERS = {
    path.stem: (options.pooled_layer, options.region_layer)
    for path in sorted((config_dir() / "backbone").glob("*.yaml"))
    for options in [OmegaConf.load(path)]
    if "pooled_layer" in options  # those of timm: test_timm_networks.py
}


def backbones(name: str, frozen: bool = False) -> tuple[Backbone, Backbone]:
    """The same backbone without and with checkpointing."""
    torch.manual_seed(0)
    plain = backbone_of(name, *LAYERS[name], 2, frozen)
    recomputed = backbone_of(name, *LAYERS[name], 2, frozen, checkpointing=True)
    recomputed.load_state_dict(plain.state_dict())
    return plain, recomputed


def pictures(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)


def loss_of(backbone: Backbone, seed: int) -> Tensor:
    torch.manual_seed(seed)  # of the network's own dropout
    features = backbone(pictures(seed))
    return features.pooled.square().mean() + features.regions.square().mean()


def kept(backbone: Backbone) -> int:
    """How many bytes a step keeps for its backward pass."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(backbone, 0)
    assert loss.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("name", LAYERS)
def test_losses_gradients_and_running_statistics_are_bit_equal(name: str) -> None:
    plain, recomputed = backbones(name)
    for seed in range(2):
        one, other = loss_of(plain, seed), loss_of(recomputed, seed)
        assert torch.equal(one, other)
        # Without hooks on what is saved: they would switch off torch's check for what was overwritten in place.
        one.backward()  # type: ignore[no-untyped-call]
        other.backward()  # type: ignore[no-untyped-call]
    for (key, value), (again, same) in zip(plain.state_dict().items(), recomputed.state_dict().items(), strict=True):
        assert key == again
        assert torch.equal(value, same), key
    for parameter, twin in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert parameter.grad is not None
        assert twin.grad is not None
        assert torch.equal(parameter.grad, twin.grad)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_less_is_kept_for_the_backward_pass(name: str) -> None:
    plain, recomputed = backbones(name)
    assert kept(recomputed) < kept(plain) / 2


def test_a_copy_has_weights_of_its_own() -> None:
    _, recomputed = backbones("small")
    loss_of(recomputed, 0)
    copied = copy.deepcopy(recomputed)
    before = [parameter.clone() for parameter in recomputed.parameters()]
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert all(torch.equal(*both) for both in zip(before, recomputed.parameters(), strict=True))
    assert loss_of(copied, 0) != loss_of(recomputed, 0)


def test_a_frozen_backbone_has_nothing_to_compute_again() -> None:
    plain, recomputed = backbones("small", frozen=True)
    images = pictures()
    for one, other in zip(plain.train()(images), recomputed.train()(images), strict=True):
        assert torch.equal(one, other)
        assert not other.requires_grad
