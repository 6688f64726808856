"""Every argument of Lightning's Trainer works, or is refused by name before any work, as docs/training.md says."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from factories import REPOSITORY, TINY, Compose
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelSummary, ProgressBar
from omegaconf import DictConfig, OmegaConf

from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.runtime.config import check_names, check_values, config_dir, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.train import train
from ctl_lightning.training.trainer_options import REFUSED, build_trainer, check_trainer, chosen_callbacks

pytestmark = pytest.mark.usefixtures("without_pictures")

TABLE = re.findall(
    r"^\| `(\w+)` \| (works|refused) \|", (REPOSITORY / "docs" / "training.md").read_text(), re.MULTILINE
)

HARMLESS = {
    "accelerator": "cpu",
    "strategy": "auto",
    "devices": "1",
    "num_nodes": "1",
    "min_epochs": "1",
    "min_steps": "1",
    "max_time": "00:01:00:00",
    "val_check_interval": "0.5",
    "num_sanity_val_steps": "1",
    "log_every_n_steps": "2",
    "enable_progress_bar": "false",
    "enable_model_summary": "true",
    "deterministic": "false",
    "benchmark": "true",
    "inference_mode": "false",
    "profiler": "simple",
    "detect_anomaly": "true",
    "sync_batchnorm": "false",
    "reload_dataloaders_every_n_epochs": "1",
    "enable_autolog_hparams": "false",
}
"""Options that change nothing that is learned."""

LEARNING = {
    "precision": "64-true",
    "max_epochs": "2",
    "max_steps": "4",
    "limit_train_batches": "6",
    "check_val_every_n_epoch": "2",
    "accumulate_grad_batches": "2",
    "gradient_clip_val": "0.5",
    "gradient_clip_algorithm": "value",
}
"""Options that do."""

REFUSED_VALUES = {
    "logger": "true",
    "callbacks": "[]",
    "fast_dev_run": "1",
    "limit_val_batches": "1",  # one batch; 1.0 is all of them
    "limit_test_batches": "0.5",
    "limit_predict_batches": "2",
    "overfit_batches": "1",
    "enable_checkpointing": "false",
    "use_distributed_sampler": "true",
    "barebones": "true",
    "plugins": "bitsandbytes",
    "default_root_dir": "elsewhere",
    "model_registry": "mine",
}

WRONG = [
    *("accelerator=abacus", "accelerator=-1", "accelerator=tpu", "strategy=fsdp", "strategy=dpp", "strategy=[ddp]"),
    *("devices=0", "devices=two", "devices=-1", "num_nodes=0", "num_nodes=one", "precision=8-true", "precision=[32]"),
    *("max_epochs=0", "max_epochs=-2", "max_epochs=null", "max_epochs=-1", "max_epochs=many", "min_epochs=-1"),
    *("max_steps=0", "max_steps=-2", "max_steps=1.5", "min_steps=-1", "max_time=soon", "max_time=00:00:00:00"),
    *("max_time={hour:1}", "limit_train_batches=0", "limit_train_batches=-1", "limit_train_batches=1.5"),
    *("limit_train_batches=all", "val_check_interval=0", "val_check_interval=-1", "val_check_interval=1.5"),
    *("val_check_interval=often", "check_val_every_n_epoch=0", "check_val_every_n_epoch=-1", "num_sanity_val_steps=-2"),
    *("log_every_n_steps=-1", "log_every_n_steps=[1]", "enable_progress_bar=7", "enable_model_summary=maybe"),
    *("accumulate_grad_batches=0", "accumulate_grad_batches={4:2}", "gradient_clip_val=-1", "gradient_clip_val=some"),
    *("gradient_clip_algorithm=best", "deterministic=often", "benchmark=2", "inference_mode=2", "profiler=gprof"),
    *("detect_anomaly=2", "sync_batchnorm=2", "reload_dataloaders_every_n_epochs=-1", "enable_autolog_hparams=2"),
]


def words(options: dict[str, str]) -> list[str]:
    return [f"++trainer.{name}={value}" for name, value in options.items()]


@pytest.fixture(scope="module")
def plain() -> DictConfig:
    """The config of a tiny training, composed once: that takes longer than to check it."""
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose("train", ["paths.run_dir=run", *TINY])


def with_option(plain: DictConfig, run: Path, name: str, value: str) -> Any:
    config = plain.copy()
    OmegaConf.update(config, f"trainer.{name}", OmegaConf.from_dotlist([f"value={value}"]).value, force_add=True)
    config.paths.run_dir = str(run)
    return config


def check_and_train(config: DictConfig) -> None:
    """What the program does."""
    check_values(check_names("train", config))
    train(config)


def weights(run: Path) -> Any:
    return read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]


def test_the_table_has_every_argument_of_the_trainer_once() -> None:
    arguments = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    assert sorted(name for name, _ in TABLE) == sorted(arguments)


def test_the_tests_go_through_the_whole_table() -> None:
    refused = {name for name, told in TABLE if told == "refused"}
    works = {name for name, told in TABLE if told == "works"}
    assert refused == REFUSED.keys() == REFUSED_VALUES.keys()
    assert works == HARMLESS.keys() | LEARNING.keys()
    assert works == {word.partition("=")[0] for word in WRONG}


@pytest.mark.parametrize("name", REFUSED_VALUES)
def test_what_is_refused_is_refused_by_name_before_any_work(plain: DictConfig, tmp_path: Path, name: str) -> None:
    config = with_option(plain, tmp_path / "run", name, REFUSED_VALUES[name])
    with pytest.raises(InputError, match=rf"^trainer\.{name}=.*: .*{re.escape(REFUSED[name][1][:20])}"):
        check_and_train(config)
    assert not (tmp_path / "run").exists()


def test_what_changes_nothing_is_not_refused(plain: DictConfig) -> None:
    options = resolved(plain)
    for name, (harmless, _) in REFUSED.items():
        for value in harmless:
            check_trainer(options | {"trainer": options["trainer"] | {name: value}})


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_value_is_one_line_that_names_the_option_before_any_work(
    plain: DictConfig, tmp_path: Path, word: str
) -> None:
    name, _, value = word.partition("=")
    config = with_option(plain, tmp_path / "run", name, value)
    with pytest.raises(InputError, match=rf"^trainer\.{name}\b") as caught:
        check_and_train(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_should_change_nothing_learns_the_same_weights(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY, run="plain"))
    train(compose(*TINY, *words(HARMLESS), run="with"))
    assert (tmp_path / "with" / "results.json").exists()
    with_options = weights(tmp_path / "with")
    for name, value in weights(tmp_path / "plain").items():
        assert torch.equal(value, with_options[name]), name


def test_what_shapes_the_learning_ends_with_results(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY, *words(LEARNING)))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 < results["test"]["all"]["auc"]["value"] < 1
    last = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 4  # six batches are three steps; the second epoch is cut off
    assert {value.dtype for value in last["state_dict"].values() if value.is_floating_point()} == {torch.float64}


@pytest.mark.long
@pytest.mark.parametrize("name", [*HARMLESS, *LEARNING])
def test_each_option_that_works_works_alone(compose: Compose, tmp_path: Path, name: str) -> None:
    train(compose(*TINY, f"++trainer.{name}={(HARMLESS | LEARNING)[name]}"))
    assert (tmp_path / "run" / "results.json").exists()


def test_no_progress_bar_is_enough_to_say(compose: Compose) -> None:
    words = [word for word in TINY if word not in ("callbacks=quiet", "trainer.enable_progress_bar=false")]
    kinds = [type(callback) for callback in chosen_callbacks(resolved(compose(*words)))]
    assert any(issubclass(kind, ProgressBar) for kind in kinds)
    quiet = chosen_callbacks(resolved(compose(*words, "trainer.enable_progress_bar=false")))
    assert [type(callback) for callback in quiet] == [LearningRateMonitor]


def test_a_summary_that_is_chosen_needs_no_second_option(compose: Compose) -> None:
    options = resolved(compose(*TINY, "+callbacks.summary._target_=lightning.pytorch.callbacks.ModelSummary"))
    made = build_trainer(options, chosen_callbacks(options), logger=False)
    assert any(isinstance(callback, ModelSummary) for callback in made.callbacks)  # type: ignore[attr-defined]


STOP = "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["++trainer.limit_train_batches=0.0001"], r"trainer: .*limit_train_batches"),
        (["++trainer.val_check_interval=1000"], r"trainer\.val_check_interval=1000: an epoch has only 14 batches"),
        ([STOP, "+callbacks.stop.monitor=val/auk"], r"callbacks: .*`val/auk` which is not available"),
    ],
)
def test_what_shows_only_at_work_is_one_line(compose: Compose, words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        train(compose(*TINY, *words))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["+callbacks.x._target_=lightning.pytorch.callbacks.Nothing"],
            r"callbacks\.x\._target_=\S+Nothing: there is no",
        ),
        (
            [STOP, "+callbacks.stop.monitor=val/auc", "+callbacks.stop.mode=up"],
            r"callbacks\.stop: `mode` can be min, max",
        ),
        ([STOP], r"callbacks\.stop: .*monitor"),
        (["+callbacks.x=1"], r"callbacks\.x=1: expected options with a _target_"),
    ],
)
def test_a_wrong_callback_is_one_line_before_any_work(
    compose: Compose, tmp_path: Path, words: list[str], says: str
) -> None:
    config = compose(*TINY, *words)
    with pytest.raises(InputError, match=says):
        check_and_train(config)
    assert not (tmp_path / "run").exists()
