"""Whole runs that start from the checkpoint of another one."""

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import TINY, Compose, train_on, trainer

from ctl_lightning.models.checkpoint import checkpoint_of, read_checkpoint
from ctl_lightning.runtime.csv_files import read_metrics
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.train import train
from ctl_lightning.training.options import check
from ctl_lightning.training.picture_options import with_preprocessing
from ctl_lightning.training.run_directory import RunDirectory, unfinished_run
from ctl_lightning.training.setup import make_data_and_module

pytestmark = pytest.mark.usefixtures("without_pictures")

HATS = "Apparel & Accessories|Hats"

WITHOUT_HATS = f"data.exclude_categories=['{HATS}']"

CONSTANT = "model.schedule=constant"


@pytest.fixture(scope="module")
def first(looks: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one of two categories."""
    return train_on(looks, cache, tmp_path_factory.mktemp("first") / "run", WITHOUT_HATS, "trainer.max_epochs=2")


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]
    return state


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def told(run: Path) -> Any:
    """What results.json says of where the run started."""
    return json.loads((run / "results.json").read_text()).get("init_from")


def entered(compose: Compose, looks: Path, *words: str) -> AbstractContextManager[RunDirectory]:
    small = [word for word in TINY if not word.startswith("data.")]
    sizes = ["data.stored_size=36", "data.image_size=32", "data.batch_size=4", "backbone.grid=4"]
    config = with_preprocessing(compose(*small, *sizes, "data=stl_fashion", f"data.root={looks}", *words))
    return RunDirectory.enter(config, check(config))


def test_on_the_same_data_it_begins_as_the_best_checkpoint_with_its_score(
    compose: Compose, tmp_path: Path, looks: Path, first: Path
) -> None:
    score = max(row["val/auc"] for row in read_metrics(first / "metrics.csv") if "val/auc" in row)
    words = (WITHOUT_HATS, "seed=5", "backbone.weights=nowhere.pth")  # weights that are not needed
    with entered(compose, looks, *words, f"init_from={first}") as run:
        data, module = make_data_and_module(run)
        assert_equal(module.state_dict(), read_checkpoint(checkpoint_of(first))["state_dict"])
        runner = trainer(tmp_path)
        runner.validate(module, datamodule=data, verbose=False)
    assert float(runner.callback_metrics["val/auc"]) == pytest.approx(score, abs=1e-6)


def test_a_new_category_is_told_and_written_down_and_a_second_run_is_equal(
    looks: Path, cache: Path, tmp_path: Path, first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [train_on(looks, cache, tmp_path / name, f"init_from={first}") for name in ("second", "third")]
    printed = " ".join(capsys.readouterr().out.split())
    assert f"starts from {first}: backbone, pooled_head, region_head, key_head, 1 of 2 categories" in printed
    assert f"; new: category '{HATS}'" in printed
    assert told(runs[0]) == {
        "path": str(first),
        "taken": ["backbone", "pooled_head", "region_head", "key_head"],
        "categories": {"taken": ["Apparel & Accessories|Shoes"], "new": [HATS], "left_out": []},
        "new": [],
    }
    assert_equal(weights(runs[0]), weights(runs[1]))
    assert told(first) is None


@pytest.mark.long
def test_a_run_that_goes_on_does_not_start_again(looks: Path, cache: Path, tmp_path: Path, first: Path) -> None:
    given = shutil.copytree(first, tmp_path / "given")
    options = (f"init_from={given}", CONSTANT)
    whole = train_on(looks, cache, tmp_path / "whole", *options, "trainer.max_epochs=2")
    half = train_on(looks, cache, tmp_path / "half", *options)
    shutil.rmtree(given)  # nothing of it is needed any more
    train_on(looks, cache, half, *options, "trainer.max_epochs=2", "ckpt_path=auto")
    assert_equal(weights(half), weights(whole))
    assert told(half) == told(whole)


def test_auto_finds_a_run_that_started_from_the_same_checkpoint_alone(
    looks: Path, cache: Path, tmp_path: Path, first: Path
) -> None:
    run, other = train_on(looks, cache, tmp_path / "second", f"init_from={first}"), tmp_path / "third"
    (run / "results.json").unlink()
    options = read_checkpoint(run / "checkpoints/last.ckpt")["config"]
    assert unfinished_run(other, options, elsewhere=True) == run
    for value in (None, str(tmp_path)):
        assert unfinished_run(other, options | {"init_from": value}, elsewhere=True) is None


def test_another_split_of_the_same_scenes_is_a_warning(
    compose: Compose, looks: Path, first: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with entered(compose, looks, f"init_from={first}", "data.salt=1") as run:
        make_data_and_module(run)
    assert "so the numbers will be too good; give the split of its training, data.salt=0" in caplog.text


def test_a_wrong_one_is_refused_before_the_data_is_read(compose: Compose, tmp_path: Path) -> None:
    for words, why in {
        ("init_from=nowhere", "data.root=nowhere"): "init_from=nowhere: no such file",
        ("init_from=nowhere", "+experiment=popularity"): "init_from: method=popularity has no weights to start with",
    }.items():
        with pytest.raises(InputError, match=why):
            train(compose(*TINY, *words))
    assert not (tmp_path / "run/checkpoints").exists()
