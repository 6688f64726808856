"""The triplet hinge loss (Kang et al. 2019, equation 7)."""

from torch import Tensor


def hinge_loss(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean over the batch of [α + d(s, p⁺) - d(s, p⁻)]₊.

    Args:
        positive: d(s, p⁺), (B,).
        negative: d(s, p⁻), (B,).
        margin: α.

    Returns:
        A scalar. The mean, not the paper's sum, so that the learning rate does not depend on the batch size.
    """
    return (margin + positive - negative).relu().mean()
