"""Whole runs of the program, small ones; in this process where that is enough."""

import csv
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import TINY, Compose
from lightning import Trainer
from PIL import Image

from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.data.splits import split_of
from ctl_lightning.metrics.ranking import CatalogueRanking, Ranked
from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.models.components.libraries.small import SmallNetwork
from ctl_lightning.models.components.network import Network
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.config import build
from ctl_lightning.runtime.csv_files import read_metrics
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.trained import Trained
from ctl_lightning.train import train
from ctl_lightning.training import module, predict
from ctl_lightning.training.checkpointing import BestCheckpoint
from ctl_lightning.training.module import CompleteTheLook, ranking_of
from ctl_lightning.training.picture_options import with_preprocessing

METRICS = {
    "auc",
    "auc_matched",
    "auc_shuffled",
    "lift",
    "auc_geometry",
    "lift_geometry",
    "binary_accuracy",
    "hit@1",
    "hit@5",
    "hit@10",
    "hit@50",
    "mrr",
    "median_rank",
}


def results(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "results.json").read_text())
    return content


def weights(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(run / "checkpoints" / name)["state_dict"]
    return state


def command(tmp_path: Path, *overrides: str, cache: Path, multirun: bool = False) -> subprocess.CompletedProcess[str]:
    flags = ["-m"] if multirun else []
    return subprocess.run(
        [sys.executable, "-m", "ctl_lightning.train", *flags, f"paths.cache_dir={cache}", *TINY, *overrides],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"},
    )


EXPERIMENTS = ("hybrid", "hybrid_uniform", "global", "local", "siamese", "ibr", "bpr_dae", "imagenet", "popularity")


DRAWN = ("hybrid", "siamese", "popularity")
"""With attention, without it, and with nothing learned; pictures take most of so small a run."""


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_run_of_every_experiment_leaves_everything_behind(
    compose: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    experiment: str,
) -> None:
    if experiment not in DRAWN:
        monkeypatch.setattr(RunReport, "draw", lambda *_: {})
    learns = experiment not in ("imagenet", "popularity")
    monitored = train(compose(f"+experiment={experiment}", *TINY))
    assert (monitored is not None) == learns
    run = tmp_path / "run"
    found = results(run)
    assert (found["protocol"], found["method"], found["seed"]) == ("synthetic", experiment, 0)
    assert found["test"].keys() == {"all", "seen", "unseen", "by_category"}
    for table in (
        found["test"]["all"],
        found["test"]["seen"],
        found["test"]["unseen"],
        *found["test"]["by_category"].values(),
    ):
        assert table.keys() == METRICS
        assert all(metric.keys() == {"value", "low", "high"} for metric in table.values())
    auc = found["test"]["all"]["auc"]
    assert 0 < auc["low"] <= auc["value"] <= auc["high"] < 1
    assert found["oracle"]["auc"]["value"] > max(found["ceilings"][name]["value"] for name in ("global", "local"))
    assert ("attention" in found) == (experiment in ("hybrid", "hybrid_uniform", "local"))
    if experiment == "popularity":
        for lift in ("lift", "lift_geometry"):
            assert found["test"]["all"][lift] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["classifier"]["pairs"] > 5
    assert found["hubs"].keys() == {"share", "skewness", "coverage"}
    assert 0 < found["hubs"]["coverage"] < 1
    if experiment == "popularity":
        assert found["hubs"]["share"] == 1
    assert found["reranking"].keys() == {"shuffled", "popularity"}
    assert torch.__version__.startswith(found["versions"]["torch"])
    pictures = (
        {"retrieval.png", "classifier.png", "categories.png", "distances.png"}
        | ({"confusion.png", "embedding.png"} if experiment != "popularity" else set())
        | ({"curves.png"} if learns else set())
        | ({"attention.png"} if "attention" in found else set())
    )
    drawn = sorted(run.glob("pictures/*"))
    assert {path.name for path in drawn} == (pictures if experiment in DRAWN else set())
    for path in drawn:
        with Image.open(path) as image:
            assert image.width > 400
            assert np.asarray(image.convert("RGB")).std() > 10  # not an empty sheet
    assert found["environment"].keys() >= {"versions", "command", "host", "devices"}
    tables = {path.name for path in run.glob("tables/*")}
    assert {"test_table.csv", "test_categories.csv"} <= tables
    assert ("test_confusion.csv" in tables) == (experiment != "popularity")
    assert {"config.yaml", "metrics.csv", "split.json", "triplets.jsonl"} <= {path.name for path in run.iterdir()}
    if learns:
        rows = read_metrics(run / "metrics.csv")
        assert any("train/loss" in row for row in rows)
        assert any("val/auc" in row for row in rows)
        assert len(list((run / "checkpoints").glob("best*.ckpt"))) == 1
    trained = Trained(run)
    assert (trained.method, trained.protocol, trained.seed) == (experiment, "synthetic", 0)
    assert trained.learned_from_drawings
    assert trained.classifier is not None
    assert trained.classifier.threshold == found["classifier"]["threshold"]
    printed = capsys.readouterr().out
    assert f"{auc['value']:.3f}" in printed
    assert f"only {found['pairs']['all']} test pairs" in printed  # as their intervals are too narrow
    assert str(run / "results.json") in printed
    assert ("epoch 1 of 1: validation auc 0." in printed) == learns  # no terminal here
    assert ("best validation auc 0." in printed) == learns


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_command_gives_the_same_metrics_whatever_the_workers(
    compose: Compose, tmp_path: Path, workers: int
) -> None:
    options = [*TINY, "model.dropout=0.3", "trainer.max_epochs=2"]
    train(compose(*options, run="first"))
    train(compose(*options, f"data.num_workers={workers}", run="second"))
    first, second = results(tmp_path / "first"), results(tmp_path / "second")
    assert first["test"] == second["test"]
    for name, value in weights(tmp_path / "first").items():
        assert torch.equal(value, weights(tmp_path / "second")[name]), name


@pytest.mark.usefixtures("without_pictures")
def test_another_seed_gives_another_model(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY, run="first"))
    train(compose(*TINY, "seed=1", run="second"))
    assert results(tmp_path / "first")["test"] != results(tmp_path / "second")["test"]


