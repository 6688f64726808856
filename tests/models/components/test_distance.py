import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ctl_lightning.models.components.distance import (
    DistanceName,
    attention_weights,
    global_distance,
    hybrid_distance,
    local_distance,
    plain_distance,
    query,
    query_distance,
)
from ctl_lightning.models.components.losses import HingeLoss

B, R, D, M = 3, 5, 4, 6


def unit(*shape: int, seed: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(values, dim=-1)


SCENE, REGIONS, KEYS = unit(B, D, seed=0), unit(B, R, D, seed=1), unit(B, R, D, seed=2)
CATEGORY, PRODUCT, PRODUCTS = unit(B, D, seed=3), unit(B, D, seed=4), unit(M, D, seed=5)
ATTENTION = attention_weights(KEYS, CATEGORY)


def slow(a: torch.Tensor, b: torch.Tensor, squared: bool) -> float:
    total = sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))
    return total if squared else total**0.5


def test_attention_is_a_softmax_over_the_regions_of_each_scene_by_a_slow_loop() -> None:
    for b in range(B):
        powers = [np.exp(-slow(KEYS[b, i], CATEGORY[b], True)) for i in range(R)]
        np.testing.assert_allclose(ATTENTION[b].numpy(), np.array(powers) / sum(powers))


def test_attention_follows_the_category_by_hand() -> None:
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    weights = attention_weights(keys, torch.tensor([[0.0, 1.0]]))
    # |k - e|² is 2 and 0, so the odds are 1 : e².
    torch.testing.assert_close(
        weights, torch.tensor([[1 / (1 + np.e**2), np.e**2 / (1 + np.e**2)]], dtype=torch.float32)
    )


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_attention_with_a_temperature_is_a_softmax_of_distances_over_it_by_a_slow_loop(temperature: float) -> None:
    for given in (temperature, torch.tensor(temperature, dtype=torch.float64)):
        weights = attention_weights(KEYS, CATEGORY, given)
        for b in range(B):
            powers = [np.exp(-slow(KEYS[b, i], CATEGORY[b], True) / temperature) for i in range(R)]
            np.testing.assert_allclose(weights[b].numpy(), np.array(powers) / sum(powers))
    sharper, flatter = (attention_weights(KEYS, CATEGORY, temperature * by).amax(1) for by in (0.5, 2))
    assert (sharper > flatter).all()


def test_a_temperature_of_one_is_the_papers_to_the_last_bit() -> None:
    keys, category = KEYS.float(), CATEGORY.float()
    paper = torch.softmax(2 * torch.einsum("brd,bd->br", keys, category), dim=1)
    assert torch.equal(attention_weights(keys, category), paper)
    assert torch.equal(attention_weights(keys, category, torch.tensor(0.0).exp()), paper)


@pytest.mark.parametrize("squared", [True, False])
def test_distances_are_the_papers_equations_by_a_slow_loop(squared: bool) -> None:
    for b in range(B):
        d_global = slow(SCENE[b], PRODUCT[b], squared)
        d_local = sum(float(ATTENTION[b, i]) * slow(REGIONS[b, i], PRODUCT[b], squared) for i in range(R))
        assert float(global_distance(SCENE, PRODUCT, squared)[b]) == pytest.approx(d_global)
        assert float(local_distance(REGIONS, ATTENTION, PRODUCT, squared)[b]) == pytest.approx(d_local)
        hybrid = hybrid_distance(SCENE, REGIONS, ATTENTION, PRODUCT, squared)
        assert float(hybrid[b]) == pytest.approx((d_global + d_local) / 2)


@pytest.mark.parametrize("method", ["global", "local", "hybrid"])
def test_the_one_query_form_is_the_region_by_region_form(method: DistanceName) -> None:
    fast = query_distance(query(method, SCENE, REGIONS, ATTENTION), PRODUCTS)
    for p in range(M):
        product = PRODUCTS[p].expand(B, D)
        reference = {
            "global": global_distance(SCENE, product),
            "local": local_distance(REGIONS, ATTENTION, product),
            "hybrid": hybrid_distance(SCENE, REGIONS, ATTENTION, product),
        }[method]
        torch.testing.assert_close(fast[:, p], reference)


@pytest.mark.parametrize("method", ["global", "local", "hybrid"])
def test_plain_distances_of_all_products_are_those_region_by_region(method: DistanceName) -> None:
    found = plain_distance(method, SCENE, REGIONS, ATTENTION, PRODUCTS)
    for p in range(M):
        product = PRODUCTS[p].expand(B, D)
        reference = {
            "global": global_distance(SCENE, product, squared=False),
            "local": local_distance(REGIONS, ATTENTION, product, squared=False),
            "hybrid": hybrid_distance(SCENE, REGIONS, ATTENTION, product, squared=False),
        }[method]
        torch.testing.assert_close(found[:, p], reference)


def test_plain_distance_has_a_finite_gradient_at_zero() -> None:
    same = torch.ones(2, requires_grad=True)
    global_distance(same, torch.ones(2), squared=False).backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(same.grad).all()  # type: ignore[arg-type]


def test_hinge_loss_by_hand() -> None:
    # Violated by 0.2 + 0.5 - 0.4 = 0.3; satisfied; exactly on the margin.
    loss = HingeLoss(margin=0.2)(torch.tensor([0.5, 0.1, 0.2]), torch.tensor([0.4, 0.9, 0.4]))
    assert float(loss) == pytest.approx(0.3 / 3)


def test_hinge_loss_pushes_only_violated_triplets() -> None:
    positive = torch.tensor([0.5, 0.1], requires_grad=True)
    negative = torch.tensor([0.4, 0.9], requires_grad=True)
    HingeLoss(margin=0.2)(positive, negative).backward()
    torch.testing.assert_close(positive.grad, torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(negative.grad, torch.tensor([-0.5, 0.0]))
