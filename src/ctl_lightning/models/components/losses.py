"""The losses: for triplets with one sampled negative each, and for batches whose products are each other's negatives.

A new loss: its class here, a line in `models/registry.py`, conf/loss/NAME.yaml, and its name in the `losses` of each method
that it can train.

Shapes: B queries (a scene crop and a category each), M products.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctl_lightning.models.components.network import require_positive
from ctl_lightning.models.components.temperature import Temperature

Mining = Literal["all", "semi_hard", "hardest"]


class Loss(nn.Module, ABC):
    """A loss, with its learned parameters if it has any. Its constructor's arguments are its options in conf/loss.

    Attributes:
        in_batch: whether it takes pairs whose products are each other's negatives, instead of triplets.
        hinge: margin α of a loss that is 0 for a triplet with d(s, p⁻) ≥ d(s, p⁺) + α; None for other losses.
    """

    in_batch: ClassVar[bool]
    hinge: float | None = None

    def logged(self) -> dict[str, Tensor]:
        """Learned values that are worth watching: name -> scalar."""
        return {}


class TripletLoss(Loss):
    """A loss that takes triplets."""

    in_batch = False

    @abstractmethod
    def forward(self, positive: Tensor, negative: Tensor, penalty: Tensor | float = 0.0) -> Tensor:
        """Mean loss over a batch, a scalar.

        Args:
            positive: distances d(s, p⁺), (B,).
            negative: distances d(s, p⁻), (B,).
            penalty: penalty that the network adds, a scalar; most losses ignore it.
        """


class HingeLoss(TripletLoss):
    """[α + d(s, p⁺) - d(s, p⁻)]₊ (Kang et al. 2019, equation 7).

    It is the mean over the batch, not the paper's sum, so that the learning rate does not depend on the batch size.

    Args:
        margin: margin α.
    """

    def __init__(self, margin: float) -> None:
        require_positive(margin=margin)
        super().__init__()
        self.hinge = margin

    def forward(self, positive: Tensor, negative: Tensor, penalty: Tensor | float = 0.0) -> Tensor:
        """See `TripletLoss.forward`."""
        assert self.hinge is not None
        return (self.hinge + positive - negative).relu().mean()


class ContrastiveLoss(TripletLoss):
    """d⁺² + [m - d⁻]₊² (Hadsell et al. 2006, equation 4; used by Veit et al. 2015), of squared Euclidean distances.

    Their factor ½ is left out: it makes no difference to Adam.

    Args:
        margin: margin m of the distance before it is squared.
    """

    def __init__(self, margin: float) -> None:
        require_positive(margin=margin)
        super().__init__()
        self._margin = margin

    def forward(self, positive: Tensor, negative: Tensor, penalty: Tensor | float = 0.0) -> Tensor:
        """See `TripletLoss.forward`."""
        root = negative.clamp_min(1e-12).sqrt()  # the root has no gradient at 0
        return (positive + (self._margin - root).relu().square()).mean()


class LogisticLoss(TripletLoss):
    """-log σ(c - d⁺) - log(1 - σ(c - d⁻)): one negative per positive (McAuley et al. 2015, section 3).

    Their likelihood is a sum; this is a mean.

    Args:
        shift: initial value of c, which is learned: the distance at which both answers are equally likely.
    """

    def __init__(self, shift: float) -> None:
        require_positive(shift=shift)
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, positive: Tensor, negative: Tensor, penalty: Tensor | float = 0.0) -> Tensor:
        """See `TripletLoss.forward`."""
        return (F.softplus(positive - self.shift) + F.softplus(self.shift - negative)).mean()


class BPRLoss(TripletLoss):
    """-log σ(d(s, p⁻) - d(s, p⁺)) (Rendle et al. 2009; Song et al. 2017 use it with d = minus the compatibility).

    Their loss is a sum, this is a mean; their regulariser is `model.weight_decay` here.

    Args:
        reconstruction: weight γ of an auto-encoder's reconstruction error.
    """

    def __init__(self, reconstruction: float) -> None:
        require_positive(reconstruction=reconstruction)
        super().__init__()
        self._reconstruction = reconstruction

    def forward(self, positive: Tensor, negative: Tensor, penalty: Tensor | float = 0.0) -> Tensor:
        """See `TripletLoss.forward`."""
        return F.softplus(positive - negative).mean() + self._reconstruction * penalty


def in_batch_negatives(query_category: Tensor, named: Tensor, category: Tensor, identity: Tensor) -> Tensor:
    """Which products are negatives of each query: those of the query's category that no pair of its scene names.

    Args:
        query_category: category index of each query, (B,).
        named: numbers of the products that each query's scene names, (B, N), padded with -1.
        category: category index of each product, (M,).
        identity: number of each product, (M,).

    Returns:
        bool, (B, M): True for negatives. The query's own product is not one, since its scene names it.
    """
    is_named = (named[:, :, None] == identity).any(1)
    return (query_category[:, None] == category) & ~is_named


class InBatchLoss(Loss):
    """A loss that takes queries; the products of other queries are their negatives.

    Attributes:
        box_weight: weight of the box loss, if batches have boxes: of scenes against boxes, and of boxes against products.
    """

    in_batch = True
    box_weight: float = 0.0

    @abstractmethod
    def forward(self, distance: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Mean loss over the queries that have negatives, a scalar; 0 if no query has any.

        Args:
            distance: distance of every query to every product, (B, M).
            positive: column of each query's own product, (B,).
            negatives: which products are negatives of each query, bool, (B, M); see `in_batch_negatives`.
        """


