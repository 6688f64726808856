"""What of a checkpoint a new run starts from: by hand, part by part and row by row."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import BACKBONE, MakeData, module, trainer
from lightning import seed_everything

from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.feature_cache import cache_features
from ctl_lightning.training.module import CompleteTheLook
from ctl_lightning.training.seen_scenes import seen_scenes
from ctl_lightning.training.starting_point import StartingPoint, in_words

OPTIONS = {"backbone": BACKBONE}

LEARNED = {"name": "info_nce", "temperature": 0.1, "learn_temperature": True, "box_weight": 0.5}


def saved(folder: Path, **options: Any) -> Path:
    """A checkpoint of a module whose weights and buffers are all unlike those of a new one."""
    model = module(**options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in model.state_dict().values():
            number = torch.rand(value.shape, generator=generator) if value.is_floating_point() else torch.tensor(5)
            value.copy_(number if value.ndim < 2 else (number - 0.5) / 10)  # features of such size fit float16
    runner = trainer(folder)
    runner.strategy.connect(model)
    path = folder / "checkpoint.ckpt"
    runner.save_checkpoint(path)
    return path


def started(path: Path, **options: Any) -> tuple[CompleteTheLook, CompleteTheLook, dict[str, Any]]:
    """A module that starts from a checkpoint, the same module that starts from nothing, and what was done."""
    seed_everything(3, verbose=False)
    fresh = module(**options)
    seed_everything(3, verbose=False)
    model = module(**options)
    return model, fresh, StartingPoint(str(path), OPTIONS).give(model)


def of(model: CompleteTheLook, part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if f".{part}." in f".{name}"}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert first
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_the_same_network_is_taken_whole_with_its_preprocessing_and_the_state_of_its_loss(tmp_path: Path) -> None:
    path = saved(tmp_path, loss=LEARNED)
    model, _, done = started(path, loss=LEARNED)
    assert_equal(model.state_dict(), read_checkpoint(path)["state_dict"])
    assert "network.backbone.mean" in model.state_dict()
    assert done["taken"] == ["backbone", "pooled_head", "region_head", "key_head", "loss"]
    assert done["new"] == []


def test_rows_of_categories_go_by_their_names(tmp_path: Path) -> None:
    path = saved(tmp_path, categories=["Bags", "Hats", "Scarves", "Shoes"])
    rows = read_checkpoint(path)["state_dict"]["network.category_embedding.weight"]
    model, fresh, done = started(path, categories=["Belts", "Shoes", "Hats"])
    own = model.state_dict()["network.category_embedding.weight"]
    assert torch.equal(own[0], fresh.state_dict()["network.category_embedding.weight"][0])  # as in any new run
    assert torch.equal(own[1], rows[3])
    assert torch.equal(own[2], rows[1])
    assert done["categories"] == {"taken": ["Shoes", "Hats"], "new": ["Belts"], "left_out": ["Bags", "Scarves"]}
    assert in_words(done) == (
        f"starts from {path}: backbone, pooled_head, region_head, key_head, 2 of 3 categories; new: category 'Belts'; "
        "left out: categories 'Bags', 'Scarves'"
    )


def test_of_many_new_categories_a_few_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path)
    _, _, done = started(path, categories=[f"c{n}" for n in range(40)])
    assert "; new: categories 'c0', 'c1', 'c2', 'c3', 'c4' and 35 more; left out: categories 'A" in in_words(done)


def test_another_method_takes_the_parts_that_both_have(tmp_path: Path) -> None:
    path = saved(tmp_path, method="global")
    model, fresh, done = started(path, method="hybrid")
    theirs = read_checkpoint(path)["state_dict"]
    for part in ("backbone", "pooled_head"):
        assert_equal(of(model, part), {name: value for name, value in theirs.items() if f".{part}." in name})
    for part in ("region_head", "key_head", "category_embedding"):
        assert_equal(of(model, part), of(fresh, part))
    assert (done["taken"], done["new"]) == (
        ["backbone", "pooled_head"],
        ["region_head", "key_head", "category_embedding"],
    )
    assert in_words(done).endswith("backbone, pooled_head; new: region_head, key_head, category_embedding")


@pytest.mark.parametrize("option", ["dim", "hidden"])
def test_heads_of_another_size_are_new_as_a_whole(tmp_path: Path, option: str) -> None:
    path = saved(tmp_path)
    model, fresh, done = started(path, **{option: 5})
    heads = ["pooled_head", "region_head", "key_head"]
    assert done["taken"] == ["backbone"]
    assert done["new"] == (heads if option == "hidden" else [*heads, "category_embedding"])
    for part in heads:
        assert_equal(of(model, part), of(fresh, part))  # not half of it, although `inner` or `outer.bias` would fit


def test_a_loss_with_other_options_keeps_its_own_state(tmp_path: Path) -> None:
    path = saved(tmp_path, loss=LEARNED)
    fixed = LEARNED | {"learn_temperature": False}
    model, fresh, done = started(path, loss=fixed)
    assert_equal(of(model, "loss"), of(fresh, "loss"))
    assert done["new"] == ["loss"]


def test_what_is_random_afterwards_does_not_depend_on_the_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path)
    seed_everything(3, verbose=False)
    module()
    expected = torch.rand(3)
    seed_everything(3, verbose=False)
    StartingPoint(str(path), OPTIONS).give(module())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("option", "value"), [("name", "resnet18"), ("pooled_layer", "layer4"), ("region_layer", "layer3"), ("grid", 7)]
)
def test_another_backbone_is_refused(tmp_path: Path, option: str, value: object) -> None:
    path = saved(tmp_path)
    with pytest.raises(
        InputError, match=rf"init_from=.*backbone\.{option}=.*, this run has {value}, .*the same backbone"
    ):
        StartingPoint(str(path), {"backbone": BACKBONE | {option: value}})


def test_how_a_backbone_is_trained_makes_it_no_other(tmp_path: Path) -> None:
    path = saved(tmp_path)
    StartingPoint(str(path), {"backbone": BACKBONE | {"frozen": True, "weights": "x.pth", "cache_views": 4}})


def test_what_is_no_starting_point_is_one_line_that_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "popularity").mkdir()
    refused = {
        tmp_path / "nowhere": "no such file",
        tmp_path / "text.ckpt": "not a readable checkpoint",
        tmp_path: "a directory without checkpoints",
        saved(tmp_path / "popularity", method="popularity"): "its method, popularity, has no weights to start from",
    }
    for path, why in refused.items():
        with pytest.raises(InputError, match=why) as error:
            StartingPoint(str(path), OPTIONS)
        assert str(error.value).startswith(f"init_from={path}: ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda state: state.pop("network.backbone.mean"), "the weights of its backbone do not fit small"),
        (lambda state: state["network.key_head.outer.bias"].fill_(torch.nan), "key_head.outer.bias is not finite"),
        (lambda state: state.update({7: state.pop("network.key_head.outer.bias")}), "it does not fit this revision"),
    ],
    ids=["backbone", "finite", "names"],
)
def test_weights_that_are_odd_are_refused(tmp_path: Path, change: Callable[[Any], None], why: str) -> None:
    path = saved(tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint["state_dict"])
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=rf"init_from=.*{why}"):
        StartingPoint(str(path), OPTIONS).give(module())


def test_cached_features_are_those_of_the_taken_backbone(tmp_path: Path, make_data: MakeData) -> None:
    frozen = {"backbone": BACKBONE | {"frozen": True}}
    model, fresh, _ = started(saved(tmp_path), **frozen)
    data = make_data(augment="none")
    data.cache_dir = tmp_path / "cache"
    device = torch.device("cpu")
    taken, random = cache_features(model, data, device), cache_features(fresh, data, device)
    assert taken != random
    again, _, _ = started(tmp_path / "checkpoint.ckpt", **frozen)
    assert cache_features(again, data, device, only_if_there=True) == taken


def checkpoint_on(data: Any, **options: Any) -> dict[str, Any]:
    """What a checkpoint says of the data that it was trained on."""
    trained = asdict(data.rule) | {"source": {"name": "shop_the_look"}} | options
    return {"config": {"data": trained}, "TripletDataModule": {"pairs": data.pair_hashes()}}


def test_scenes_that_were_trained_on_are_counted_if_the_other_run_has_left_its_split(
    tmp_path: Path, make_data: MakeData
) -> None:
    ours, theirs = make_data(), make_data(salt="other")
    theirs.write_protocol_files(tmp_path)
    own = {pair.scene for split in ("validation", "test") for pair in ours.pairs[split]}
    seen = own & {pair.scene for pair in theirs.pairs["train"]}
    assert 0 < len(seen) < len(own)
    told = seen_scenes("RUN", tmp_path / "checkpoints/a.ckpt", checkpoint_on(theirs), ours, "shop_the_look")
    assert told is not None
    assert f"init_from=RUN: it was trained on {len(seen)} of the {len(own)} scenes" in told
    assert told.endswith("data.salt=other data.split_file=null")


def test_a_split_that_is_not_there_may_have_had_the_same_scenes(tmp_path: Path, make_data: MakeData) -> None:
    ours, theirs = make_data(), make_data(salt="other")
    path = tmp_path / "checkpoints/a.ckpt"
    told = seen_scenes("RUN", path, checkpoint_on(theirs), ours, "shop_the_look")
    assert told is not None
    assert "it may have been trained on scenes" in told
    assert "it does not say how its data was split" in str(seen_scenes("RUN", path, {}, ours, "shop_the_look"))
    told = seen_scenes("RUN", Path("a.ckpt"), checkpoint_on(theirs, split_file="s.json"), ours, "shop_the_look")
    assert told is not None
    assert told.endswith("data.split_file=s.json")


def test_nothing_is_told_where_no_scene_can_have_been_seen(tmp_path: Path, make_data: MakeData) -> None:
    ours, path = make_data(), tmp_path / "checkpoints/a.ckpt"
    other = make_data(salt="other")
    fewer = make_data(exclude_categories=["Apparel & Accessories|Hats"])
    other.write_protocol_files(tmp_path)
    published = make_data(split_file=str(tmp_path / "split.json"))
    assert seen_scenes("RUN", path, checkpoint_on(fewer), ours, "shop_the_look") is None  # the same rule
    assert seen_scenes("RUN", path, checkpoint_on(other), ours, "folder") is None  # other ids
    assert seen_scenes("RUN", path, checkpoint_on(other), published, "shop_the_look") is None  # its split, as a file
    more = checkpoint_on(other) | {"TripletDataModule": {"pairs": {"test": "other pairs"}}}
    assert seen_scenes("RUN", path, more, published, "shop_the_look") is None  # by its split.json
