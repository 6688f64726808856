"""The methods recipe and geometry against slow forms: standardised inputs, averaged members, the box loss."""

from typing import Any

import pytest
import torch
from factories import BACKBONE, module, pictures, slow_loss, small
from torch import Tensor

from ctl_lightning.data.crop import GEOMETRY, geometry, scene_crop
from ctl_lightning.data.store.features import CachedFeatures
from ctl_lightning.data.triplets import PairBatch, Triplet
from ctl_lightning.models.components.standardised import LIMIT, Standardised
from ctl_lightning.models.geometry import NUMBERS, Geometry
from ctl_lightning.models.recipe import Recipe

OPTIONS: dict[str, Any] = {"dim": 5, "hidden": 7, "dropout": 0.0}
INFO_NCE = {"name": "info_nce", "temperature": 0.2, "learn_temperature": False, "box_weight": 0.5}


def features(count: int, width: int, seed: int = 0) -> CachedFeatures:
    pooled = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return CachedFeatures(pooled, pooled.new_empty(count, 0, 0))


def recipe(members: int = 1, heads: Any = "separate") -> Recipe:
    return Recipe(small(frozen=True), 2, heads=heads, members=members, **OPTIONS)


def test_inputs_are_standardised_by_what_is_trained_on_and_cut_off() -> None:
    rows = torch.randn(50, 4) * torch.tensor([1.0, 30.0, 0.01, 0.0]) + torch.tensor([0.0, 5.0, -2.0, 3.0])
    scale = Standardised(4)
    scale.fit(iter(torch.split(rows.half().float(), 7)))
    rows = rows.half().float()
    torch.testing.assert_close(scale.mean, rows.mean(0))
    torch.testing.assert_close(scale.std[:3], rows.std(0, correction=0)[:3])
    assert scale.std[3] == 1  # never varies: left as it is
    far = rows.mean(0) + 100 * rows.std(0)
    assert scale(far[None])[0, :3].tolist() == [LIMIT] * 3
    torch.testing.assert_close(scale(rows)[:, 0], ((rows[:, 0] - rows[:, 0].mean()) / rows[:, 0].std(correction=0)))


@pytest.mark.parametrize("heads", ["separate", "shared"])
def test_the_distance_is_the_mean_of_the_members_and_has_one_query(heads: Any) -> None:
    net = recipe(3, heads).eval()
    scenes, products = features(2, net.backbone.pooled_features), features(4, net.backbone.pooled_features, 1)
    with torch.no_grad():
        style, vectors = net.embed_scene(scenes, torch.zeros(2)), net.embed_product(products)
        table = net.distances(style, vectors)
        slow = torch.zeros(2, 4)
        for scene_head, product_head in zip(net.scenes.heads, net.products.heads, strict=True):
            f_s = scene_head(net.scenes.scale(scenes.pooled), "scene")
            f_p = product_head(net.products.scale(products.pooled), "product")
            for row in range(2):
                for column in range(4):
                    slow[row, column] += (f_s[row] - f_p[column]).square().sum() / 3
        torch.testing.assert_close(table, slow)
        torch.testing.assert_close(2 - net.query(style) @ vectors.T, table)
        torch.testing.assert_close(net.distance(style, vectors[:2]), slow.diagonal())
        alone = net.separately(style, (vectors,))
    assert len(alone) == 3
    torch.testing.assert_close(alone[1][0].scene.norm(dim=1), torch.ones(2))
    assert vectors.shape == (4, 15)


def test_heads_are_separate_or_shared() -> None:
    assert all(s is not p for s, p in zip(recipe(2).scenes.heads, recipe(2).products.heads, strict=True))
    shared = recipe(2, "shared")
    assert all(s is p for s, p in zip(shared.scenes.heads, shared.products.heads, strict=True))


