"""What keeps a device busy: nothing is read from it in a step, half precision where it does no harm, one draw of colours on it."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import LOSSES, TINY, TRIPLET, Compose, MakeData, module, trainer
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ctl_lightning.data.transforms import jitter_colours
from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.memory import keep_freed_memory
from ctl_lightning.train import train
from ctl_lightning.training.callbacks import ProgressBar
from ctl_lightning.training.loggers import csv_logger

WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.repeat_interleave.Tensor,
}


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often the host would wait for a GPU: to read a number, or the size of what an operation found."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in WAITING
        return function(*args, **kwargs or {})


class InSteps(Callback):
    """Watches from the start of each training batch to the end of its callbacks."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self._mode = Reads()

    def on_train_batch_start(self, *_: Any) -> None:
        if not self.reads:
            self._mode.__enter__()  # type: ignore[no-untyped-call]
        self.reads.append(self._mode.count)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def test_the_watch_sees_what_is_read() -> None:
    with Reads() as watch:
        total = torch.ones(3).sum()
        assert watch.count == 0
        float(total), bool(total > 1), total.item()
        assert watch.count == 3
        total[total > 1]
    assert watch.count == 4


@pytest.mark.parametrize("bar", [False, True], ids=["without a bar", "with the bar"])
@pytest.mark.parametrize("loss", [TRIPLET, LOSSES["semi_hard"], LOSSES["info_nce"]], ids=lambda loss: loss["name"])
def test_nothing_is_read_in_a_step_but_when_it_is_logged(
    make_data: MakeData, tmp_path: Path, loss: Any, bar: bool
) -> None:
    data = make_data(negatives="uniform" if loss is TRIPLET else "in_batch")
    watch = InSteps()
    callbacks = [ProgressBar(), watch] if bar else [watch]
    runner = trainer(
        tmp_path,
        callbacks=callbacks,
        logger=csv_logger(tmp_path / "run", []),
        log_every_n_steps=6,
        limit_val_batches=0,
        enable_progress_bar=bar,
        gradient_clip_val=1.0,
    )
    runner.fit(module(loss=loss), datamodule=data)
    assert len(watch.reads) > 18
    reads = np.diff(watch.reads)
    quiet = [count for step, count in enumerate(reads) if (step + 1) % 6]
    assert not any(quiet), reads
    assert reads[5] > 0  # it is logged, and the watch was on


def test_the_bar_shows_the_loss_that_was_logged(make_data: MakeData, tmp_path: Path) -> None:
    bar = ProgressBar()
    runner = trainer(
        tmp_path,
        callbacks=[bar],
        log_every_n_steps=3,
        limit_val_batches=0,
        enable_progress_bar=True,
        limit_train_batches=6,
    )
    runner.fit(module(), datamodule=make_data())
    assert bar._loss["loss"] == pytest.approx(float(runner.callback_metrics["train/loss"]))


def test_distances_stay_in_full_precision_where_layers_run_in_half(make_data: MakeData) -> None:
    model = module().eval()
    batch = next(iter(make_data().train_dataloader()))
    network = model.network
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            style, (products, _), _ = network(batch.scene, (batch.positive, batch.negative), batch.category)
            table, own = network.distances(style, products), network.distance(style, products)
        assert {part.dtype for part in (*style, products, table, own)} == {torch.float32}
        torch.testing.assert_close(style.attention.sum(1), torch.ones(4), rtol=0, atol=1e-6)
        assert torch.equal(network.distances(style, products), table)
        assert torch.equal(network.distance(style, products), own)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("options", [[], ["backbone.frozen=true", "data.augment=none"], ["loss=info_nce"]], ids=str)
def test_a_run_in_half_precision_ends_near_the_full_one(compose: Compose, tmp_path: Path, options: list[str]) -> None:
    runs = {}
    for precision in ("32-true", "bf16-mixed"):
        train(compose(*TINY, *options, f"trainer.precision={precision}", run=precision))
        runs[precision] = read_checkpoint(tmp_path / precision / "checkpoints" / "last.ckpt")["state_dict"]
    for name, value in runs["32-true"].items():
        assert value.dtype == runs["bf16-mixed"][name].dtype
    weight = "network.pooled_head.outer.weight"
    apart = (runs["32-true"][weight] - runs["bf16-mixed"][weight]).norm() / runs["32-true"][weight].norm()
    assert 0 < float(apart) < 0.1


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_every_precision_of_lightnings_trains(compose: Compose, tmp_path: Path, precision: str) -> None:
    train(compose(*TINY, f"trainer.precision={precision}", "trainer.log_every_n_steps=0"))
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.usefixtures("without_pictures")
def test_accumulated_gradients_make_fewer_steps_of_the_mean(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY, "trainer.accumulate_grad_batches=2", "data.batch_size=8", run="two"))
    train(compose(*TINY, run="one"))
    two, one = (read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("two", "one"))
    assert abs(two["global_step"] - one["global_step"]) <= 1


