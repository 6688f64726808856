"""Losses: of triplets with one sampled negative each, and of a batch whose products are each other's negatives.

B queries (a scene crop and a category each), M products.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Mining = Literal["all", "semi_hard", "hardest"]

LOWEST_TEMPERATURE = 0.01
"""Of a learned temperature, as in CLIP (Radford et al. 2021, section 2.5)."""


def hinge_loss(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean over the batch of [α + d(s, p⁺) - d(s, p⁻)]₊ (Kang et al. 2019, equation 7).

    Args:
        positive: d(s, p⁺), (B,).
        negative: d(s, p⁻), (B,).
        margin: α.

    Returns:
        A scalar. The mean, not the paper's sum, so that the learning rate does not depend on the batch size.
    """
    return (margin + positive - negative).relu().mean()


def contrastive_loss(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean over the batch of d⁺² + [m - d⁻]₊² (Hadsell et al. 2006, equation 4, with which Veit et al. 2015 train).

    Args:
        positive: squared Euclidean distances d(s, p⁺)², (B,).
        negative: squared Euclidean distances d(s, p⁻)², (B,).
        margin: m, of the distance that is not squared.

    Returns:
        A scalar. Their factor ½ is left out: Adam does not see it.
    """
    root = negative.clamp_min(1e-12).sqrt()  # the root has no gradient at 0
    return (positive + (margin - root).relu().square()).mean()


def logistic_loss(positive: Tensor, negative: Tensor, shift: Tensor) -> Tensor:
    """Mean over the batch of -log σ(c - d⁺) - log(1 - σ(c - d⁻)): one negative a positive (McAuley et al. 2015, section 3).

    Args:
        positive: d(s, p⁺), (B,).
        negative: d(s, p⁻), (B,).
        shift: c, a learned scalar: the distance at which both answers are equally likely.

    Returns:
        A scalar. Their likelihood has a sum in place of the mean.
    """
    return (F.softplus(positive - shift) + F.softplus(shift - negative)).mean()


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean over the batch of -log σ(d(s, p⁻) - d(s, p⁺)) (Rendle et al. 2009; in Song et al. 2017 with d = minus the compatibility).

    Args:
        positive: d(s, p⁺), (B,).
        negative: d(s, p⁻), (B,).

    Returns:
        A scalar. Theirs is a sum; their regulariser is `model.weight_decay`.
    """
    return F.softplus(positive - negative).mean()


def in_batch_negatives(query_category: Tensor, named: Tensor, category: Tensor, identity: Tensor) -> Tensor:
    """Which products are negatives of which queries: those of the query's category that no pair of its scene names.

    Args:
        query_category: (B,).
        named: numbers of the products that each query's scene names, (B, N), filled up with -1.
        category: of the products, (M,).
        identity: numbers of the products, (M,).

    Returns:
        bool, (B, M). The query's own product is none: its scene names it.
    """
    is_named = (named[:, :, None] == identity).any(1)
    return (query_category[:, None] == category) & ~is_named


def in_batch_triplet_loss(
    distance: Tensor, positive: Tensor, negatives: Tensor, margin: float, mining: Mining
) -> Tensor:
    """The hinge loss with the batch's negatives: mean over the queries that have any.

    Args:
        distance: of all queries and products, (B, M).
        positive: column of each query's own product, (B,).
        negatives: see `in_batch_negatives`, (B, M).
        margin: α.
        mining: which negatives count. "all": the mean over all of them (Hermans et al. 2017, batch all, zeros included); "hardest":
            the nearest (the same, batch hard); "semi_hard": the nearest of those that are farther than the positive (Schroff et al.
            2015, section 3.2), or, if there are none, the farthest.

    Returns:
        A scalar; 0 if no query has a negative.
    """
    near = distance.gather(1, positive[:, None])
    if mining == "all":
        hinge = (margin + near - distance).relu() * negatives
        loss = hinge.sum(1) / negatives.sum(1).clamp_min(1)
    else:
        # Infinite where there is nothing to choose, for the choice alone: an infinite distance has no gradient.
        values = distance.detach()
        if mining == "hardest":
            chosen = values.masked_fill(~negatives, torch.inf).argmin(1)
        else:
            farther = negatives & (values > near.detach())
            nearest = values.masked_fill(~farther, torch.inf).argmin(1)
            farthest = values.masked_fill(~negatives, -torch.inf).argmax(1)
            chosen = torch.where(farther.any(1), nearest, farthest)
        loss = (margin + near - distance.gather(1, chosen[:, None])).squeeze(1).relu()
    return _mean_of(loss, negatives.any(1))


def info_nce_loss(distance: Tensor, positive: Tensor, negatives: Tensor, temperature: Tensor) -> Tensor:
    """-log softmax of -d / τ at the positive, among it and the negatives (van den Oord et al. 2018, equation 4).

    Args:
        distance: of all queries and products, (B, M).
        positive: column of each query's own product, (B,).
        negatives: see `in_batch_negatives`, (B, M).
        temperature: τ, a scalar.

    Returns:
        A scalar, the mean over the queries that have negatives; 0 if there are none.
    """
    candidates = negatives.scatter(1, positive[:, None], True)
    logits = (-distance / temperature).masked_fill(~candidates, -torch.inf)
    return _mean_of(F.cross_entropy(logits, positive, reduction="none"), negatives.any(1))


def _mean_of(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp_min(1)


class Temperature(nn.Module):
    """τ of InfoNCE: fixed, or learned by its logarithm and not below LOWEST_TEMPERATURE.

    Raises:
        ValueError: a learned one that starts below that.
    """

    def __init__(self, initial: float, learned: bool) -> None:
        super().__init__()
        if learned and initial < LOWEST_TEMPERATURE:
            raise ValueError(f"a learned temperature must start at {LOWEST_TEMPERATURE} at least, not at {initial}")
        self.logarithm = nn.Parameter(torch.tensor(math.log(initial)), requires_grad=learned)

    def forward(self) -> Tensor:
        """A scalar."""
        if self.logarithm.requires_grad:
            with torch.no_grad():  # the parameter, not the result: a clamped result has no gradient that leads back
                self.logarithm.clamp_(min=math.log(LOWEST_TEMPERATURE))
        return self.logarithm.exp()
