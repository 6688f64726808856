"""The parts of the pooled vector: stages against their moments taken by hooks, order, proportions, errors."""

from typing import Any

import pytest
import torch
from factories import BACKBONE, pictures
from torch import Tensor
from torchvision.models import mobilenet_v2

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.colours import WIDTH, colour_histogram
from ctl_lightning.models.components.libraries.small import SmallNetwork
from ctl_lightning.runtime.errors import InputError

SMALL = {"stage_layers": ["regions.0", "regions.1", "regions.2", "pooled.0", "pooled.1"], "grid": 1}
MOBILE = {
    "library": "torchvision",
    "name": "mobilenet_v2",
    "pooled_layer": "features.18",
    "region_layer": "features.13",
    "stage_layers": ["features.1", "features.13"],
    "grid": 1,
}


def backbone(**options: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(BACKBONE | {"frozen": True} | options)


def moments(one: Tensor) -> list[float]:
    """Mean of every channel of (1, C, H, W), then the deviation of every channel."""
    channels = [channel.flatten().tolist() for channel in one[0]]
    means = [sum(values) / len(values) for values in channels]
    spread = [
        (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        for values, mean in zip(channels, means, strict=True)
    ]
    return means + spread


@pytest.mark.parametrize("options", [SMALL, MOBILE])
def test_stages_are_mean_and_deviation_of_the_maps_of_their_layers(options: dict[str, Any]) -> None:
    net = backbone(pooled=["stages"], **options)
    whole = SmallNetwork() if "name" not in options else mobilenet_v2()
    whole.load_state_dict(net.network.state_dict(), strict=False)
    found: dict[str, Tensor] = {}
    layers: list[str] = options["stage_layers"]
    for name in layers:
        whole.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: found.__setitem__(name, output.clone())
        )
    image = pictures(1, size=64)
    vector = net.pooled(image)[0]
    with torch.no_grad():
        whole.eval()(net.pixels(image))
    expected = [value for name in layers for value in moments(found[name])]
    torch.testing.assert_close(vector, torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert net.pooled_features == len(expected)


def test_the_parts_stand_side_by_side_in_the_order_that_is_given() -> None:
    alone = {part: backbone(pooled=[part], **SMALL).pooled(pictures(2)) for part in ("final", "stages", "colours")}
    both = backbone(pooled=["colours", "final", "stages"], **SMALL)
    assert torch.equal(both.pooled(pictures(2)), torch.cat([alone["colours"], alone["final"], alone["stages"]], 1))
    assert torch.equal(both(pictures(2)).pooled, both.pooled(pictures(2)))
    assert torch.equal(alone["colours"], colour_histogram(pictures(2)))
    assert alone["colours"].shape == (2, WIDTH)


def test_one_vector_of_pictures_of_any_proportions() -> None:
    net = backbone(pooled=["final", "stages", "colours"], **SMALL)
    assert net.pooled(pictures(3, size=96)[:, :, :32]).shape == (3, net.pooled_features)


def test_the_final_part_alone_is_what_it_was_before_there_were_others() -> None:
    old = {name: value for name, value in BACKBONE.items() if name != "pooled"}
    torch.manual_seed(0)
    before = Backbone({**old, "frozen": True})  # type: ignore[typeddict-item]
    today = backbone(pooled=["final"], stage_layers=SMALL["stage_layers"])
    assert today.identity() == before.identity()
    assert "pooled" not in before.identity()
    assert backbone(pooled=["final", "colours"]).identity() != before.identity()
    assert torch.equal(today(pictures(2)).pooled, before(pictures(2)).pooled)


@pytest.mark.parametrize("parts", [[], ["final", "final"]])
def test_no_part_or_one_part_twice_is_an_error(parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"backbone\.pooled must be some of final, stages and colours, each once"):
        backbone(pooled=parts)


def test_stages_of_a_network_whose_layers_nobody_named() -> None:
    layers = {"pooled_layer": "features.12", "region_layer": "features.7"}
    with pytest.raises(InputError, match=r"which layers of squeezenet1_1 its stages are; name them with"):
        backbone(library="torchvision", name="squeezenet1_1", pooled=["stages"], **layers)


def test_timm_gives_a_map_of_every_stage_and_of_every_so_many_th_block() -> None:
    layers: dict[str, Any] = {"library": "timm", "layers": None, "grid": 1, "pooled": ["stages"]}
    net = backbone(name="tf_efficientnet_lite0", **layers)
    image = pictures(1, size=64)
    maps = net.network.model.forward_intermediates(  # type: ignore[union-attr, operator]
        net.pixels(image), output_fmt="NCHW", intermediates_only=True
    )
    expected = [value for one in maps for value in moments(one)]
    torch.testing.assert_close(net.pooled(image)[0], torch.tensor(expected), atol=1e-4, rtol=1e-3)
    vit = backbone(name="vit_tiny_patch16_224", **layers)
    assert vit.pooled_features == 6 * 2 * 192  # 12 blocks, every second, the last among them
