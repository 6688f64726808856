"""How near a training step comes to what its backbone alone takes, and the whole training to its step."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch.optim import Adam
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from ctl_lightning.benchmarks.loader import UsualTriplets
from ctl_lightning.benchmarks.naive import NaiveStep
from ctl_lightning.benchmarks.timing import Row, clock, in_turn, rate_of, ratio
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.triplets import Triplet, TripletDataset
from ctl_lightning.models.components.style_network import StyleNetwork
from ctl_lightning.training.module import CompleteTheLook

FORWARD, BACKBONE = "backbone alone, forward", "backbone alone, as in training"
STEP, END_TO_END = "full step, without loader", "end to end: store, step, Lightning, logger"
NAIVE = "naive: eight passes, PIL, region loop"
MATRIX = "matrix products alone"
LOGGING = "every log_every_n_steps, share of end to end"

MakeTrainer = Callable[..., Trainer]


def step_rows(
    data: TripletDataModule, module: CompleteTheLook, make_trainer: MakeTrainer, seconds: float, rounds: int
) -> list[Row]:
    """Images a second of the parts of training, of all of it, and of the naive way; memory, operations, cost of logging.

    Args:
        data: set up; its batches are of triplets of pictures.
        module: with a style network; its weights move.
        make_trainer: makes the run's trainer, with options changed.
        seconds: length of each measurement, in seconds.
        rounds: number of times that each is measured.
    """
    assert isinstance(module.network, StyleNetwork)
    trainer = make_trainer()
    device, precision = trainer.strategy.root_device, trainer.precision_plugin.forward_context
    step = Step(module.to(device).train(), precision)
    batch = trainer.strategy.batch_to_device(next(iter(data.train_dataloader())), device)
    images = 3 * len(batch.category)
    backbone = module.network.backbone
    pixels = backbone.pixels(torch.cat([batch.scene, batch.positive, batch.negative]))

    def forward() -> None:
        with torch.no_grad(), precision():
            backbone.network(pixels)

    def passes() -> None:
        if backbone.frozen:
            return forward()
        for parameter in backbone.parameters():
            parameter.grad = None
        with precision():
            maps = backbone.network(pixels)
        (maps["pooled"].sum() + maps["regions"].sum()).backward()
        return None

    memory = _peak_memory(lambda: step(batch), device)
    operations = _operations(module.network, batch)
    naive = NaiveStep(module, module.hparams["loss"]["margin"], device, precision)
    parts = {} if backbone.frozen else {FORWARD: forward}
    parts |= {BACKBONE: passes, STEP: lambda: step(batch)}
    work: dict[str, Callable[[], Iterator[int]]] = {
        name: lambda part=part: again(part, images)  # type: ignore[misc]
        for name, part in parts.items()
    }
    work[NAIVE] = lambda: _naive_steps(data, naive)
    measure = {name: partial(rate_of, start, seconds) for name, start in work.items()}
    fit = partial(fit_rate, data, module, make_trainer, seconds)
    found = in_turn({**measure, END_TO_END: lambda: fit().images}, rounds)
    # Logged in every step: what is logged in one of many is then that much less.
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    logged = fit(log_every_n_steps=1).logging if every else 0.0
    logging = [100 * logged / every * rate / images for rate in found[END_TO_END]]
    rows = [Row("step", name, values, "images/s") for name, values in found.items()]
    matrix = [_matrix_rate(device, precision, seconds) for _ in range(rounds)]
    rows.append(Row("operations", MATRIX, matrix, "TFLOP/s"))
    rows.append(Row("operations", STEP, [rate * operations / images / 1e12 for rate in found[STEP]], "TFLOP/s"))
    rows.append(Row("logging", LOGGING, logging, "%"))
    if memory is not None:
        rows.append(Row("memory", f"of a step of {images} images, at its peak", [memory], "MB"))
    return rows


def _naive_steps(data: TripletDataModule, naive: NaiveStep) -> Iterator[int]:
    """Trains the naive way for ever; yields the images of each step."""
    loader = data.train_dataloader()
    assert isinstance(loader.dataset, TripletDataset)
    usual = DataLoader(
        UsualTriplets(data, loader.dataset), data.batch_size, shuffle=True, drop_last=True, num_workers=data.num_workers
    )
    for epoch in repeat(usual):
        for triplets in epoch:
            naive(*triplets)
            yield 3 * data.batch_size


def step_ratios(rows: list[Row]) -> dict[str, float]:
    """Times over times for the step ratios, where 1 is the best; images/s over images/s for `naive`, where larger is better."""
    return {
        "step_over_backbone": ratio(rows, BACKBONE, STEP, "step"),
        "end_to_end_over_step": ratio(rows, STEP, END_TO_END, "step"),
        "naive_over_end_to_end": ratio(rows, END_TO_END, NAIVE, "step"),
        "step_over_matrix_rate": ratio(rows, STEP, MATRIX, "operations"),
    }


class Step:
    """A training step without Lightning: forward, loss, backward, optimiser."""

    def __init__(self, module: CompleteTheLook, precision: Callable[[], AbstractContextManager[Any]]) -> None:
        self._module, self._precision = module, precision
        learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._optimiser = Adam(learned, module.hparams["learning_rate"], fused=True)

    def __call__(self, batch: Triplet) -> None:
        """Nothing is read from the device."""
        self._optimiser.zero_grad()
        with self._precision():
            loss = self._module.triplet_loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()


class Fit(NamedTuple):
    """What `fit_rate` found: images a second, and the seconds a step that logging took."""

    images: float
    logging: float


class _Clock(Callback):
    """Counts pictures after the first steps, and stops the training after so many seconds."""

    def __init__(self, images: int, seconds: float, first: int) -> None:
        self._images, self._seconds, self.first = images, seconds, first
        self._before = first
        self.done, self.began, self.ended = 0, math.nan, math.nan

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._before:
            self._before -= 1
            self.began = clock()
            return
        self.done += self._images
        if time.perf_counter() - self.began >= self._seconds and not trainer.should_stop:
            self.ended = clock()
            trainer.should_stop = True


def fit_rate(
    data: TripletDataModule, module: CompleteTheLook, make_trainer: MakeTrainer, seconds: float, **options: Any
) -> Fit:
    """Images a second of Lightning's training with loader and logger, as `train` runs it but for bar, validation and checkpoints.

    Args:
        data: set up.
        module: its weights move.
        make_trainer: makes the run's trainer, with options changed.
        seconds: how long.
        options: other options of the trainer.
    """
    spent = _Spent()
    # What loader processes have fetched during the first, slow step does not count.
    watch = _Clock(3 * data.batch_size, seconds, first=1 + 2 * data.num_workers)
    with tempfile.TemporaryDirectory() as folder:
        logger = CSVLogger(folder, name="", version="")
        trainer = make_trainer(
            logger=logger,
            callbacks=[LearningRateMonitor("step"), watch],
            max_epochs=-1,
            max_steps=-1,
            accumulate_grad_batches=1,  # as in the step without Lightning
            gradient_clip_val=None,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            **options,
        )
        logger.log_metrics, logger.save = spent.on(logger.log_metrics), spent.on(logger.save)  # type: ignore[method-assign]
        module.log = spent.on(module.log)  # type: ignore[method-assign]
        try:
            trainer.fit(module, datamodule=data)
        finally:
            del module.log
            module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    steps = watch.done / (3 * data.batch_size)
    return Fit(watch.done / (watch.ended - watch.began), spent.seconds / (steps + watch.first))


class _Spent:
    """The seconds that were spent in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*given, **options)
            self.seconds += time.perf_counter() - began
            return result

        return timed