def batch(width: int, box: bool) -> PairBatch:
    """Five pairs of two categories; the first two share a scene, the last two a product."""
    return PairBatch(
        features(5, width),
        features(5, width, 1),
        torch.tensor([0, 0, 0, 1, 1]),
        torch.tensor([10, 11, 12, 13, 13]),
        torch.tensor([[10, 11], [10, 11], [12, -1], [13, -1], [13, -1]]),
        features(5, width, 2) if box else None,
    )


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_the_box_loss_is_that_of_scenes_against_boxes_and_of_boxes_against_products(
    members: int, weight: float
) -> None:
    options = {"frozen": True, "cache": "auto"}
    made = module(
        method="recipe",
        backbone=BACKBONE | options,
        heads="separate",
        members=members,
        loss=INFO_NCE | {"box_weight": weight},
        **OPTIONS,
    )
    net: Any = made.network
    pairs = batch(net.backbone.pooled_features, box=True)
    rows = [("a", "10", 0), ("a", "11", 0), ("b", "12", 0), ("c", "13", 1), ("d", "13", 1)]
    named = {"a": {"10", "11"}, "b": {"12"}, "c": {"13"}, "d": {"13"}}
    net.eval()  # BatchNorm and dropout as written, so that the slow form is the same function
    expected = torch.zeros(())
    for scene_head, product_head in zip(net.scenes.heads, net.products.heads, strict=True):
        f_s = scene_head(net.scenes.scale(pairs.scene[0]), "scene")
        f_p = product_head(net.products.scale(pairs.product[0]), "product")
        assert pairs.box is not None
        f_b = product_head(net.products.scale(pairs.box[0]), "product")

        def nce(a: Tensor, b: Tensor) -> Tensor:
            distance = torch.stack([torch.stack([(x - y).square().sum() for y in b]) for x in a])
            return slow_loss("info_nce", distance, rows, named, torch.tensor(0.2))

        expected = expected + (nce(f_s, f_p) + weight * (nce(f_s, f_b) + nce(f_b, f_p))) / members
    torch.testing.assert_close(made.in_batch_loss(pairs), expected)


def test_without_boxes_there_is_no_box_loss() -> None:
    made = module(
        method="recipe", backbone=BACKBONE | {"frozen": True}, heads="separate", members=1, loss=INFO_NCE, **OPTIONS
    )
    made.network.eval()
    width = made.network.backbone.pooled_features
    with_boxes, without = made.in_batch_loss(batch(width, True)), made.in_batch_loss(batch(width, False))
    assert float(with_boxes.detach()) > float(without.detach())


def test_members_learn_each_from_its_own_loss() -> None:
    """What one member gives changes no gradient of another."""
    made = module(
        method="recipe",
        backbone=BACKBONE | {"frozen": True},
        heads="separate",
        members=2,
        loss={"name": "triplet", "margin": 0.2},
        **OPTIONS,
    )
    net: Any = made.network.eval()
    width = net.backbone.pooled_features
    given = Triplet(features(4, width), features(4, width, 1), features(4, width, 2), torch.zeros(4, dtype=torch.long))

    def gradient() -> Tensor:
        net.zero_grad()
        made.triplet_loss(given).backward()  # type: ignore[no-untyped-call]
        found: Tensor = net.scenes.heads[0].inner.weight.grad.clone()
        return found

    before = gradient()
    with torch.no_grad():
        net.scenes.heads[1].inner.weight.mul_(-3)
    assert torch.equal(gradient(), before)
    assert before.abs().sum() > 0


def test_geometry_sees_the_box_and_nothing_else_of_the_scene() -> None:
    net = Geometry(small(frozen=True), 2, **OPTIONS).eval()
    assert NUMBERS == GEOMETRY == len(geometry((0.1, 0.2, 0.5, 0.6), 0.05))
    boxes = torch.tensor([geometry(box, 0.05) for box in ((0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 1.0, 0.3))])
    style = net.embed_scene(CachedFeatures(boxes, boxes.new_empty(2, 0, 0)), torch.zeros(2))
    assert style.scene.shape == (2, 5)
    assert net.embed_product(pictures(3)).shape == (3, 5)


def test_the_numbers_of_a_box() -> None:
    box = (0.1, 0.2, 0.5, 0.4)
    crop = scene_crop(box, 0.05)
    area = (crop[2] - crop[0]) * (crop[3] - crop[1])
    assert geometry(box, 0.05) == pytest.approx((0.1, 0.2, 0.5, 0.4, 0.4, 0.2, 0.08, 0.6931472, area))
    assert area == pytest.approx(0.55)
