"""Pictures are as large, and resized, as the backbone's weights want them, unless told otherwise; what contradicts is told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import TINY, Compose, train_on
from safetensors.torch import save_file

from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.libraries.small import SmallNetwork
from ctl_lightning.runtime.config import resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.train import train
from ctl_lightning.training.picture_options import warn_of_sizes, with_preprocessing

PHOTOS = ("data=stl_fashion", "data.root=nowhere")


def filled(compose: Compose, *words: str) -> dict[str, Any]:
    return dict(resolved(with_preprocessing(compose(*words))))


def sizes(options: dict[str, Any]) -> list[Any]:
    return [options["data"][name] for name in ("image_size", "stored_size", "interpolation")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["backbone=mobilenet_v2"], [224, 256, "bilinear"]),
        (["backbone=resnet50"], [224, 256, "bilinear"]),
        (["backbone=resnet50", "backbone.weights=IMAGENET1K_V2"], [224, 232, "bilinear"]),
        (["backbone=efficientnet_lite2"], [260, 292, "bicubic"]),
        (["backbone=siglip2_b16"], [384, 427, "bicubic"]),
        (["backbone=dinov3_l16"], [256, 256, "bicubic"]),
        (["backbone=mobilenet_v2", "data.stored_size=300"], [224, 300, "bilinear"]),
        (["backbone=mobilenet_v2", "data.stored_size=128"], [112, 128, "bilinear"]),
        (["backbone=mobilenet_v2", "data.image_size=112"], [112, 128, "bilinear"]),
        (["backbone=mobilenet_v2", "data.image_size=112", "data.stored_size=200"], [112, 200, "bilinear"]),
        (["backbone=mobilenet_v2", "backbone.preprocessing.size=448"], [448, 512, "bilinear"]),
        (["backbone=mobilenet_v2", "backbone.preprocessing.crop_share=1"], [224, 224, "bilinear"]),
        (["backbone=mobilenet_v2", "backbone.preprocessing.interpolation=lanczos"], [224, 256, "lanczos"]),
        (["backbone=siglip2_b16", "data.interpolation=bicubic"], [384, 427, "bicubic"]),
    ],

)  # fmt: skip
def test_what_is_null_is_what_the_weights_want(compose: Compose, words: list[str], expected: list[Any]) -> None:
    options = filled(compose, *PHOTOS, *words)
    assert sizes(options) == expected
    assert options["backbone"]["preprocessing"] == options["model"]["backbone"]["preprocessing"]
    assert None not in options["backbone"]["preprocessing"].values()


def test_synthetic_looks_stay_as_they_are(compose: Compose) -> None:
    assert sizes(filled(compose)) == [56, 64, "bilinear"]


def test_a_network_for_any_size_has_the_papers(compose: Compose) -> None:
    assert sizes(filled(compose, *PHOTOS, "backbone=small")) == [224, 256, "bilinear"]


def test_another_interpolation_than_that_of_the_weights_is_refused(compose: Compose) -> None:
    words = (*PHOTOS, "backbone=siglip2_b16", "data.interpolation=bilinear")
    with pytest.raises(InputError) as caught:
        filled(compose, *words)
    assert str(caught.value) == (
        "data.interpolation=bilinear: the backbone's weights were trained on pictures that were resized by bicubic; leave it "
        "out, or say with backbone.preprocessing.interpolation=bilinear that they were not"
    )
    assert sizes(filled(compose, *words, "backbone.preprocessing.interpolation=bilinear"))[2] == "bilinear"


def test_without_weights_nothing_is_contradicted(compose: Compose, caplog: pytest.LogCaptureFixture) -> None:
    words = ("backbone=siglip2_b16", "backbone.weights=null", "data.interpolation=bilinear", "data.image_size=64")
    options = filled(compose, *PHOTOS, *words)
    assert sizes(options)[2] == options["backbone"]["preprocessing"]["interpolation"] == "bilinear"
    warn_of_sizes(options)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.stored_size=128"], "data.image_size=112 data.stored_size=128: the weights of mobilenet_v2 were trained on 224 pixels"),
        (["data.image_size=223"], "data.image_size=223 data.stored_size=255: the weights of mobilenet_v2 were trained on 224 pixels"),
        (["data.image_size=224"], None),
        (["data.image_size=448"], None),
        ([], None),
    ],
)  # fmt: skip
def test_smaller_pictures_than_those_of_the_weights_are_a_warning(
    compose: Compose, caplog: pytest.LogCaptureFixture, words: list[str], says: str | None
) -> None:
    warn_of_sizes(filled(compose, *PHOTOS, "backbone=mobilenet_v2", *words))
    way_out = "leave both out, or give data.image_size=224 data.stored_size=256"
    assert caplog.messages == ([] if says is None else [f"{says}; {way_out}"])


def test_no_room_for_random_parts_is_a_warning(compose: Compose, caplog: pytest.LogCaptureFixture) -> None:
    words = (*PHOTOS, "backbone=mobilenet_v2", "data.stored_size=224", "data.image_size=224")
    warn_of_sizes(filled(compose, *words, "data.augment=none"))
    assert caplog.messages == []
    warn_of_sizes(filled(compose, *words, "data.augment=crop"))
    assert "data.augment=crop: pictures are stored at the 224 pixels" in caplog.messages[-1]
    assert "data.stored_size=256 leaves room" in caplog.messages[-1]


def sidecar(folder: Path, **values: Any) -> Path:
    """Weights of the small network in a file, with their preprocessing in a file of its name."""
    torch.manual_seed(1)
    save_file(SmallNetwork().state_dict(), folder / "weights.safetensors")
    (folder / "weights.json").write_text(json.dumps(values))
    return folder / "weights.safetensors"


def test_a_file_beside_the_weights_decides_and_is_in_the_checkpoint(
    compose: Compose, tmp_path: Path, without_pictures: None
) -> None:
    weights = sidecar(tmp_path, mean=[0.5] * 3, std=[0.25] * 3, size=48, interpolation="bicubic", crop_share=0.75)
    words = (*TINY, f"backbone.weights={weights}", "data.image_size=null", "data.stored_size=null", "backbone.grid=3")
    assert sizes(filled(compose, *words)) == [48, 64, "bicubic"]
    train(compose(*words))
    kept = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert kept["hyper_parameters"]["backbone"]["preprocessing"]["crop_share"] == 0.75
    assert kept["config"]["data"]["interpolation"] == "bicubic"
    assert kept["state_dict"]["network.backbone.mean"].flatten().tolist() == [0.5] * 3
    assert kept["state_dict"]["network.backbone.std"].flatten().tolist() == [0.25] * 3


def test_data_options_that_contradict_the_file_are_told(
    compose: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Mean and deviation are the network's, and no option of the data; smaller pictures work, and are a warning."""
    weights = sidecar(tmp_path, size=96, interpolation="bicubic")
    with pytest.raises(InputError, match=r"^data\.interpolation=lanczos: .*resized by bicubic; leave it out, or say"):
        filled(compose, *PHOTOS, f"backbone.weights={weights}", "data.interpolation=lanczos")
    warn_of_sizes(filled(compose, *PHOTOS, "backbone=small", f"backbone.weights={weights}", "data.image_size=64"))
    assert caplog.messages[-1].startswith(
        "data.image_size=64 data.stored_size=73: the weights of small were trained on 96"
    )


