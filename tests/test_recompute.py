"""Gradient checkpointing gives the same training for less memory."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ctl_lightning.style.backbone import Backbone

LAYERS = {"mobilenet_v2": ("features.18", "features.14"), "resnet18": ("flatten", "layer3")}


def backbones(name: str, frozen: bool = False) -> tuple[Backbone, Backbone]:
    """The same backbone without and with checkpointing."""
    torch.manual_seed(0)
    plain = Backbone(name, *LAYERS[name], 2, frozen)
    recomputed = Backbone(name, *LAYERS[name], 2, frozen, checkpointing=True)
    recomputed.load_state_dict(plain.state_dict())
    return plain, recomputed


def pictures(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)


def step(backbone: Backbone, seed: int) -> tuple[Tensor, int]:
    """The loss of a training step, and how many bytes were kept for its backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(seed)  # of the network's own dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = backbone(pictures(seed))
        loss = features.pooled.square().mean() + features.regions.square().mean()
    loss.backward()
    return loss.detach(), sum(kept.values())


@pytest.mark.parametrize("name", LAYERS)
def test_losses_gradients_and_running_statistics_are_bit_equal_and_less_is_kept(name: str) -> None:
    plain, recomputed = backbones(name)
    for seed in range(2):
        (loss, kept), (same, kept_less) = step(plain, seed), step(recomputed, seed)
        assert torch.equal(loss, same)
        assert kept_less < kept / 2
    for (key, value), (other, same) in zip(plain.state_dict().items(), recomputed.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(value, same), key
    for one, two in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        assert one.grad is None or two.grad is None or torch.equal(one.grad, two.grad)


def test_a_copy_has_weights_of_its_own() -> None:
    _, recomputed = backbones("resnet18")
    step(recomputed, 0)
    copied = copy.deepcopy(recomputed)
    before = [parameter.clone() for parameter in recomputed.parameters()]
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert all(torch.equal(*both) for both in zip(before, recomputed.parameters(), strict=True))
    assert step(copied, 0)[0] != step(recomputed, 0)[0]


def test_a_frozen_backbone_has_nothing_to_compute_again() -> None:
    plain, recomputed = backbones("resnet18", frozen=True)
    images = pictures()
    for one, other in zip(plain.train()(images), recomputed.train()(images), strict=True):
        assert torch.equal(one, other)
        assert not other.requires_grad
