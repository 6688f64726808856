"""How much faster a frozen backbone's training is on features that were computed once."""

from collections.abc import Callable

from ctl_lightning.benchmarks.rows import Row, in_turn, rates, row_of
from ctl_lightning.benchmarks.step import MakeTrainer, Step, again, fit_rate
from ctl_lightning.caching import cache_features
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.module import CompleteTheLook

CACHED, UNCACHED, CACHED_STEP = (
    "an epoch on cached features",
    "an epoch on pictures",
    "step on cached features, without loader",
)


def cached_rows(
    pictures: TripletDataModule,
    features: TripletDataModule,
    module: CompleteTheLook,
    make_trainer: MakeTrainer,
    seconds: float,
    rounds: int,
) -> list[Row]:
    """Seconds an epoch of training takes, without validation, on pictures and on features.

    Args:
        pictures: set up; gives pictures.
        features: set up with the same data; is made to give features, which are computed if its cache has none.
        module: with a frozen backbone; its heads move.
        make_trainer: makes the run's trainer, with options changed.
        seconds: of every measurement.
        rounds: how often each is repeated.
    """
    trainer = make_trainer()
    device = trainer.strategy.root_device
    cache_features(module.to(device), features, device)
    loader = features.train_dataloader()
    images = 3 * len(loader) * features.batch_size

    def epoch(data: TripletDataModule) -> Callable[[], float]:
        return lambda: images / fit_rate(data, module, make_trainer, seconds).images

    found = in_turn({UNCACHED: epoch(pictures), CACHED: epoch(features)}, rounds)
    rows = [row_of("cache", name, values, "s") for name, values in found.items()]
    step = Step(module.to(device).train(), trainer.precision_plugin.forward_context)
    batch = trainer.strategy.batch_to_device(next(iter(loader)), device)
    steps = rates({CACHED_STEP: lambda: again(lambda: step(batch), 1)}, seconds, rounds)[CACHED_STEP]
    return [*rows, row_of("cache", CACHED_STEP, [1000 / rate for rate in steps], "ms")]


def cached_ratios(rows: list[Row]) -> dict[str, float]:
    """How many times faster an epoch is on cached features."""
    value = {row.name: row.value for row in rows}
    return {"uncached_over_cached_epoch": value[UNCACHED] / value[CACHED]}