def again(work: Callable[[], object], amount: int) -> Iterator[int]:
    """Does the same work for ever; yields `amount` each time."""
    while True:
        work()
        yield amount


def _operations(network: StyleNetwork, batch: Triplet) -> int:
    """Floating-point operations of a training step in matrix products and convolutions, multiplication and addition being two.

    What learns counts three times: forward, and in the backward pass for its inputs and for its weights. torch's own count of a
    backward pass is not used: for grouped convolutions, as in MobileNet, it is too large by the number of groups (torch 2.15).
    """

    def count(work: Callable[[], object]) -> int:
        # A compiled network's operations are not seen.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    pictures = torch.cat([batch.scene, batch.positive, batch.negative])  # type: ignore[list-item]
    backbone = count(lambda: network.backbone(pictures))
    heads = count(lambda: network(batch.scene, (batch.positive, batch.negative), batch.category)) - backbone
    return backbone * (1 if network.backbone.frozen else 3) + heads * 3


def _matrix_rate(device: torch.device, precision: Callable[[], AbstractContextManager[Any]], seconds: float) -> float:
    """TFLOP/s of large square matrix products in the run's precision: what the device can do at best."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    with precision():
        half = (left @ right).dtype
        left, right = left.to(half), right.to(half)
        return rate_of(lambda: again(lambda: left @ right, 2 * size**3), seconds) / 1e12


def _peak_memory(work: Callable[[], object], device: torch.device) -> float | None:
    """MB by which a second run of `work` raises the memory, at its peak; None if it is not known: on a CPU, only Linux tells it.

    A process that keeps freed memory (`keep_memory`) shows less than it needs.
    """
    work()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if device.type != "cpu" or not reset.exists():
        return None

    def kilobytes(name: str) -> int:
        return int(status.read_text().partition(f"{name}:")[2].split()[0])

    before = kilobytes("VmRSS")
    reset.write_text("5")
    work()
    return (kilobytes("VmHWM") - before) / 1024
