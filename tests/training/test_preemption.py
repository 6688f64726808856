"""A run that is ended at any moment goes on to the weights of one that was not."""

import os
import random
import shutil
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from factories import TINY, Compose, MakeData
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig
from ranks import in_processes
from torch import distributed

from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.csv_files import read_metrics
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.locks import alone
from ctl_lightning.runtime.place import LOCK
from ctl_lightning.train import train
from ctl_lightning.training import preemption as module
from ctl_lightning.training import trainer
from ctl_lightning.training.checkpointing import WholeFiles
from ctl_lightning.training.preemption import AGREE_EVERY, Preemption
from ctl_lightning.training.run_directory import remove_partial

OPTIONS = (*TINY, "trainer.max_epochs=3", "model.dropout=0.3", "data.augment=colour", "data.batch_size=8")
"""22 steps an epoch."""


class Tell(Callback):
    """Sends this process a signal at a step, or when a validation begins."""

    def __init__(self, number: int, step: int | None = None, rank: int = 0) -> None:
        self.number, self.step, self.rank = number, step, rank

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        if self.step is None and trainer.current_epoch == 1 and not trainer.sanity_checking:
            os.kill(os.getpid(), self.number)


def same(first: Path, second: Path) -> None:
    """Weights to the bit, optimiser, schedule, best score, and what was logged."""
    one, two = (read_checkpoint(run / "checkpoints/last.ckpt") for run in (first, second))
    for name, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][name]), name
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (one, two)]
    for number, state in states[0].items():
        assert all(torch.equal(value, states[1][number][name]) for name, value in state.items())
    assert one["lr_schedulers"] == two["lr_schedulers"]
    assert one["global_step"] == two["global_step"]
    best = [list(run.glob("checkpoints/best*.ckpt")) for run in (first, second)]
    assert [path.name for path in best[0]] == [path.name for path in best[1]]
    assert not list(second.glob("checkpoints/.*"))
    clock = ("train/images_per_second", "train/data_wait")
    rows = [
        [{name: value for name, value in row.items() if name not in clock} for row in read_metrics(run / "metrics.csv")]
        for run in (first, second)
    ]
    assert rows[0] == rows[1]
    assert (first / "pairs.csv").read_text() == (second / "pairs.csv").read_text()


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets runs be told to end."""
    made = trainer.make_trainer

    def use(tell: Tell) -> None:
        def with_tell(run: Any, loggers: Any, watching: Any) -> Trainer:
            return made(run, loggers, [tell, *watching])

        monkeypatch.setattr(trainer, "make_trainer", with_tell)

    return use


@pytest.mark.usefixtures("without_pictures")
def test_a_signal_within_an_epoch_or_a_validation_saves_and_ends_the_run_which_then_goes_on_as_if_nothing_had_been(
    compose: Compose, tmp_path: Path, telling: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Rows of metrics.csv without what depends on the clock.
    train(compose(*OPTIONS, run="whole"))
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)]
    requeued: list[list[str]] = []
    monkeypatch.setattr(shutil, "which", lambda _: "scontrol")

    def scontrol(words: list[str], check: bool) -> SimpleNamespace:
        requeued.append(words)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=scontrol))
    monkeypatch.setattr(sys, "argv", ["train", "model.dim=16"])
    config = compose(*OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_JOB_ID", "12")
        for told, step in ((signal.SIGTERM, 4), (signal.SIGUSR1, 13), (signal.SIGUSR2, None)):
            telling(Tell(told, step))
            with pytest.raises(SystemExit) as end:
                train(compose(*OPTIONS, "ckpt_path=auto"))
            assert end.value.code == 128 + told
            if step is not None:
                assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == step + (
                    2 if step == 4 else 1
                )  # the next, where one logs
            said = capsys.readouterr().err
            later = "continue with: python -m ctl_lightning.train model.dim=16"
            if told != signal.SIGTERM:
                later = "it goes on when SLURM starts it again"
            assert f"train: told to end by {told.name}; {later}" in said
            assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)] == handlers
    assert requeued == [["scontrol", "requeue", "12"]] * 2
    telling(Tell(0, 10**6))
    # A requeued job goes on by itself.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    train(config)
    same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.usefixtures("without_pictures")
def test_a_handler_that_was_there_before_puts_the_job_back_into_the_queue(compose: Compose, telling: Any) -> None:
    called = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: called.append(number))
    try:
        telling(Tell(signal.SIGUSR2, 3))
        with pytest.raises(SystemExit):
            train(compose(*OPTIONS))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert called == [signal.SIGUSR2]


def _told_in_one(config: DictConfig, step: int) -> Any:
    made = trainer.make_trainer
    RunReport.draw = lambda *_: {}  # type: ignore[method-assign]
    trainer.make_trainer = lambda run, loggers, watching: made(
        run, loggers, [Tell(signal.SIGTERM, step, rank=1), *watching]
    )
    try:
        return train(config)
    except SystemExit as end:
        return end.code


@pytest.mark.long
def test_of_several_processes_one_is_told_and_all_end_after_the_same_step(compose: Compose, tmp_path: Path) -> None:
    options = (
        *OPTIONS,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "data.batch_size=4",
        "ckpt_path=auto",
    )
    whole, config = compose(*options, run="whole"), compose(*options)
    never, step = 10**6, 3
    assert in_processes(2, _told_in_one, whole, never)[0] is not None
    assert in_processes(2, _told_in_one, config, step) == [128 + signal.SIGTERM] * 2
    checkpoint = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert checkpoint["global_step"] == AGREE_EVERY + 1 > step
    assert in_processes(2, _told_in_one, config, never)[0] is not None
    same(tmp_path / "whole", tmp_path / "run")


def test_the_batches_of_another_number_of_processes_are_not_taken_for_these(make_data: MakeData) -> None:
    data = make_data()
    state = data.state_dict()
    data.load_state_dict(state | {"processes": 2})  # a whole epoch
    with pytest.raises(
        InputError, match=r"batch 3 of an epoch of 2 processes, this run has 1; give trainer\.devices=2"
    ):
        data.load_state_dict(state | {"processes": 2, "batch": 3})


class Steps:
    """A trainer of two processes, as far as the callback asks for one."""

    accumulate_grad_batches, num_training_batches, world_size, log_every_n_steps = 1, 59, 2, 20
    val_check_batch, global_step, is_global_zero = 59, 0, True
    strategy = SimpleNamespace(root_device="cpu", barrier=lambda: None)

    def __init__(self) -> None:
        self.saved: list[int] = []

    def save_checkpoint(self, _: Path, weights_only: bool) -> None:
        self.saved.append(self.global_step)


def test_processes_that_agree_at_a_step_that_logs_end_after_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "all_reduce", lambda *_: None)
    trainer: Any = Steps()
    preemption = Preemption(tmp_path / "last.ckpt", 100)

    def epoch() -> None:
        for batch in range(59):  # the second: its 1st, 21st and 41st step are steps 60, 80 and 100, which log
            trainer.global_step = 60 + batch
            if batch == 3:
                preemption.told = signal.SIGTERM
            preemption.on_train_batch_end(trainer, None, None, None, batch)  # type: ignore[arg-type]

    with pytest.raises(SystemExit):
        epoch()
    assert trainer.saved == [81]


def test_a_signal_while_nothing_is_trained_ends_the_run_at_once_and_gives_the_job_back(tmp_path: Path) -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: called.append(number))
    preemption = Preemption(tmp_path / "last.ckpt", 100)
    try:
        with pytest.raises(SystemExit) as end, preemption.listening():
            os.kill(os.getpid(), signal.SIGUSR2)
        assert signal.getsignal(signal.SIGUSR2) != preemption._listen
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert end.value.code == 128 + signal.SIGUSR2
    assert called == [signal.SIGUSR2]
    assert preemption.requeued


@pytest.mark.usefixtures("without_pictures")
def test_a_run_killed_between_its_best_and_its_last_checkpoint_goes_on(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every epoch is the best: whether so small a network really improves differs from one kind of processor to another.
    monkeypatch.setattr(ModelCheckpoint, "check_monitor_top_k", lambda *_: True)
    options = (*TINY, "trainer.max_epochs=3", "model.learning_rate=0.01", "+experiment=global")
    train(compose(*options, run="whole"))
    saved = WholeFiles.save_checkpoint

    def killed(self: WholeFiles, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        if Path(path).name == "last.ckpt" and checkpoint["epoch"] == 1:
            raise MemoryError
        saved(self, checkpoint, path, storage_options)

    with monkeypatch.context() as patch:
        patch.setattr(WholeFiles, "save_checkpoint", killed)
        with pytest.raises(MemoryError):
            train(compose(*options))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    best = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["callbacks"]
    named = next(state["best_model_path"] for state in best.values() if state.get("best_model_path"))
    assert Path(named).exists()
    assert len(list(Path(named).parent.glob("best*.ckpt"))) == 2  # it was killed where it hurts
    train(compose(*options, "ckpt_path=auto"))
    same(tmp_path / "whole", tmp_path / "run")
    train(compose(*options, f"ckpt_path={tmp_path / 'copy/checkpoints/last.ckpt'}", run="elsewhere"))
    same(tmp_path / "whole", tmp_path / "elsewhere")


@pytest.mark.usefixtures("without_pictures")
def test_two_runs_do_not_work_in_one_directory(compose: Compose, tmp_path: Path) -> None:
    config = compose(*TINY)
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run" / LOCK, "held"), pytest.raises(InputError, match="another process is at work there"):
        train(config)
    train(config)


@pytest.mark.long
@pytest.mark.usefixtures("without_pictures")
def test_a_run_told_to_end_goes_on_whatever_its_accumulation_workers_and_validations(
    compose: Compose, tmp_path: Path, telling: Any
) -> None:
    options = (
        *(*OPTIONS, "trainer.max_epochs=4", "trainer.accumulate_grad_batches=3"),
        *("data.num_workers=2", "trainer.check_val_every_n_epoch=2"),
    )
    train(compose(*options, run="whole"))
    for step in (3, 14):
        telling(Tell(signal.SIGTERM, step))
        with pytest.raises(SystemExit):
            train(compose(*options, "ckpt_path=auto"))
    telling(Tell(0, 10**6))
    train(compose(*options, "ckpt_path=auto"))
    same(tmp_path / "whole", tmp_path / "run")


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    files = WholeFiles()
    files.save_checkpoint({"a": torch.ones(3)}, path)

    def full(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        files.save_checkpoint({"a": torch.zeros(3)}, path)
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(3))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    (path.parent / ".last.77.ckpt").write_bytes(b"half")
    remove_partial(tmp_path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_step_within_an_accumulation_is_no_place_to_save(tmp_path: Path) -> None:
    class Training:
        accumulate_grad_batches, num_training_batches, world_size, log_every_n_steps = 2, 10, 1, 1
        val_check_batch = 10
        saved = 0

        def save_checkpoint(self, _: Path, weights_only: bool) -> None:
            self.saved += 1

    trainer: Any = Training()
    preemption = Preemption(tmp_path / "last.ckpt", 0)
    for batch in range(10):
        preemption.on_train_batch_end(trainer, None, None, None, batch)  # type: ignore[arg-type]
    assert trainer.saved == 4  # and the last of the epoch is saved with it


_context = get_context("forkserver")


def _trained(config: DictConfig) -> None:
    torch.set_num_threads(1)
    RunReport.draw = lambda *_: {}  # type: ignore[method-assign]
    train(config)


def _step(path: Path) -> int:
    return read_checkpoint(path)["global_step"] if path.exists() else 0


@pytest.mark.long
def test_twenty_runs_that_are_killed_at_random_moments_end_with_the_weights_of_one_that_was_not(
    compose: Compose, tmp_path: Path
) -> None:
    # A checkpoint in each step: most kills then fall into one that is being written.
    options = (*OPTIONS, "save_minutes=0.0001", "ckpt_path=auto")
    process = _context.Process(target=_trained, args=(compose(*options, run="whole"),))
    process.start()
    process.join()
    draw = random.Random(0)
    kills = []
    for number in range(20):
        config = compose(*options, run=f"run{number}")
        last = tmp_path / f"run{number}/checkpoints/last.ckpt"
        for to_kill in (True, True, False):
            process = _context.Process(target=_trained, args=(config,))
            process.start()
            if to_kill:
                # By what it has done, not by the clock, which says nothing of how far it is on a machine that does other things.
                step = draw.randrange(min(_step(last), 65), 66)
                while _step(last) < step and process.is_alive():
                    time.sleep(0.002)
                time.sleep(draw.uniform(0, 0.05 if step else 1))
                process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert to_kill
            assert process.exitcode == -signal.SIGKILL
            kills.append(_step(last))
        same(tmp_path / "whole", tmp_path / f"run{number}")
        shutil.rmtree(tmp_path / f"run{number}")
    print(f"killed {len(kills)} times, after steps {sorted(kills)}")
    assert len(kills) >= 20
    assert len(set(kills)) > 10