def test_the_pictures_of_a_starting_point_are_its_own(
    compose: Compose, looks: Path, cache: Path, tmp_path: Path
) -> None:
    start = train_on(looks, cache, tmp_path / "start", "backbone.preprocessing.mean=[0.5,0.5,0.5]", "backbone.preprocessing.size=48")  # fmt: skip
    words = (*PHOTOS, "backbone=small", f"init_from={start}")
    options = filled(compose, *words)
    assert sizes(options) == [48, 55, "bilinear"]
    assert options["backbone"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    with pytest.raises(InputError, match=r"data\.interpolation=bicubic: .*resized by bilinear"):
        filled(compose, *words, "data.interpolation=bicubic")
    with pytest.raises(InputError, match=r"^init_from=nowhere: no such file"):
        filled(compose, *PHOTOS, "init_from=nowhere")


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("vit_tiny_patch16_224", 64, None),  # its positions are resampled
        ("vit_tiny_patch16_224", 50, r"vit_tiny_patch16_224 does not take such pictures \(.*50.*16.*\), but those of 224"),
        ("swin_tiny_patch4_window7_224", 64, None),  # its windows are made anew
        ("levit_128s", 64, r"levit_128s does not take such pictures \(.+\), but those of 224 pixels"),
        ("test_coatnet", 64, r"test_coatnet does not take such pictures \(.+\), but those of 160 pixels"),
    ],
)  # fmt: skip
def test_a_network_of_one_size_refuses_others_in_one_line(
    compose: Compose, name: str, size: int, says: str | None
) -> None:
    words = ("backbone=timm", f"backbone.name={name}", "backbone.weights=null", f"data.image_size={size}")
    config = with_preprocessing(compose(*words, "backbone.grid=4"))
    found = Backbone(resolved(config)["backbone"])
    if says is None:
        found.check_size(size)
        return
    with pytest.raises(InputError) as caught:
        found.check_size(size)
    assert re.fullmatch(
        rf"data\.image_size={size}: {says}.*; give data\.image_size=null data\.stored_size=null", str(caught.value)
    )
