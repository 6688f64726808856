"""The header of a preset in conf/backbone says of its network what timm says: weights, pixels, pooled vector, licence."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from factories import REPOSITORY
from omegaconf import OmegaConf

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.libraries.registry import LIBRARIES

FOLDER = REPOSITORY / "conf" / "backbone"

PRESETS = sorted(path for path in FOLDER.glob("*.yaml") if "base/timm" in path.read_text() and path.name != "timm.yaml")

PIXELS = {
    "convnext_base": 224,
    "dinov3_l16": 256,
    "efficientnet_lite0": 224,
    "efficientnet_lite2": 260,
    "fashion_siglip": 224,
    "mobileclip2_s0": 256,
    "siglip2_b16": 384,
}
"""Preset -> side of its pictures, as the papers say."""

LICENCES = {"apache-2.0": "Apache-2.0", "dinov3-license": "DINOv3 License", "apple-amlr": "AMLR"}
"""A licence as timm names it -> as a header does."""


def options(path: Path) -> Any:
    """The options of a preset as Hydra puts them together; the weights are not looked at."""
    parts = (FOLDER / "base" / "all.yaml", FOLDER / "base" / "timm.yaml", path)
    whole = OmegaConf.merge(*(OmegaConf.load(part) for part in parts))
    return {name: value for name, value in OmegaConf.to_container(whole).items() if name != "defaults"}  # type: ignore[union-attr]


def header(path: Path) -> str:
    return path.read_text().splitlines()[0]


def test_there_are_presets() -> None:
    assert {path.stem for path in PRESETS} == PIXELS.keys()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_preprocessing_is_that_of_timm(path: Path) -> None:
    found = LIBRARIES["timm"].preprocessing(options(path))
    config: Any = timm.get_pretrained_cfg(options(path)["name"])
    assert (found.mean, found.std) == (config.mean, config.std)
    assert config.input_size == (3, found.size, found.size)
    assert (found.interpolation, found.crop_share) == (config.interpolation, config.crop_pct)
    assert found.size == PIXELS[path.stem]
    assert f", {found.size} pixels," in header(path)
    assert LICENCES[config.license] in header(path)
    if found.mean != (0.485, 0.456, 0.406) and found.mean != (0.5, 0.5, 0.5):
        assert f"mean {found.mean[0]:.0f}, std {found.std[0]:.0f}" in header(path)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_network_has_the_weights_and_the_pooled_vector_of_the_header(path: Path) -> None:
    with torch.device("meta"):
        found = Backbone(options(path))
    millions = sum(weight.numel() for weight in found.network.parameters()) / 1e6
    named = re.search(r": ([\d.]+) million weights", header(path))
    assert named is not None
    digits = len(named[1].partition(".")[2])
    assert round(millions, digits) == float(named[1])
    pooled = re.search(r"pooled vector (\d+)", header(path))
    assert pooled is None or int(pooled[1]) == found.pooled_features