class InBatchHingeLoss(InBatchLoss):
    """The hinge loss with the negatives of the batch.

    Args:
        margin: margin α.
        mining: which negatives count. "all": the mean over all of them (Hermans et al. 2017, batch all, zeros
            included); "hardest": the nearest (the same paper, batch hard); "semi_hard": the nearest of those that are
            farther than the positive (Schroff et al. 2015, section 3.2), or, if there are none, the farthest.
    """

    def __init__(self, margin: float, mining: Mining) -> None:
        require_positive(margin=margin)
        super().__init__()
        self.hinge = margin
        self._mining = mining

    def forward(self, distance: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """See `InBatchLoss.forward`."""
        assert self.hinge is not None
        near = distance.gather(1, positive[:, None])
        if self._mining == "all":
            hinge = (self.hinge + near - distance).relu() * negatives
            loss = hinge.sum(1) / negatives.sum(1).clamp_min(1)
        else:
            chosen = self._chosen(distance.detach(), near.detach(), negatives)
            loss = (self.hinge + near - distance.gather(1, chosen[:, None])).squeeze(1).relu()
        return _mean_of(loss, negatives.any(1))

    def _chosen(self, distance: Tensor, near: Tensor, negatives: Tensor) -> Tensor:
        """Column of the negative that counts for each query, (B,)."""
        # Infinity marks what may not be chosen, and serves the choice alone: an infinite distance has no gradient.
        if self._mining == "hardest":
            return distance.masked_fill(~negatives, torch.inf).argmin(1)
        farther = negatives & (distance > near)
        nearest = distance.masked_fill(~farther, torch.inf).argmin(1)
        farthest = distance.masked_fill(~negatives, -torch.inf).argmax(1)
        return torch.where(farther.any(1), nearest, farthest)


class InfoNCELoss(InBatchLoss):
    """-log softmax of -d / τ at the positive, among it and the negatives (van den Oord et al. 2018, equation 4).

    Args:
        temperature: temperature τ, or its initial value if it is learned.
        learn_temperature: whether the temperature is learned.
        box_weight: see `InBatchLoss`.
    """

    def __init__(self, temperature: float, learn_temperature: bool, box_weight: float) -> None:
        require_positive(temperature=temperature)
        if box_weight < 0:
            raise ValueError(f"box_weight must not be negative, not {box_weight}")
        super().__init__()
        self.box_weight = box_weight
        self.temperature = Temperature(temperature, learn_temperature)

    def forward(self, distance: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """See `InBatchLoss.forward`."""
        candidates = negatives.scatter(1, positive[:, None], True)
        logits = (-distance / self.temperature()).masked_fill(~candidates, -torch.inf)
        return _mean_of(F.cross_entropy(logits, positive, reduction="none"), negatives.any(1))

    def logged(self) -> dict[str, Tensor]:
        """The temperature."""
        return {"temperature": self.temperature().detach()}


def _mean_of(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp_min(1)
