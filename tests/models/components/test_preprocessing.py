"""What pictures weights were trained on is read from where others have written it; nothing is guessed in silence."""

import json
import logging
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from factories import BACKBONE, backbone_of, module, trainer
from torchvision.models import get_model_weights

from ctl_lightning.data import images
from ctl_lightning.models.components import preprocessing
from ctl_lightning.models.components.backbone import preprocessing_of
from ctl_lightning.models.components.libraries.registry import LIBRARIES
from ctl_lightning.models.components.preprocessing import IMAGENET, Preprocessing, beside, of_values
from ctl_lightning.runtime.errors import InputError

HALF = [0.5, 0.5, 0.5]

TIMM: dict[str, Any] = {  # as timm's save_for_hf writes it
    "architecture": "vit_base_patch16_siglip_384",
    "num_classes": 0,
    "num_features": 768,
    "global_pool": "map",
    "pretrained_cfg": {
        "tag": "v2_webli",
        "custom_load": False,
        "input_size": [3, 384, 384],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": HALF,
        "std": HALF,
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    },
}

OPEN_CLIP: dict[str, Any] = {  # as open_clip's push_to_hf_hub writes it; of Marqo-FashionSigLIP
    "model_cfg": {
        "embed_dim": 768,
        "init_logit_bias": -10,
        "vision_cfg": {"image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"},
        "text_cfg": {"context_length": 64, "vocab_size": 32000},
    },
    "preprocess_cfg": {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"},
}

CLIP: dict[str, Any] = {  # a preprocessor_config.json of CLIPImageProcessor
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 256},
}

SIGLIP: dict[str, Any] = {"image_mean": HALF, "image_std": HALF, "resample": 2, "size": {"height": 384, "width": 384}}

OLD_VIT: dict[str, Any] = {"image_mean": HALF, "image_std": HALF, "resample": 2, "size": 224, "do_resize": True}

OURS: dict[str, Any] = {  # as `publish` writes it, in part
    "library_name": "ctl_lightning",
    "hyper_parameters": {"method": "hybrid", "backbone": BACKBONE | {"preprocessing": {"mean": HALF, "size": 96}}},
}


def written(folder: Path, **files: Any) -> Path:
    """A file of weights, of which nothing is read, with JSON files beside it."""
    weights = folder / "weights.safetensors"
    weights.write_bytes(b"none")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return weights


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config", TIMM, (HALF, 384, "bicubic", 0.9)),
        ("config", TIMM["pretrained_cfg"], (HALF, 384, "bicubic", 0.9)),
        ("config", OURS, (HALF, 96, "bilinear", 0.875)),
        ("open_clip_config", OPEN_CLIP, (HALF, 224, "bicubic", 1.0)),
        ("preprocessor_config", CLIP, (CLIP["image_mean"], 224, "bicubic", 0.875)),
        ("preprocessor_config", SIGLIP, (HALF, 384, "bilinear", 1.0)),
        ("preprocessor_config", OLD_VIT, (HALF, 224, "bilinear", 1.0)),
        ("preprocessor_config", CLIP | {"do_center_crop": False}, (CLIP["image_mean"], 256, "bicubic", 1.0)),
        ("weights", {"mean": HALF, "size": 518, "interpolation": "lanczos", "crop_share": 1}, (HALF, 518, "lanczos", 1)),
        ("weights", {"mean": HALF, "size": None}, (HALF, None, "bilinear", 0.875)),
    ],
)  # fmt: skip
def test_the_files_of_hubs_and_ours_are_read(tmp_path: Path, name: str, content: Any, expected: Any) -> None:
    found = beside(written(tmp_path, **{name: content}))
    assert found is not None
    mean, *others = expected
    assert found[0].mean == tuple(mean)
    assert [found[0].size, found[0].interpolation, found[0].crop_share] == others
    assert found[1] == tmp_path / f"{name}.json"


def test_an_open_clip_size_of_its_own_counts(tmp_path: Path) -> None:
    config = {"preprocess_cfg": OPEN_CLIP["preprocess_cfg"] | {"size": [256, 256]}, "model_cfg": {}}
    found = beside(written(tmp_path, open_clip_config=config))
    assert found is not None
    assert found[0].size == 256


def test_the_file_of_the_same_name_wins_then_config_then_open_clip(tmp_path: Path) -> None:
    others: dict[str, Any] = {"preprocessor_config": SIGLIP, "open_clip_config": OPEN_CLIP, "config": TIMM}
    files: dict[str, Any] = {}
    for name, content in (others | {"weights": {"size": 96}}).items():
        files[name] = content
        found = beside(written(tmp_path, **files))
        assert found is not None
        assert found[1].stem == name


