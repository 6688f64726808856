"""What is logged of a batch's distances, against a loop."""

import pytest
import torch

from ctl_lightning.models.components.triplet_statistics import observations


@pytest.mark.parametrize("margin", [0.2, None])
@pytest.mark.parametrize("shape", [(6,), (6, 5)])
def test_observations_are_those_of_a_slow_loop(shape: tuple[int, ...], margin: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    negative = torch.rand(shape, generator=generator, dtype=torch.float64)
    positive = torch.rand(6, generator=generator, dtype=torch.float64)
    counted = torch.rand(shape, generator=generator) < 0.7
    near, far, wrong, active = [], [], [], []
    for row in range(6):
        for column in range(negative[row].numel()):
            if counted[row].reshape(-1)[column]:
                value = float(negative[row].reshape(-1)[column])
                near.append(float(positive[row]))
                far.append(value)
                wrong.append(value < positive[row])
                active.append(max(0.0, (margin or 0) + float(positive[row]) - value) > 0)
    rows = positive if len(shape) == 1 else positive[:, None]
    found = observations(rows, negative, counted, margin)
    count = len(near)
    expected = {
        "distance_positive": sum(near) / count,
        "distance_negative": sum(far) / count,
        "order_violations": sum(wrong) / count,
    } | ({"active_triplets": sum(active) / count} if margin is not None else {})
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, abs=1e-6
    )


def test_a_batch_without_negatives_says_nothing() -> None:
    found = observations(torch.ones(2, 1), torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool), 0.2)
    assert all(float(value) == 0 for value in found.values())
