"""Many runs of one command: what is swept, a search that goes on, and the table of what was found."""

import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from factories import TINY
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from scipy import stats

from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.reports.sweep import mean_over_seeds, read_sweep
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError, InUseError
from ctl_lightning.sweep_table import sweep_table
from ctl_lightning.train import main
from ctl_lightning.training.run_directory import noted_failure
from hydra_plugins.ctl_lightning_optuna import JOURNAL, OptunaSweeper, _distribution, _in_a_row


def job(folder: Path, number: int, options: dict[str, object], auc: float | None = None, error: str = "") -> None:
    """A job's run directory, as far as the table looks at it."""
    run = folder / f"{number}_hybrid"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra/overrides.yaml").write_text("".join(f"- {name}={value}\n" for name, value in options.items()))
    if error:
        (run / "error.txt").write_text(error + "\n")
    if auc is not None:
        (run / "metrics.csv").write_text(f"step,val/auc\n1,{auc - 0.1}\n2,{auc}\n3,{auc - 0.05}\n")
        metrics = {name: {"value": value} for name, value in {"auc": auc - 0.2, "lift": 0.1, "hit@10": None}.items()}
        (run / "results.json").write_text(json.dumps({"test": {"all": metrics}}))


def table(folder: Path, *overrides: str) -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        sweep_table(hydra.compose("sweep_table", [f"folder={folder}", *overrides]))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    for number, (margin, seed, auc) in enumerate(
        [(0.1, 0, 0.6), (0.1, 1, 0.7), (0.2, 0, 0.9), (0.2, 1, 0.8), (0.4, 0, 0.95)]
    ):
        job(folder, number, {"+experiment": "hybrid", "loss.margin": margin, "seed": seed}, auc)
    job(folder, 5, {"+experiment": "hybrid", "loss.margin": 0.4, "seed": 1}, error="data.root=x: nothing is there")
    job(folder, 10, {"+experiment": "hybrid", "loss.margin": 0.30000001, "seed": 0})
    return folder


def test_settings_are_ordered_by_validation_and_averaged_over_seeds(sweep: Path) -> None:
    settings = read_sweep(sweep)
    names = ["loss.margin=0.4", "loss.margin=0.2", "loss.margin=0.1", "loss.margin=0.3"]
    assert [setting.name for setting in settings] == names
    found = settings[1].over_seeds("val/auc")
    low, high = stats.t.interval(0.95, 1, loc=0.85, scale=stats.sem([0.9, 0.8]))
    assert found == pytest.approx({"value": 0.85, "low": low, "high": high})
    assert settings[1].over_seeds("auc")["value"] == pytest.approx(0.65)
    assert settings[0].over_seeds("val/auc") == {"value": 0.95, "low": None, "high": None}  # one seed
    assert [len(setting.finished) for setting in settings] == [1, 2, 2, 0]
    assert settings[3].over_seeds("auc")["value"] is None


def test_settings_that_differ_in_the_fifth_digit_are_two(tmp_path: Path) -> None:
    for number, rate in enumerate(("0.00123451", "0.00123452", "0.1")):
        job(tmp_path, number, {"rate": rate}, 0.5 + number / 10)
    assert [setting.name for setting in read_sweep(tmp_path)] == ["rate=0.1", "rate=0.00123452", "rate=0.00123451"]


def test_the_interval_over_seeds_holds_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.6, 0.02, (500, 5))
    found = np.array([list(mean_over_seeds(values).values()) for values in draws.tolist()], float)
    held = (found[:, 1] <= 0.6) & (found[:, 2] >= 0.6)
    assert 0.92 <= np.mean(held) <= 0.98
    assert mean_over_seeds([]) == {"value": None, "low": None, "high": None}