def test_colours_change_by_the_seed_alone_and_pictures_by_sixteenths() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(30, 220, (1, 3, 8, 8), generator=generator, dtype=torch.uint8).expand(48, -1, -1, -1)
    changed = jitter_colours(pictures, 3)
    assert changed.dtype == torch.uint8
    assert changed.shape == pictures.shape
    assert torch.equal(changed, jitter_colours(pictures, 3))
    assert not torch.equal(changed, jitter_colours(pictures, 4))
    assert len({tuple(picture.flatten().tolist()) for picture in changed}) == 16
    assert 2 < float((changed.float() - pictures.float()).abs().mean()) < 60
    before = torch.get_rng_state()
    jitter_colours(pictures, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_training_pictures_change_their_colours(make_data: MakeData, tmp_path: Path) -> None:
    seen: dict[str, list[Tensor]] = {}

    class Watch(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            seen.setdefault("train", []).append(batch.scene)

        def on_validation_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            seen.setdefault("validation", []).append(batch.image)

    data, plain = make_data(augment="colour"), make_data()
    trainer(tmp_path, callbacks=[Watch()]).fit(module(), datamodule=data)
    for ours, theirs in zip(seen["train"], plain.train_dataloader(), strict=True):
        assert not torch.equal(ours, theirs.scene)
    first = next(iter(plain.val_dataloader()[0])).image
    assert torch.equal(seen["validation"][0], first)


@pytest.mark.usefixtures("without_pictures")
def test_a_resumed_run_draws_the_same_colours(compose: Compose, tmp_path: Path) -> None:
    options = [*TINY, "data.augment=colour", "model.schedule=constant"]
    train(compose(*options, "trainer.max_epochs=2", run="whole"))
    train(compose(*options, "trainer.max_epochs=1", run="half"))
    last = tmp_path / "half" / "checkpoints" / "last.ckpt"
    train(compose(*options, "trainer.max_epochs=2", f"ckpt_path={last}", run="rest"))
    whole, rest = (read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("whole", "rest"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, rest["state_dict"][name]), name


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("options", [[], ["backbone.frozen=true", "data.augment=none"]], ids=["pictures", "features"])
def test_a_compiled_run_keeps_the_names_of_its_weights(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    compiled: list[nn.Module] = []
    real = nn.Module.compile

    def traced_only(self: nn.Module) -> None:
        compiled.append(self)
        real(self, backend="eager")  # what is tested here takes a minute with the real compiler

    monkeypatch.setattr(nn.Module, "compile", traced_only)
    train(compose(*TINY, *options, run="plain"))
    assert not compiled
    train(compose(*TINY, *options, "compile=true", run="compiled"))
    assert [type(part).__name__ for part in compiled] == ["Backbone", "Hybrid"]
    plain, traced = (read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("plain", "compiled"))
    assert plain["state_dict"].keys() == traced["state_dict"].keys()
    for name, value in plain["state_dict"].items():
        torch.testing.assert_close(value, traced["state_dict"][name], rtol=1e-4, atol=1e-5)


def test_a_machine_that_cannot_compile_is_one_line(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("No working C++ compiler found")

    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: real(self, backend=broken))
    with pytest.raises(InputError, match=r"compile=true: .*No working C.. compiler found.*compile=false"):
        train(compose(*TINY, "compile=true"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has it")
def test_freed_memory_is_kept() -> None:
    # In a process of its own: it cannot be taken back.
    script = """
from pathlib import Path
import torch
from ctl_lightning.runtime.memory import keep_freed_memory
def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
def left():
    before = resident(); torch.ones(50_000_000).sum(); return resident() - before
given_back = left(); keep_freed_memory(); print(given_back < 50 < left())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_freed_memory_is_kept_or_the_reason_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", ""))
    with pytest.raises(InputError, match="keep_memory=true: only for glibc"):
        keep_freed_memory()
