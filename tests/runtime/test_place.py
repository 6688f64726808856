import subprocess
import sys
import time
from pathlib import Path

import hydra
import pytest
from factories import PROGRAMS
from omegaconf import OmegaConf

from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.locks import alone
from ctl_lightning.runtime.place import LOCK, OwnPlace

NEEDED = {
    "train": ["+experiment=hybrid"],
    "evaluate": ["ckpt_path=a"],
    "catalogue": ["ckpt_path=a", "catalogue=b"],
    "recommend": ["ckpt_path=a", "catalogue=b", "scene=c"],
    "rerank": ["ckpt_path=a", "scene=b", "category=c", "candidates=d"],
    "demo": ["ckpt_path=a", "catalogue=b"],
    "serve": ["ckpt_path=a", "catalogue=b"],
    "export": ["ckpt_path=a", "output=b"],
    "publish": ["ckpt_path=a", "output=b"],
    "prepare": [],
    "benchmark": [],
    "paper": [],
}
"""Programs that write into a run directory, with what they need."""

DRIVER = """
import importlib, os, sys, time
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
from ctl_lightning.runtime import program
import hydra

name = sys.argv.pop(1)
def work(config):
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / f"who-{os.getpid()}").touch()
    while not Path("go").exists():
        time.sleep(0.02)
work.__module__ = f"ctl_lightning.{name}"  # of __main__, the real program would be run
program.check_names, program.check_values, program.settle_pace = lambda *_: {}, lambda *_: None, lambda: None
program.program(name)(work)()
"""
"""A program whose work is to be there: what is tested comes before the work, and importing torch twenty times takes minutes."""


def start(name: str, folder: Path, *words: str) -> list["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", DRIVER, name, *NEEDED[name], *words]
    return [
        subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(20)
    ]


def test_every_program_that_writes_is_tested_here() -> None:
    assert {*NEEDED} == {*PROGRAMS} - {
        "sweep_table",
        "check_splits",
        "dashboard",
    }  # these three write nothing into their run directory


@pytest.mark.parametrize("name", [name for name in NEEDED if name != "paper"])
def test_default_places_of_one_second_differ(name: str) -> None:
    found: set[str] = set()
    for _ in range(3):
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = hydra.compose(name, return_hydra_config=True)
        OmegaConf.set_readonly(config.hydra, False)
        config.hydra.runtime.choices = {"data": "synthetic"}
        found |= {config.hydra.run.dir, config.hydra.sweep.dir}
    assert len(found) == 6
    assert all(place.startswith("runs/") for place in found)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NEEDED if name != "paper"])
def test_twenty_at_once_have_a_place_each(name: str, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    for process in start(name, tmp_path):
        assert process.wait(120) == 0, process.communicate()
    assert sorted(len(list(path.parent.glob("who-*"))) for path in tmp_path.rglob("who-*")) == [1] * 20


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [name for name in NEEDED if name != "train"]
)  # `train` locks when it works: test_train.py
def test_of_twenty_at_one_place_one_works_and_the_others_are_refused(name: str, tmp_path: Path) -> None:
    processes = start(name, tmp_path, "hydra.run.dir=place")
    while sum(process.poll() is None for process in processes) > 1:
        time.sleep(0.05)
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0] + [1] * 19
    refused = f"{name}: place: another process is at work there; wait for it, or choose another hydra.run.dir\n"
    assert sorted(said) == ["", *[refused] * 19]
    assert len(list((tmp_path / "place").glob("who-*"))) == 1


def test_a_place_where_another_works_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = OmegaConf.create({"hydra": {"run": {"dir": str(tmp_path)}, "job": {"name": "train"}}})
    with alone(tmp_path / LOCK, ""):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit, match="1"):
            OwnPlace(held=False).on_run_start(config)
        assert sorted(tmp_path.rglob("*")) == before
    assert "another process is at work there" in capsys.readouterr().err
    OwnPlace(held=False).on_run_start(config)
    with alone(tmp_path / LOCK, ""):  # `train` takes it itself
        pass
