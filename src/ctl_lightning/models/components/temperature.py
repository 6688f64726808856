"""A temperature of a softmax, fixed or learned: that of InfoNCE, or of the attention."""

import math

import torch
from torch import Tensor, nn

LOWEST_TEMPERATURE = 0.01
"""Lower limit of a learned temperature, as in CLIP (Radford et al. 2021, section 2.5)."""


class Temperature(nn.Module):
    """Temperature τ: fixed, or learned as its logarithm and never below LOWEST_TEMPERATURE.

    Args:
        initial: temperature, or its initial value if it is learned; above 0.
        learned: whether it is learned.

    Raises:
        ValueError: a learned temperature that starts below LOWEST_TEMPERATURE.
    """

    def __init__(self, initial: float, learned: bool) -> None:
        super().__init__()
        if learned and initial < LOWEST_TEMPERATURE:
            raise ValueError(f"a learned temperature must start at {LOWEST_TEMPERATURE} at least, not at {initial}")
        self.logarithm = nn.Parameter(torch.tensor(math.log(initial)), requires_grad=learned)

    def forward(self) -> Tensor:
        """The temperature, a scalar."""
        if not self.logarithm.requires_grad:
            return self.logarithm.exp()
        lowest = math.log(LOWEST_TEMPERATURE)
        if not self.training:  # an exported network changes no parameter
            return self.logarithm.clamp(min=lowest).exp()
        # The parameter is clamped, not the result: a clamped result has no gradient that leads back.
        with torch.no_grad():
            self.logarithm.clamp_(min=lowest)
        return self.logarithm.exp()
