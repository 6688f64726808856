"""How much faster a frozen backbone's training is on features that were computed once, and how near a step is to its matrix products."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctl_lightning.benchmarks.step import MakeTrainer, Step, again, fit_rate
from ctl_lightning.benchmarks.timing import Row, in_turn, rate_of, ratio
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.triplets import Triplet
from ctl_lightning.training.feature_cache import cache_features
from ctl_lightning.training.module import CompleteTheLook

CACHED, UNCACHED = "an epoch on cached features, without validation", "an epoch on pictures, without validation"
CACHED_STEP, COMPUTED = "step on cached features, without loader", "computing features, which is done once"
PRODUCTS = "matrix products of that step alone"


def cached_rows(
    pictures: TripletDataModule,
    features: TripletDataModule,
    module: CompleteTheLook,
    make_trainer: MakeTrainer,
    seconds: float,
    rounds: int,
) -> list[Row]:
    """Seconds of an epoch, from the rate of its steps, on pictures and on features; a step beside its products; the features' cost.

    Args:
        pictures: set up; gives pictures.
        features: set up with the same data and options; is made to give features, which are computed if its cache has none.
        module: with a frozen backbone; its heads move.
        make_trainer: makes the run's trainer, with options changed.
        seconds: length of each measurement, in seconds.
        rounds: number of times that each is measured.
    """
    trainer = make_trainer()
    device = trainer.strategy.root_device
    cache_features(module.to(device), features, device)
    loader = features.train_dataloader()
    batch = trainer.strategy.batch_to_device(next(iter(loader)), device)
    step = Step(module.train(), trainer.precision_plugin.forward_context)
    products = Products(step, batch)

    def epoch(data: TripletDataModule) -> Callable[[], float]:
        return lambda: 3 * len(loader) * data.batch_size / fit_rate(data, module, make_trainer, seconds).images

    def compute() -> Iterator[int]:
        _, products = pictures.test_dataloader()
        for images in chain.from_iterable(repeat(products)):
            with torch.inference_mode():
                module.network.backbone(images.image.to(device))
            yield len(images.image)

    found = in_turn(
        {
            UNCACHED: epoch(pictures),
            CACHED: epoch(features),
            CACHED_STEP: lambda: 1000 / rate_of(lambda: again(lambda: step(batch), 1), seconds),
            PRODUCTS: lambda: 1000 / rate_of(lambda: again(products, 1), seconds),
            COMPUTED: partial(rate_of, compute, seconds),
        },
        rounds,
    )
    unit = {UNCACHED: "s", CACHED: "s", CACHED_STEP: "ms", PRODUCTS: "ms", COMPUTED: "images/s"}
    return [Row("cache", name, values, unit[name]) for name, values in found.items()]


def cached_ratios(rows: list[Row]) -> dict[str, float]:
    """How many times faster an epoch is on cached features; how many times as long as its products a step takes, where 1 is the best."""
    return {
        "uncached_over_cached_epoch": ratio(rows, UNCACHED, CACHED, "cache"),
        "cached_step_over_products": ratio(rows, CACHED_STEP, PRODUCTS, "cache"),
    }


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The matrix products of the layers in a training step, forward and backward, to be computed again without the rest.

    The attention's sums over regions, which torch computes as batches of matrix-vector products, are part of the rest.

    Attributes:
        calls: operation and operands of each product, in the order of the step.
    """

    def __init__(self, step: Step, batch: Triplet) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any]] = []
        # A compiled network's operations are not seen.
        with torch.compiler.set_stance("force_eager"), self:
            step(batch)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes the operation if it is a product; runs it."""
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))

    @torch.no_grad()
    def __call__(self) -> None:
        """Computes the products."""
        for function, operands in self.calls:
            function(*operands)
