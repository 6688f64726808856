"""`wandb sweep examples/wandb_sweep.yaml` and `wandb agent`, as far as they go without a server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from factories import REPOSITORY, TINY, fitting
from hydra.core.override_parser.overrides_parser import OverridesParser
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from ctl_lightning.models.checkpoint import MONITOR
from ctl_lightning.runtime.config import check_names, check_values, config_dir
from ctl_lightning.runtime.words import spelled_out

FILE = REPOSITORY / "examples" / "wandb_sweep.yaml"


def ends(parameter: dict[str, Any]) -> list[Any]:
    """The values of a parameter that a server can draw, or the ends of their range."""
    return parameter["values"] if "values" in parameter else [parameter["min"], parameter["max"]]


def commands() -> list[list[str]]:
    """What an agent runs, with each parameter at its ends in turn, by wandb's own functions."""
    sweep = load_sweep_config(str(FILE))
    assert sweep is not None
    parameters = sweep["parameters"]
    first = {name: ends(parameter)[0] for name, parameter in parameters.items()}
    found = []
    for name, parameter in parameters.items():
        for value in ends(parameter):
            drawn = {one: {"value": at} for one, at in (first | {name: value}).items()}
            words = create_sweep_command_args({"args": drawn}) | {
                "program": [sweep["program"]],
                "env": ["/usr/bin/env"],
            }
            parts = (words.get(part[2:-1], [part]) for part in create_sweep_command([*sweep["command"]]))
            found.append([word for part in parts for word in part])
    return found


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command[-4:]))
def test_each_command_of_an_agent_composes(command: list[str]) -> None:
    assert command[:4] == ["/usr/bin/env", "python", "-m", "ctl_lightning.train"]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("train", ["paths.run_dir=run", *spelled_out(command[4:], "train")])
    check_values(check_names("train", config))
    assert "wandb" in config.logger


def test_the_metric_is_what_chooses_the_best_epoch_and_the_parameters_are_those_of_our_own_search() -> None:
    sweep = yaml.safe_load(FILE.read_text())
    assert sweep["metric"] == {"name": MONITOR, "goal": "maximize"}
    ours = yaml.safe_load((config_dir() / "sweep" / "optuna.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert {*sweep["parameters"]} == {*ours}
    for name, parameter in sweep["parameters"].items():
        found: Any = OverridesParser.create().parse_override(f"{name}={ours[name]}").value()
        numbers = getattr(found, "list", None) or [found.start, found.end]
        assert [float(one) for one in numbers] == [float(one) for one in ends(parameter)]


@pytest.mark.long
def test_a_run_of_an_agent_belongs_to_the_sweep_under_the_id_that_the_server_has_drawn(tmp_path: Path) -> None:
    (tmp_path / "drawn.yaml").write_text("wandb_version: 1\nseed:\n  value: 3\n")
    agent = {"WANDB_SWEEP_ID": "monday", "WANDB_RUN_ID": "drawn123", "WANDB_SWEEP_PARAM_PATH": f"{tmp_path}/drawn.yaml"}
    words = fitting(["+experiment=popularity", *TINY, "logger=wandb", "logger.wandb.offline=true", "seed=3"])
    train = [sys.executable, "-m", "ctl_lightning.train", *words, "hydra.run.dir=run", "paths.cache_dir=cache"]
    said = subprocess.run(train, cwd=tmp_path, env=os.environ | agent, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "run/wandb_id.txt").read_text() == "drawn123\n"
    (run,) = (tmp_path / "run/wandb").glob("offline-run-*-drawn123")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [line.get("rec", line) for line in map(json.loads, lines)]
    (record,) = (one["run"] for one in records if "run" in one)
    assert (record["run_id"], record["sweep_id"]) == ("drawn123", "monday")
    assert record["display_name"] == "synthetic-popularity"
