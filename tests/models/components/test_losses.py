"""Every loss against a slow loop that is written from its definition, with values, gradients and adversarial batches."""

import math
from typing import Any

import pytest
import torch
from factories import MARGIN, Batch, slow_loss
from torch import Tensor

from ctl_lightning.models.components.losses import (
    InBatchHingeLoss,
    InfoNCELoss,
    Mining,
    in_batch_negatives,
)
from ctl_lightning.models.components.temperature import LOWEST_TEMPERATURE, Temperature

TAU = 0.3
VARIANTS = ("all", "semi_hard", "hardest", "info_nce")


def batch_of(kind: str) -> tuple[Batch, dict[str, set[str]]]:
    """Rows, and what else each scene names."""
    generator = torch.Generator().manual_seed(3)
    scenes = torch.randint(0, 6, (12,), generator=generator).tolist()
    rows = [(f"s{scene}", f"p{n}", n % 3) for n, scene in enumerate(scenes)]
    if kind == "all rows the same scene":
        rows = [("s", f"p{n}", 0) for n in range(6)]
    elif kind == "the same product in every row":
        rows = [(f"s{n}", "p", 0) for n in range(6)]
    elif kind == "duplicates of a product":
        rows = [(f"s{n}", f"p{n // 3}", 0) for n in range(9)]
    elif kind == "every category once":
        rows = [(f"s{n}", f"p{n}", n) for n in range(5)]
    elif kind == "one row has negatives":
        rows = [("s", f"p{n}", 0) for n in range(5)] + [("t", "p0", 0)]
    named: dict[str, set[str]] = {}
    for scene, product, _ in rows:
        named.setdefault(scene, set()).add(product)
    if kind == "scenes that name products of other rows":
        for n, (scene, _, _) in enumerate(rows):
            named[scene].add(f"p{(n + 3) % 12}")
    return rows, named


KINDS = (
    "mixed",
    "all rows the same scene",
    "the same product in every row",
    "duplicates of a product",
    "every category once",
    "one row has negatives",
    "scenes that name products of other rows",
)


def masks(rows: Batch, named: dict[str, set[str]]) -> Tensor:
    numbers = {product: n for n, product in enumerate(sorted({p for found in named.values() for p in found}))}
    width = max(map(len, named.values()))
    table = [sorted(numbers[p] for p in named[scene]) for scene, _, _ in rows]
    padded = torch.tensor([found + [-1] * (width - len(found)) for found in table])
    category = torch.tensor([c for _, _, c in rows])
    return in_batch_negatives(category, padded, category, torch.tensor([numbers[p] for _, p, _ in rows]))


class Given(torch.nn.Module):
    """A temperature that is an input, for its gradients."""

    def __init__(self, tau: Tensor) -> None:
        super().__init__()
        self._tau = tau

    def forward(self) -> Tensor:
        return self._tau


def info_nce(tau: Tensor) -> InfoNCELoss:
    loss = InfoNCELoss(0.1, False, 0.5)
    loss.temperature = Given(tau)  # type: ignore[assignment]
    return loss


def fast_loss(variant: str, distance: Tensor, negatives: Tensor, tau: Tensor) -> Tensor:
    mining: Any = variant
    loss = info_nce(tau) if variant == "info_nce" else InBatchHingeLoss(MARGIN, mining)
    value: Tensor = loss(distance, torch.arange(len(distance)), negatives)
    return value


def unit(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 4, dtype=torch.double, generator=generator), dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradients_are_those_of_the_slow_loop(variant: str, kind: str, seed: int) -> None:
    rows, named = batch_of(kind)
    found = []
    for loss in ("slow", "fast"):
        queries, products = unit(len(rows), seed).requires_grad_(), unit(len(rows), seed + 9).requires_grad_()
        tau = torch.tensor(TAU, dtype=torch.double, requires_grad=True)
        distance = 2 - 2 * queries @ products.T
        value = (
            slow_loss(variant, distance, rows, named, tau)
            if loss == "slow"
            else fast_loss(variant, distance, masks(rows, named), tau)
        )
        value.backward()  # type: ignore[no-untyped-call]
        tau_gradient = tau.grad if tau.grad is not None else torch.zeros_like(tau)
        found.append((value.detach(), queries.grad, products.grad, tau_gradient))
    for slow, fast in zip(*found, strict=True):
        assert torch.isfinite(fast).all()
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    if kind in ("all rows the same scene", "the same product in every row", "every category once"):
        assert not any(tensor is None or tensor.any() for tensor in found[1])
    if kind in ("mixed", "duplicates of a product"):
        assert float(found[1][0]) > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_finite_differences(variant: str) -> None:
    rows, named = batch_of("mixed")
    negatives = masks(rows, named)
    distance = (2 - 2 * unit(len(rows), 5) @ unit(len(rows), 6).T).requires_grad_()
    tau = torch.tensor(TAU, dtype=torch.double, requires_grad=variant == "info_nce")
    assert torch.autograd.gradcheck(lambda d, t: fast_loss(variant, d, negatives, t), (distance, tau))


def test_each_mining_by_hand() -> None:
    # The positive at 0.5; negatives at 0.4, 0.6 and 1.0; one that is masked at 0.1.
    distance = torch.tensor([[0.5, 0.4, 0.6, 1.0, 0.1]])
    positive, negatives = torch.tensor([0]), torch.tensor([[False, True, True, True, False]])
    expected: dict[Mining, float] = {"all": (0.3 + 0.1 + 0) / 3, "semi_hard": 0.1, "hardest": 0.3}
    for mining, value in expected.items():
        assert float(InBatchHingeLoss(0.2, mining)(distance, positive, negatives)) == pytest.approx(value)
    # All negatives nearer than the positive: the farthest of them.
    near = torch.tensor([[0.5, 0.4, 0.3, 0.2, 0.1]])
    assert float(InBatchHingeLoss(0.2, "semi_hard")(near, positive, negatives)) == pytest.approx(0.3)


def test_info_nce_in_closed_form() -> None:
    # All distances equal: the positive is one of n + 1.
    distance = torch.full((4, 4), 0.7)
    negatives = ~torch.eye(4, dtype=torch.bool)
    loss = info_nce(torch.tensor(0.05))(distance, torch.arange(4), negatives)
    assert float(loss) == pytest.approx(math.log(4), abs=1e-6)


def test_a_learned_temperature_starts_where_it_is_told_and_has_a_floor() -> None:
    learned, fixed = Temperature(0.1, True), Temperature(0.1, False)
    assert float(learned().detach()) == float(fixed()) == pytest.approx(0.1)
    learned().backward()
    assert float(learned.logarithm.grad or 0) == pytest.approx(0.1)  # of exp(l) at l = log 0.1
    assert not fixed.logarithm.requires_grad
    with torch.no_grad():
        learned.logarithm.fill_(-20)
    learned.zero_grad()
    value = learned()
    value.backward()
    assert float(value.detach()) == pytest.approx(LOWEST_TEMPERATURE)
    assert learned.logarithm.grad is not None
    assert float(learned.logarithm.grad) > 0  # it can come back
    assert float(Temperature(0.005, False)()) == pytest.approx(0.005)
    with pytest.raises(ValueError, match=r"must start at 0\.01 at least"):
        Temperature(0.005, True)