@pytest.mark.parametrize(
    "foreign",
    [
        {"architectures": ["MarqoFashionSigLIP"], "model_type": "siglip"},
        {"pretrained_cfg": None},
        {"pretrained_cfg": {"input_size": 5}},
        {"hyper_parameters": {"backbone": None}},
        [1, 2],
        "text",
    ],
)
def test_a_config_with_another_purpose_is_passed_over(tmp_path: Path, foreign: Any) -> None:
    assert beside(written(tmp_path, config=foreign)) is None
    found = beside(written(tmp_path, config=foreign, open_clip_config=OPEN_CLIP))
    assert found is not None
    assert found[1].name == "open_clip_config.json"


@pytest.mark.parametrize(
    "odd", [{"resample": 17}, {"size": {"depth": 3}}, {"size": 0, "crop_size": 0, "do_center_crop": True}]
)
def test_a_preprocessor_without_the_sense_of_one_is_passed_over(tmp_path: Path, odd: dict[str, Any]) -> None:
    assert beside(written(tmp_path, preprocessor_config=SIGLIP | odd)) is None


def test_a_preprocessor_with_a_value_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"preprocessor_config\.json: size is 0, and must be a number of pixels"):
        beside(written(tmp_path, preprocessor_config=SIGLIP | {"size": 0}))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mena": HALF}, "there is no 'mena'; did you mean 'mean'?; there are: mean, std, size, interpolation, crop_share"),
        ({"mean": [0.5]}, "mean=[0.5]: must be three numbers, of red, green and blue, such as [0.5, 0.5, 0.5]"),
        ({"mean": 0.5}, "mean=0.5: must be three numbers"),
        ({"mean": [0.5, -0.1, 0.5]}, "mean=[0.5, -0.1, 0.5]: must be three numbers"),
        ({"mean": [0.5, True, 0.5]}, "mean=[0.5, True, 0.5]: must be three numbers"),
        ({"mean": [0.5, "0.5", 0.5]}, "mean=[0.5, '0.5', 0.5]: must be three numbers"),
        ({"std": [0.5, 0, 0.5]}, "std=[0.5, 0, 0.5]: must be three numbers"),
        ({"std": [0.5, float("nan"), 0.5]}, "std=[0.5, nan, 0.5]: must be three numbers"),
        ({"size": 0}, "size is 0, and must be a number of pixels, such as 224"),
        ({"size": 224.0}, "size is 224.0, and must be a number of pixels"),
        ({"size": True}, "size is True, and must be a number of pixels"),
        ({"size": 1 << 40}, "size is 1099511627776, and must be a number of pixels"),
        ({"interpolation": "box"}, "interpolation is 'box', and must be nearest, bilinear, bicubic, lanczos"),
        ({"interpolation": ["bicubic"]}, "interpolation is ['bicubic'], and must be nearest"),
        ({"crop_share": 0}, "crop_share is 0, and must be above 0 and at most 1, such as 0.875"),
        ({"crop_share": 1.2}, "crop_share is 1.2, and must be above 0 and at most 1"),
    ],
)  # fmt: skip
def test_a_value_that_is_none_is_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        of_values(values, "here")
    assert str(caught.value).startswith(f"here: {says}")
    assert "\n" not in str(caught.value)


def test_what_is_absent_is_imagenets_and_plain_values_come_back() -> None:
    assert of_values({}, "here") == IMAGENET
    found = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), None, "nearest", 1.0)
    assert of_values(json.loads(json.dumps(found.plain())), "here") == found