def test_the_table_shows_all_jobs_and_fails_for_those_that_did(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        InputError, match=r"2 of 7 jobs have no results \(first: 5_hybrid: data\.root=x: nothing is there\)"
    ):
        table(sweep)
    printed = capsys.readouterr().out
    assert "5_hybrid (loss.margin=0.4): data.root=x: nothing is there" in printed
    assert "10_hybrid (loss.margin=0.3): not finished: no epoch is done" in printed
    assert "0.850 ± 0.635" in printed
    assert "1/2" in printed
    with (sweep / "sweep.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["setting"], row["seed"], row["why_not"]) for row in rows][:2] == [
        ("loss.margin=0.4", "0", ""),
        ("loss.margin=0.4", "1", "data.root=x: nothing is there"),
    ]
    assert float(rows[2]["val/auc_mean"]) == pytest.approx(0.85)
    assert [row["auc"] for row in rows if row["seed"] == "0"][1] == str(0.9 - 0.2)
    with Image.open(sweep / "sweep.png") as image:
        assert np.asarray(image.convert("RGB")).std() > 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["folder=nowhere"], "folder=nowhere: no jobs of a multirun"), (["metrics=[acu]"], "there is no 'acu'")],
)
def test_what_is_no_sweep_or_no_metric_is_an_error(sweep: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        table(sweep, *overrides)


def test_a_failure_is_noted_until_the_run_succeeds(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), noted_failure(tmp_path):
        _ = 1 / 0
    assert (tmp_path / "error.txt").read_text() == "division by zero\n"
    with noted_failure(tmp_path):
        pass
    assert not (tmp_path / "error.txt").exists()
    with pytest.raises(InUseError), noted_failure(tmp_path):
        raise InUseError("another process is at work there")
    assert not (tmp_path / "error.txt").exists()
    (tmp_path / "results.json").touch()  # another command tried to use the folder of a finished run
    with pytest.raises(InputError), noted_failure(tmp_path):
        raise InputError("holds a run already")
    assert not (tmp_path / "error.txt").exists()


def test_a_sweep_with_a_failing_job_runs_the_others_and_says_so(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RunReport, "draw", lambda *_: {})
    monkeypatch.chdir(tmp_path)
    words = ["sweep=grid", "loss.margin=0.2", "model.dim=16,-1,8", f"paths.cache_dir={cache}", "hydra.sweep.dir=sweep"]
    options = [word for word in TINY if not word.startswith("model.dim")]
    monkeypatch.setattr(sys, "argv", ["train", *words, *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "train: model: dim must be positive, not -1" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"1 of 3 jobs have no results \(first: 1_hybrid_seed0: model: dim must be"):
        table(tmp_path / "sweep")
    finished = {setting.name: len(setting.finished) for setting in read_sweep(tmp_path / "sweep")}
    assert finished == {"model.dim=16": 1, "model.dim=-1": 0, "model.dim=8": 1}


class Context:
    """As much of Hydra's as the sweeper asks for."""

    def __init__(self) -> None:
        self.config_loader: ConfigLoader | None = None


class Launcher:
    """Runs jobs in place; the k-th is killed."""

    def __init__(self, killed: int | None = None, failing: Sequence[int] = ()) -> None:
        self.killed, self.failing = killed, failing
        self.jobs: dict[int, dict[str, str]] = {}
        self.batches: list[int] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        found = []
        self.batches.append(len(jobs))
        for number, words in enumerate(jobs, start=initial_job_idx):
            if number == self.killed:
                raise KeyboardInterrupt
            options = dict(word.split("=") for word in words)
            self.jobs[number] = options
            one = JobReturn(status=JobStatus.FAILED if number in self.failing else JobStatus.COMPLETED)
            one.return_value = InputError("no") if number in self.failing else -self.loss(options)
            found.append(one)
        return found

    def loss(self, options: dict[str, str]) -> float:
        return abs(math.log10(float(options["rate"])) + 3) + abs(int(options["dim"]) - 64) / 64


def search(folder: Path, launcher: Launcher, trials: int, parallel: int = 1, **params: str) -> None:
    space = {"rate": "tag(log, interval(0.0001, 0.01))", "dim": "choice(32, 64, 128)"} | params
    sweeper = OptunaSweeper(trials, parallel, 0, DictConfig(space))
    sweeper._context = Context()  # type: ignore[assignment]
    sweeper._config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    sweeper._launcher = launcher  # type: ignore[assignment]
    sweeper.sweep(["seed=3"])


def test_a_search_finds_what_is_good_and_numbers_its_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Launcher()
    search(tmp_path, launcher, 30, 4)
    assert sorted(launcher.jobs) == list(range(30))
    assert launcher.batches == [4] * 7 + [2]
    assert all(options["seed"] == "3" for options in launcher.jobs.values())
    assert all(0.0001 <= float(options["rate"]) <= 0.01 for options in launcher.jobs.values())
    values = [-launcher.loss(launcher.jobs[number]) for number in range(30)]
    assert np.mean(values[20:]) > np.mean(values[:10]) + 0.1  # the first are drawn at random
    assert "best of 30 trials" in capsys.readouterr().out


def test_a_search_that_was_killed_goes_on_with_the_job_that_was_running(tmp_path: Path) -> None:
    first = Launcher(killed=3)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, first, 6, 2)
    assert sorted(first.jobs) == [0, 1, 2]  # 2 was in the batch that was killed, and is run again
    second = Launcher()
    search(tmp_path, second, 6, 2)
    assert sorted(second.jobs) == [2, 3, 4, 5]
    assert second.jobs[2] == first.jobs[2] | {"ckpt_path": "auto"}
    assert "ckpt_path" not in second.jobs[4]
    third = Launcher()
    search(tmp_path, third, 6, 2)
    assert not third.jobs
    with pytest.raises(InputError, match="searches another space"):
        search(tmp_path, third, 8, 2, margin="interval(0, 1)")
    assert (tmp_path / JOURNAL).exists()


def test_a_trial_that_fails_does_not_end_the_search_but_is_told_of(tmp_path: Path) -> None:
    launcher = Launcher(failing=[1])
    with pytest.raises(InputError, match=r"1 of 4 trials failed \(first: 1: no\)"):
        search(tmp_path, launcher, 4)
    assert sorted(launcher.jobs) == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"1 of 4 trials failed \(first: 1\)"):  # still
        search(tmp_path, Launcher(), 4)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("interval(0.1, 0.5)", "FloatDistribution(high=0.5, log=False, low=0.1, step=None)"),
        ("tag(log, interval(0.1, 0.5))", "FloatDistribution(high=0.5, log=True, low=0.1, step=None)"),
        ("int(interval(2, 9))", "IntDistribution(high=9, log=False, low=2, step=1)"),
        ("interval(0, 1)", "FloatDistribution(high=1.0, log=False, low=0.0, step=None)"),
        ("range(8, 33, 8)", "IntDistribution(high=32, log=False, low=8, step=8)"),
        ("choice(hybrid, local)", "CategoricalDistribution(choices=('hybrid', 'local'))"),
        ("64,128", "CategoricalDistribution(choices=('64', '128'))"),
        ("choice('a,b', c)", """CategoricalDistribution(choices=('a\\\\,b', 'c'))"""),
    ],
)
def test_what_is_searched_is_written_as_hydra_writes_it(word: str, expected: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"x={word}"])
    assert str(_distribution(override)) == expected


