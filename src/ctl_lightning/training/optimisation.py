"""Adam with weight decay, and a learning rate that grows in a warm-up and then stays or falls."""

import math
from collections.abc import Mapping
from typing import Any

from torch.nn import Module
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR


def adam_with_schedule(
    network: Module, loss: Module, options: Mapping[str, Any], steps: float, fused: bool
) -> tuple[Adam, LambdaLR]:
    """Adam on all that is learned, and the factor on its learning rate, to be applied step by step.

    Args:
        network: its parameters that require gradients are learned; scalars, such as a temperature, without weight decay.
        loss: its parameters are learned without weight decay.
        options: `learning_rate`, `weight_decay`, `warmup_steps` and `schedule`; see `CompleteTheLook`.
        steps: number of steps of the whole training; infinite if it has no end.
        fused: whether one kernel updates all weights.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    learned: list[Any] = [parameter for parameter in trained if parameter.ndim]
    scalars = [parameter for parameter in trained if not parameter.ndim]
    if undecayed := scalars + list(loss.parameters()):
        learned = [{"params": learned}, {"params": undecayed, "weight_decay": 0.0}]
    optimiser = Adam(learned, options["learning_rate"], weight_decay=options["weight_decay"], fused=fused)
    warmup = options["warmup_steps"]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if options["schedule"] == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return optimiser, LambdaLR(optimiser, factor)