@pytest.mark.usefixtures("without_pictures")
def test_options_reach_the_network(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY, "model.squared=false", "model.attention=uniform", "data.negatives=pairs"))
    found = results(tmp_path / "run")
    assert found["attention"]["pointing"] == found["attention"]["pointing_uniform"]
    assert not any("key_head" in name for name in weights(tmp_path / "run"))


@pytest.mark.usefixtures("without_pictures")
def test_a_temperature_of_the_attention_is_learned_and_logged(compose: Compose, tmp_path: Path) -> None:
    words = ("model.attention_temperature=0.5", "model.learn_temperature=true", "trainer.log_every_n_steps=1")
    train(compose(*TINY, *words))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        found = [float(row["train/attention_temperature"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert found[0] == pytest.approx(0.5)  # it is logged as it was in the step
    assert found[-1] != found[0]
    assert math.exp(weights(tmp_path / "run")["network.attention_temperature.logarithm"]) != 0.5


def interrupted(tmp_path: Path, *words: str) -> tuple[list[Path], str]:
    """Starts the program and stops it with SIGINT after its first epoch. Returns checkpoints/last.ckpt, and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ctl_lightning.train", "paths.output_dir=runs", *TINY, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell without job control starts what it runs in the background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (saved := list(tmp_path.glob("runs/**/last.ckpt"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # into the next epoch
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    return saved, errors


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_by_ctrl_c_is_continued_to_the_weights_of_one_that_was_not(
    compose: Compose, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    options = ["data.source.scenes=400", "trainer.max_epochs=5", "model.dropout=0.3", f"data.num_workers={workers}"]
    saved, errors = interrupted(tmp_path, f"paths.cache_dir={cache}", *options)
    assert "interrupted; continue with: python -m ctl_lightning.train" in errors
    (stopped,) = saved
    assert read_checkpoint(stopped)["epoch"] < 4
    assert not (stopped.parents[1] / "results.json").exists()

    second = command(tmp_path, *options, "paths.output_dir=runs", "ckpt_path=auto", cache=cache)
    assert second.returncode == 0, second.stderr
    assert f"continuing {stopped}" in second.stdout.replace("\n", "")
    (continued,) = [path.parent for path in tmp_path.glob("runs/**/results.json")]
    assert continued == stopped.parents[1]
    assert f"run_dir: {continued}\n" in (continued / "config.yaml").read_text()
    monkeypatch.setattr(RunReport, "draw", lambda *_: {})
    train(compose(*TINY, *options, run="whole"))
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(continued)[name]), name
    assert results(continued)["test"] == results(tmp_path / "whole")["test"]
    ours, theirs = read_metrics(continued / "metrics.csv"), read_metrics(tmp_path / "whole" / "metrics.csv")
    assert [row["step"] for row in ours if "val/auc" in row] == [row["step"] for row in theirs if "val/auc" in row]


@pytest.mark.long
def test_a_sweep_stopped_by_ctrl_c_goes_on_with_the_command_that_it_printed(tmp_path: Path, cache: Path) -> None:
    options = ["data.source.scenes=400", "trainer.max_epochs=4", "+experiment=global,local", "-m"]
    _, errors = interrupted(tmp_path, f"paths.cache_dir={cache}", *options)
    assert not list(tmp_path.glob("runs/**/results.json"))
    printed = shlex.split(errors.split("continue with: python ")[1])
    subprocess.run([sys.executable, *printed], cwd=tmp_path, capture_output=True, check=True)
    assert sorted(results(path.parent)["method"] for path in tmp_path.glob("runs/sweeps/*/*/results.json")) == [
        "global",
        "local",
    ]


@pytest.mark.usefixtures("without_pictures")
def test_the_checkpoint_of_the_best_epoch_is_what_is_tested_and_returned(compose: Compose, tmp_path: Path) -> None:
    for seed in range(10):
        run = tmp_path / f"run{seed}"
        monitored = train(compose(*TINY, "trainer.max_epochs=4", f"seed={seed}", run=run.name))
        auc = [row["val/auc"] for row in read_metrics(run / "metrics.csv") if "val/auc" in row]
        assert len(auc) == 4
        if max(auc) > auc[-1]:
            break
    else:
        pytest.fail("the last epoch was the best one ten times")
    assert monitored == pytest.approx(max(auc), abs=1e-6)
    (best,) = (run / "checkpoints").glob("best*.ckpt")
    assert best.name == f"best-epoch{auc.index(max(auc)):03d}.ckpt"
    config = with_preprocessing(compose(*TINY, f"seed={seed}"))
    data = build(config.data, "data")
    model = CompleteTheLook.load_from_checkpoint(best, weights_only=True)
    Trainer(accelerator="cpu", logger=False).test(model, datamodule=data, verbose=False)
    tested = results(run)["test"]["all"]["auc"]["value"]
    assert tested == pytest.approx(model.scores.auc.mean(), abs=1e-9)


@pytest.mark.usefixtures("without_pictures")
def test_validation_chooses_and_the_test_split_is_ranked_once_at_the_end(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked: list[str] = []
    rank, choose = ranking_of, BestCheckpoint._save_topk_checkpoint

    def spied(network: Network, task: EvaluationSet, embedded: CatalogueRanking) -> Ranked:
        ranked.append(split_of(task.pairs[0].scene, "0"))
        assert {split_of(pair.scene, "0") for pair in task.pairs} == {ranked[-1]}
        return rank(network, task, embedded)

    def chosen(callback: BestCheckpoint, trainer: Trainer, monitored: dict[str, Any]) -> None:
        assert callback.monitor == "val/auc"
        assert not any(name.startswith("test") for name in monitored)
        ranked.append("choice")
        choose(callback, trainer, monitored)

    for user in (module, predict):
        monkeypatch.setattr(user, "ranking_of", spied)
    monkeypatch.setattr(BestCheckpoint, "_save_topk_checkpoint", chosen)
    train(compose(*TINY, "trainer.max_epochs=2"))
    # Once more the validation split at the end, for the classifier of the best epoch's weights.
    assert ranked == ["validation", "choice"] * 2 + ["test", "validation"]


@pytest.mark.usefixtures("without_pictures")
def test_weights_from_a_file_reach_the_network(compose: Compose, tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.save(SmallNetwork().state_dict(), tmp_path / "w.pth")
    train(compose(*TINY, f"backbone.weights={tmp_path / 'w.pth'}", "backbone.frozen=true"))
    trained, given = weights(tmp_path / "run"), torch.load(tmp_path / "w.pth", weights_only=True)
    name = "regions.0.0.weight"
    assert torch.equal(trained[f"network.backbone.network.{name}"], given[name])


@pytest.mark.usefixtures("without_pictures")
def test_a_checkpoint_continued_elsewhere_takes_its_best_along(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY, "trainer.max_epochs=2", run="first"))
    first = [row["val/auc"] for row in read_metrics(tmp_path / "first" / "metrics.csv") if "val/auc" in row]
    resumed = f"ckpt_path={tmp_path / 'first/checkpoints/last.ckpt'}"
    monitored = train(compose(*TINY, "trainer.max_epochs=2", resumed, run="second"))
    assert monitored == pytest.approx(max(first), abs=1e-6)
    assert results(tmp_path / "second")["test"] == results(tmp_path / "first")["test"]
    assert results(tmp_path / "second")["train_seconds"] > results(tmp_path / "first")["train_seconds"] / 2
    assert not (tmp_path / "first" / "hparams.yaml").exists()  # config.yaml has it all
    assert len(list((tmp_path / "second/checkpoints").glob("best*.ckpt"))) == 1
    with pytest.raises(InputError, match="holds a run already"):
        train(compose(*TINY, resumed, run="second"))


@pytest.mark.usefixtures("without_pictures")
def test_auto_does_not_run_a_finished_run_again(compose: Compose, tmp_path: Path) -> None:
    first = train(compose(*TINY))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert train(compose(*TINY, "ckpt_path=auto")) == pytest.approx(first, abs=1e-6)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", ["limit_val_batches=3", "limit_test_batches=0.5", "fast_dev_run=true"])
def test_a_part_of_a_split_is_refused_before_the_first_epoch(compose: Compose, tmp_path: Path, option: str) -> None:
    with pytest.raises(InputError, match=r"ranked whole, so no part"):
        train(compose(*TINY, f"+trainer.{option}"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_missing_weights_are_told_before_anything_is_packed(compose: Compose, tmp_path: Path, looks: Path) -> None:
    options = [f"data.root={looks}", f"paths.cache_dir={tmp_path / 'cache'}", "backbone.weights=nowhere.pth"]
    with pytest.raises(InputError, match=r"backbone\.weights=nowhere\.pth"):
        train(compose(*TINY[3:], "data=stl_fashion", *options))
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("without_pictures")
def test_a_directory_that_holds_a_run_is_not_overwritten(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="holds a run already; continue it with ckpt_path=auto"):
        train(compose(*TINY, "seed=1"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


@pytest.mark.usefixtures("without_pictures")
def test_a_run_with_other_options_is_not_continued_and_stays_as_it_was(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for other, says in (
        ("loss.margin=0.5", "it was trained with model.loss.margin=0.2, this run has 0.5"),
        ("data.salt=other", "it was trained with data.salt='0', this run has 'other'"),
    ):
        with pytest.raises(InputError, match=says):
            train(compose(*TINY, other, "ckpt_path=auto"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


@pytest.mark.usefixtures("without_pictures")
def test_a_run_goes_on_from_another_store_but_not_with_fewer_epochs(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY, "trainer.max_epochs=2"))
    (tmp_path / "run" / "results.json").unlink()
    with pytest.raises(InputError, match=r"trainer\.max_epochs=1: .*last\.ckpt has finished epoch 1.*give more epochs"):
        train(compose(*TINY, "trainer.max_epochs=1", "ckpt_path=auto"))
    train(compose(*TINY, "trainer.max_epochs=3", "data.store=none", "ckpt_path=auto"))
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.usefixtures("without_pictures")
def test_auto_without_anything_to_continue_starts_anew(
    compose: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(compose(*TINY, "ckpt_path=auto"))
    assert "starting a new one" in caplog.text
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data=stl_fashion", "data.root=nowhere"], "data.root=nowhere: fashion-cat.json is not there"),
        (["hydra.run.dir=file/run"], "file/run: Not a directory; choose another place with hydra.run.dir=DIR"),
        (["+experiment=hybird"], "no experiment=hybird; did you mean 'hybrid'"),
    ],
)
def test_an_expected_error_is_one_line_and_code_1(tmp_path: Path, cache: Path, overrides: list[str], says: str) -> None:
    (tmp_path / "file").write_text("")
    options = [option for option in overrides if option.startswith("data=")]
    plain = [option for option in overrides if option not in options]
    run = subprocess.run(
        [sys.executable, "-m", "ctl_lightning.train", f"paths.cache_dir={cache}", "trainer=cpu", *options, *plain],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    assert run.stderr.startswith("train: ")
    assert says in run.stderr


@pytest.mark.parametrize(
    ("override", "says"), [("ckpt_path=no.ckpt", "no.ckpt: no such file"), ("seed=-1", "seed=-1: must")]
)
def test_wrong_values_stop_before_training(compose: Compose, override: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        train(compose(*TINY, override))


@pytest.mark.long
def test_a_diverging_run_stops_with_one_line(tmp_path: Path, cache: Path) -> None:
    run = command(tmp_path, "model.learning_rate=1e30", "trainer.log_every_n_steps=1", cache=cache)
    assert run.returncode == 1
    assert "the loss or a weight is not finite" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.long
def test_a_multirun_trains_every_job(tmp_path: Path, cache: Path) -> None:
    run = command(tmp_path, "+experiment=global,local", "seed=1", cache=cache, multirun=True)
    assert run.returncode == 0, run.stderr
    found = [results(path.parent) for path in tmp_path.glob("runs/sweeps/*/*/results.json")]
    assert sorted((one["method"], one["seed"]) for one in found) == [("global", 1), ("local", 1)]


@pytest.mark.long
def test_hydra_full_error_shows_the_traceback(tmp_path: Path, cache: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ctl_lightning.train", "seed=-1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HYDRA_FULL_ERROR": "1"},
    )
    assert "Traceback" in run.stderr
