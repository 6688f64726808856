"""How a training goes, beside the loss: mean distances, and how many triplets still teach something."""

import torch
from torch import Tensor


def observations(positive: Tensor, negative: Tensor, counted: Tensor, margin: float | None) -> dict[str, Tensor]:
    """Means over the triplets of a batch.

    Args:
        positive: distances d(s, p⁺), broadcastable to `negative`.
        negative: distances d(s, p⁻), (B,) of triplets or (B, M) for a batch whose products are each other's negatives.
        counted: which entries of `negative` belong to negatives, bool, the same shape.
        margin: margin α of the loss; None if it has none.

    Returns:
        Scalars: "distance_positive" and "distance_negative", the mean distances; "order_violations", the share of
            negatives
        that are nearer than the positive; and, with a margin, "active_triplets", the share with d(s, p⁻) < d(s, p⁺) +
        α, which alone have a gradient (Kang et al. 2019, section 3.3).
    """
    near = positive.expand_as(negative)
    total = counted.sum().clamp_min(1)
    found = {
        "distance_positive": near[counted].sum() / total,
        "distance_negative": negative[counted].sum() / total,
        "order_violations": (counted & (negative < near)).sum() / total,
    }
    if margin is not None:
        found["active_triplets"] = (counted & (negative < near + margin)).sum() / total
    return {name: value.to(torch.float32) for name, value in found.items()}