def test_a_file_of_our_name_that_says_something_else_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights\.json: not a preprocessing; expected is such as \{'mean'"):
        beside(written(tmp_path, weights=[1]))
    with pytest.raises(InputError, match=r"weights\.json: there is no 'epochs'; there are: mean, std"):
        beside(written(tmp_path, weights={"epochs": 3}))


def test_options_take_the_place_of_what_the_file_says(tmp_path: Path) -> None:
    weights = written(tmp_path, config=TIMM)
    changed = {"mean": [0.4, 0.4, 0.4], "std": None, "size": None, "interpolation": None, "crop_share": 1.0}
    found = preprocessing_of(BACKBONE | {"weights": str(weights), "preprocessing": changed})
    assert found == Preprocessing((0.4, 0.4, 0.4), (0.5, 0.5, 0.5), 384, "bicubic", 1.0)
    with pytest.raises(InputError, match=r"backbone\.preprocessing: crop_share is 2, and must be above 0"):
        preprocessing_of(BACKBONE | {"preprocessing": {"crop_share": 2}})


def test_where_nothing_is_written_what_is_assumed_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = written(tmp_path)
    options = BACKBONE | {
        "library": "torchvision",
        "name": "mobilenet_v2",
        "weights": str(weights),
        "preprocessing": {},
    }
    with caplog.at_level(logging.INFO):
        assert preprocessing_of(options) == IMAGENET
    (line,) = caplog.messages
    assert f"backbone.weights={weights}: nothing beside the file says how its pictures were made" in line
    assert (
        "taken as for mobilenet_v2: mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225), 224 pixels, bilinear" in line
    )
    assert line.endswith("if that is wrong, set the options of backbone.preprocessing, or write weights.json")
    caplog.clear()
    written(tmp_path, weights={"mean": HALF})
    with caplog.at_level(logging.INFO):
        assert preprocessing_of(options).mean == (0.5, 0.5, 0.5)
    assert caplog.messages == [
        f"backbone.weights={weights}: their preprocessing is written in {tmp_path / 'weights.json'}"
    ]


def test_a_checkpoint_of_ours_says_it_itself(tmp_path: Path) -> None:
    own = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 96, "lanczos", 0.75)
    made = module(backbone=BACKBONE | {"preprocessing": own.plain()})
    lightning = trainer(tmp_path, max_epochs=0)
    lightning.strategy.connect(made)
    path = tmp_path / "last.ckpt"
    lightning.save_checkpoint(path)
    written(tmp_path, last={"size": 32})  # and what lies beside it does not matter
    options = BACKBONE | {"weights": str(path), "preprocessing": {}}
    assert preprocessing_of(options) == own
    old = torch.load(path, weights_only=True)  # as it was before a checkpoint had more than mean and deviation
    del old["hyper_parameters"]["backbone"]["preprocessing"]
    torch.save(old, path)
    assert preprocessing_of(options) == IMAGENET._replace(mean=own.mean, std=own.std, size=None)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"hyper_parameters": {"backbone": "resnet50"}}, [1]])
def test_a_file_of_others_is_no_checkpoint_of_ours(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pth")
    options = BACKBONE | {"weights": str(tmp_path / "weights.pth"), "preprocessing": {}}
    assert preprocessing_of(options) == IMAGENET._replace(size=None)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_b0", "efficientnet_v2_l", "convnext_tiny", "vit_b_16"])  # fmt: skip
def test_weights_of_torchvision_have_the_transforms_of_its_enum(name: str) -> None:
    for weights in get_model_weights(name):
        options = BACKBONE | {"library": "torchvision", "name": name, "weights": weights.name}
        found, expected = LIBRARIES["torchvision"].preprocessing(options), weights.transforms()
        assert [found.mean, found.std] == [pytest.approx(expected.mean), pytest.approx(expected.std)]
        assert [found.size] == expected.crop_size
        assert [round(expected.crop_size[0] / found.crop_share)] == expected.resize_size
        assert found.interpolation == expected.interpolation.value


def test_every_network_of_torchvision_has_one() -> None:
    from torchvision import models

    names = models.list_models(module=models)
    assert len(names) > 50
    for name in names:
        options = BACKBONE | {"library": "torchvision", "name": name, "weights": None}
        assert LIBRARIES["torchvision"].preprocessing(options).size is not None


def test_newer_weights_of_resnet50_were_resized_to_232() -> None:
    options = BACKBONE | {"library": "torchvision", "name": "resnet50", "weights": "IMAGENET1K_V2", "preprocessing": {}}
    found = preprocessing_of(options)
    assert (found.size, round(224 / found.crop_share)) == (224, 232)
    assert preprocessing_of(options | {"weights": "IMAGENET1K_V1"}) == IMAGENET


def test_pictures_are_resized_as_weights_can_ask_for() -> None:
    assert get_args(images.Interpolation) == get_args(preprocessing.Interpolation)


def test_a_first_look_at_a_size_changes_nothing() -> None:
    """In training mode the picture that the size is tried with would count in BatchNorm's statistics."""
    found = backbone_of("small", "pooled", "regions", 3, frozen=False)
    before = {name: value.clone() for name, value in found.state_dict().items()}
    drawn = torch.get_rng_state()
    found.check_size(48)
    assert found.training
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
