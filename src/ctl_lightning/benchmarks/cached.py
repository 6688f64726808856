"""How much faster a frozen backbone's training is on features that were computed once."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat

import torch

from ctl_lightning.benchmarks.step import MakeTrainer, Step, again, fit_rate
from ctl_lightning.benchmarks.timing import Row, in_turn, rate_of, ratio
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.training.feature_cache import cache_features
from ctl_lightning.training.module import CompleteTheLook

CACHED, UNCACHED = "an epoch on cached features, without validation", "an epoch on pictures, without validation"
CACHED_STEP, COMPUTED = "step on cached features, without loader", "computing features, which is done once"


def cached_rows(
    pictures: TripletDataModule,
    features: TripletDataModule,
    module: CompleteTheLook,
    make_trainer: MakeTrainer,
    seconds: float,
    rounds: int,
) -> list[Row]:
    """Seconds that an epoch takes, from the rate of its steps, on pictures and on features; and what making the features costs.

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
            COMPUTED: partial(rate_of, compute, seconds),
        },
        rounds,
    )
    unit = {UNCACHED: "s", CACHED: "s", CACHED_STEP: "ms", COMPUTED: "images/s"}
    return [Row("cache", name, values, unit[name]) for name, values in found.items()]


def cached_ratios(rows: list[Row]) -> dict[str, float]:
    """How many times faster an epoch is on cached features."""
    return {"uncached_over_cached_epoch": ratio(rows, UNCACHED, CACHED, "cache")}
