"""Any network of timm is a backbone by its name: what it gives is what timm itself gives, frozen, tuned and exported."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from factories import BACKBONE, pictures
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from ctl_lightning.models.components.backbone import Backbone, preprocessing_of
from ctl_lightning.models.hybrid import Hybrid
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.export import QueryEncoder, write_onnx, write_program

NETWORKS = [
    "test_efficientnet",
    "mobilenetv4_conv_small_035",  # pools more channels than its tables say
    "test_resnet",
    "test_convnext",
    "regnetx_002",
    "test_nfnet",
    "test_vit",  # class token
    "test_vit3",  # attention pooling
    "test_vit_relpos",  # no token but the patches
    "deit_tiny_distilled_patch16_224",  # two tokens
    "vit_small_patch16_dinov3",  # class token and four registers, rotary positions
    "swin_tiny_patch4_window7_224",
    "hiera_tiny_224",  # its last norm does not fit its maps
    "test_coatnet",
    "mobilevit_xxs",  # mean 0, deviation 1
    "fastvit_t8",
    "levit_128s",
]

LARGE = ("vit_small_patch16_dinov3", "swin_tiny_patch4_window7_224", "hiera_tiny_224", "fastvit_t8")


def long(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.long)


def backbone(name: str, **changed: Any) -> Backbone:
    options: Any = {name: value for name, value in BACKBONE.items() if not name.endswith("_layer")}
    options |= {
        "library": "timm",
        "name": name,
        "layers": None,
        "preprocessing": {},
        "grid": 5,
        "frozen": True,
    } | changed
    torch.manual_seed(0)
    return Backbone(options | {"preprocessing": preprocessing_of(options).plain()})


def size_of(found: Backbone) -> int:
    return int(found.network.size)  # type: ignore[arg-type]


def shown(found: Backbone, count: int = 2) -> Tensor:
    return pictures(count, size=size_of(found))


def regions_by_a_hook(model: Any, pixels: Tensor) -> Tensor:
    """The last map with 16 pixels a region, or fewer, as a layer of the network gives it."""
    kept: list[Tensor] = []
    fine = [info for info in model.feature_info if info["reduction"] <= 16][-1]
    handle = model.get_submodule(fine["module"]).register_forward_hook(lambda *told: kept.append(told[2]))
    model(pixels)
    handle.remove()
    return kept[0] if kept[0].shape[1] == fine["num_chs"] else kept[0].permute(0, 3, 1, 2)


def regions_by_tokens(model: Any, pixels: Tensor) -> Tensor:
    """The patch tokens of a ViT after its final norm, as a map."""
    tokens = model.forward_features(pixels)[:, model.num_prefix_tokens :]
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


@pytest.mark.parametrize("name", [long(one) if one in LARGE else one for one in NETWORKS])
def test_features_are_those_of_timm_itself(name: str) -> None:
    found = backbone(name)
    config = timm.get_pretrained_cfg(name) or found.network.model.pretrained_cfg  # type: ignore[union-attr]
    pixels = normalize(shown(found) / 255, config.mean, config.std)
    model: Any = found.network.model
    with torch.no_grad():
        features, pooled = found(shown(found)), model(pixels)
        if hasattr(model, "num_prefix_tokens"):
            maps = regions_by_tokens(model, pixels)
        elif name in ("hiera_tiny_224", "levit_128s"):  # their layers give tokens
            maps = model.forward_intermediates(pixels, norm=False, intermediates_only=True)[
                {"hiera_tiny_224": 2}.get(name, 0)
            ]
        else:
            maps = regions_by_a_hook(model, pixels)
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-3, atol=1e-4)
    expected = F.adaptive_avg_pool2d(maps, 5).flatten(2).transpose(1, 2)
    torch.testing.assert_close(features.regions, expected, rtol=1e-3, atol=1e-4)
    assert features.pooled.shape == (2, found.pooled_features)
    assert features.regions.shape == (2, 25, found.region_features)


@pytest.mark.parametrize("name", [long(one) if one in LARGE else one for one in NETWORKS])
def test_a_frozen_one_stays_frozen_and_a_tuned_one_learns(name: str) -> None:
    frozen = backbone(name)
    before = copy.deepcopy(frozen.state_dict())
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert not frozen.train()(shown(frozen)).pooled.requires_grad
    assert not frozen.network.training
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    tuned = backbone(name, frozen=False)
    features = tuned.train()(shown(tuned))
    (features.pooled.square().sum() + features.regions.square().sum()).backward()
    assert [key for key, weight in tuned.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", [long(one) if one in LARGE else one for one in NETWORKS])
def test_gradient_checkpointing_trains_the_same(name: str) -> None:
    plain, recomputed = backbone(name, frozen=False), backbone(name, frozen=False, checkpointing=True)
    recomputed.load_state_dict(plain.state_dict())
    kept = []
    for one in (plain, recomputed):
        bytes_kept = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal bytes_kept
            bytes_kept += tensor.numel() * tensor.element_size()
            return tensor

        torch.manual_seed(3)  # of the network's own dropout
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = one.train()(shown(one))
        kept.append(bytes_kept)
        (features.pooled.square().mean() + features.regions.square().mean()).backward()
    for (key, mine), theirs in zip(recomputed.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(
            mine.grad, theirs.grad, rtol=1e-3, atol=1e-4 * float(theirs.grad.abs().max()), msg=key
        )
    for (key, value), other in zip(recomputed.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(value, other, msg=key)  # no batch counts twice in BatchNorm's statistics
    assert kept[1] < 0.75 * kept[0]


@pytest.mark.parametrize("name", [one if one == "test_resnet" else long(one) for one in NETWORKS])
def test_the_exported_encoder_gives_the_same_queries(name: str, tmp_path: Path) -> None:
    """The query needs both outputs of the backbone; the files are read back, with three pictures and with one."""
    network = Hybrid(backbone(name), 3, dim=8, hidden=8, dropout=0.0, attention="category", squared=True).eval()
    inputs = {"image": shown(network.backbone, 3), "category": torch.arange(3)}
    encoder = QueryEncoder(network).eval()
    program = write_program(tmp_path / "query.pt2", encoder, inputs)
    if name == "hiera_tiny_224":  # the one here that torch's exporter cannot translate: one line says so
        with pytest.raises(InputError, match=r"torch\.onnx cannot write query\.onnx"):
            write_onnx(tmp_path / "query.onnx", program, encoder, inputs)
    else:
        write_onnx(tmp_path / "query.onnx", program, encoder, inputs)