def test_trials_are_launched_in_groups_whose_numbers_follow() -> None:
    trials: list[Any] = [OmegaConf.create({"number": number}) for number in (7, 2, 3, 8, 5)]
    assert [[one.number for one in group] for group in _in_a_row(trials)] == [[2, 3], [5], [7, 8]]


@pytest.mark.parametrize("options", [{"trials": 0, "parallel": 1}, {"trials": 1, "parallel": 0}])
def test_a_search_of_nothing_is_an_error(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="give a whole number, 1 at least"):
        search(tmp_path, Launcher(), options["trials"], options["parallel"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (".hydra/overrides.yaml", b"- a: [", "overrides.yaml is not readable"),
        (".hydra/overrides.yaml", b"\xe9\0", "overrides.yaml is not readable"),
        ("metrics.csv", b"step;val/auc\n1;x\n", "not the metrics that `train` writes"),
        ("metrics.csv", b"\xe9", "not UTF-8 text"),
        ("results.json", b'{"test": {"all": []}}', "results.json is not readable"),
        ("results.json", b'{"test": {"all": {"auc": {"value": "x"}}}}', "results.json is not readable"),
    ],
)
def test_a_job_with_a_broken_file_says_so_and_the_others_keep_their_rows(
    sweep: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, says: str
) -> None:
    (sweep / "0_hybrid" / name).write_bytes(content)
    with pytest.raises(InputError, match=r"3 of 7 jobs have no results"):
        table(sweep)
    why = {one.folder.name: one.why_not for setting in read_sweep(sweep) for one in setting.jobs}
    assert says in (why["0_hybrid"] or "")
    assert why["1_hybrid"] is None
    assert "loss.margin=0.2" in capsys.readouterr().out
