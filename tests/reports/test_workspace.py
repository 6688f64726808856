"""The dashboard is filled: what its panels name is what a run of ours logs, and what a run logs has a panel or a reason."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from factories import TINY
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ctl_lightning.dashboard import dashboard
from ctl_lightning.models.checkpoint import MONITOR
from ctl_lightning.reports.sweep import read_sweep
from ctl_lightning.reports.workspace import specification, sweep_report, workspace
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.train import train

WITHOUT_PANEL = {
    r"_step|_runtime|_timestamp|trainer/global_step": "what the panels are drawn over",
    r"test/(all|seen|unseen|hubs|.*\|.*)/.*": "the numbers behind the table test/table, to sort and filter runs by",
}
"""Keys that a run logs without a panel of their own -> why."""


def keys_of(panel: dict[str, Any]) -> set[str]:
    """What a panel shows, read from its specification: names of metrics, media and tables, "config." before options."""
    config = panel["config"]
    match panel["viewType"]:
        case "Run History Line Plot" | "Bar Chart":
            return {*config["metrics"], *([config["metricRegex"]] if config.get("metricRegex") else [])}
        case "Media Browser":
            return {*config["mediaKeys"]}
        case "Parameter Importance":
            return {config["targetKey"]}
        case "Parallel Coordinates Plot":
            return {
                re.sub(r"^config:(\w+)\.value", r"config.\1", column["accessor"]).removeprefix("summary:")
                for column in config["columns"]
            }
        case "Vega2" | "Weave":
            return {*re.findall(r'"(?:name": "tableKey", "value|val|key)": "([\w/]+)"', json.dumps(config))}
    raise AssertionError(panel["viewType"])


def panels_of(specification: Any) -> list[dict[str, Any]]:
    """Every panel that is anywhere in a specification."""
    if isinstance(specification, list):
        return [panel for one in specification for panel in panels_of(one)]
    if not isinstance(specification, dict):
        return []
    own = [specification] if "viewType" in specification else []
    return own + [panel for one in specification.values() for panel in panels_of(one)]


def flat(options: Any, prefix: str) -> set[str]:
    if not isinstance(options, dict):
        return {prefix}
    return {key for name, value in options.items() for key in flat(value, f"{prefix}.{name}")}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> set[str]:
    """The keys of a run at Weights & Biases, which was offline: history, media, tables, summary, and config."""
    folder = tmp_path_factory.mktemp("offline")
    words = [*TINY, "logger=wandb", "logger.wandb.offline=true", f"paths.run_dir={folder}", f"paths.cache_dir={cache}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DATA_DIR", str(folder / "staging"))
        patch.setattr("ctl_lightning.training.loggers.is_multirun", lambda: False)
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            train(compose("train", words))
    (run,) = folder.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(run)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {
        *found["summary"],
        *(key for name, value in found["config"].items() for key in flat(value, f"config.{name}")),
    }


def is_logged(key: str, logged: set[str]) -> bool:
    """Whether a key is among those of a run; the regular expression of a panel, whether it finds one."""
    return any(re.fullmatch(key if "*" in key else re.escape(key), one) for one in logged)


def test_every_panel_is_filled(logged: set[str]) -> None:
    panels = panels_of(json.loads(specification(workspace("team", "looks", "A view"))))
    assert len(panels) == 49
    for panel in panels:
        keys = keys_of(panel)
        assert keys, panel
        assert {key for key in keys if not is_logged(key, logged)} == set(), panel["viewType"]


def test_what_a_run_logs_has_a_panel_or_a_reason(logged: set[str]) -> None:
    shown = {key for panel in panels_of(json.loads(specification(workspace("t", "p", "n")))) for key in keys_of(panel)}
    rest = {one for one in logged if not one.startswith("config.") and not any(is_logged(key, {one}) for key in shown)}
    assert {one for one in rest if not any(re.fullmatch(reason, one) for reason in WITHOUT_PANEL)} == set()
    for reason in WITHOUT_PANEL:
        assert any(re.fullmatch(reason, one) for one in rest), reason


def job(folder: Path, number: int, words: list[str], auc: float | None) -> None:
    """A job of a sweep, as far as its table reads it; None: it has failed."""
    where = folder / f"{number}_hybrid"
    (where / ".hydra").mkdir(parents=True)
    (where / ".hydra/overrides.yaml").write_text(json.dumps(words))
    if auc is None:
        (where / "error.txt").write_text("no memory | left")
        return
    (where / "metrics.csv").write_text(f"epoch,step,{MONITOR}\n0,1,{auc}\n")
    test = {name: {"value": auc, "low": None, "high": None} for name in ("auc", "lift")}
    (where / "results.json").write_text(json.dumps({"test": {"all": test}}))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "monday's"
    for number, (margin, seed, auc) in enumerate([(0.1, 0, 0.6), (0.1, 1, 0.62), (0.4, 0, 0.7), (0.4, 1, None)]):
        job(folder, number, ["+experiment=hybrid", f"loss.margin={margin}", "backbone=small", f"seed={seed}"], auc)
    job(folder, 4, ["+experiment=hybrid", "loss.margin=0.1", "backbone=timm", "seed=0"], 0.5)
    return folder


def test_a_report_has_the_table_of_the_sweep_and_panels_over_its_runs(sweep: Path, logged: set[str]) -> None:
    made = json.loads(specification(sweep_report("t", "p", "x", sweep, read_sweep(sweep), ["auc", "lift"])))
    table, failures = (block["content"] for block in made["spec"]["blocks"] if block["type"] == "markdown-block")
    assert table.splitlines() == [
        "| setting | seeds | validation auc | auc | lift |",
        "| --- | --- | --- | --- | --- |",
        "| backbone=small loss.margin=0.4 | 1/2 | 0.700 | 0.700 | 0.700 |",
        # 0.61 ± t(0.975, 1) 0.01: 12.706 * 0.01
        "| backbone=small loss.margin=0.1 | 2/2 | 0.610 ± 0.127 | 0.610 ± 0.127 | 0.610 ± 0.127 |",
        "| backbone=timm loss.margin=0.1 | 1/1 | 0.500 | 0.500 | 0.500 |",
    ]
    assert failures == "- 3_hybrid (backbone=small loss.margin=0.4): no memory | left"
    (grid,) = (block for block in made["spec"]["blocks"] if block["type"] == "panel-grid")
    (runs,) = grid["metadata"]["runSets"]
    assert "monday's" in json.dumps(runs["filters"])
    assert [one["name"] for one in runs["grouping"]] == ["displayName", "backbone.value.name", "loss.value.margin"]
    panels = panels_of(made)
    assert len({json.dumps(panel["layout"]) for panel in panels}) == len(panels) == 6
    for panel in panels:
        assert keys_of(panel)
        assert all(is_logged(key, logged) for key in keys_of(panel)), panel


def test_a_report_finds_the_runs_whose_options_name_a_group(sweep: Path) -> None:
    (sweep / "0_hybrid/config.yaml").write_text("logger: {wandb: {group: it's mine}}")
    (sweep / "1_hybrid/config.yaml").write_text("logger: {wandb: {group: null}}")
    (sweep / "2_hybrid/config.yaml").write_text("logger: {}")
    made = json.loads(specification(sweep_report("t", "p", "x", sweep, read_sweep(sweep), ["auc"])))
    (grid,) = (block for block in made["spec"]["blocks"] if block["type"] == "panel-grid")
    assert '"value": ["it\'s mine", "monday\'s"]' in json.dumps(grid["metadata"]["runSets"][0]["filters"])


def config_of(**options: Any) -> Any:
    return OmegaConf.merge(
        OmegaConf.load(config_dir() / "dashboard.yaml"), {"entity": "team", "project": "p"} | options
    )


def test_with_output_the_specification_is_a_file_and_nothing_is_sent(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctl_lightning.reports.workspace.saved", None)
    dashboard(config_of(output=str(tmp_path / "made/a.json")))
    dashboard(config_of(output=str(tmp_path / "made/b.json"), folder=str(sweep)))
    assert json.loads((tmp_path / "made/a.json").read_text())["displayName"] == "Complete the look"
    assert json.loads((tmp_path / "made/b.json").read_text())["displayName"] == "monday's"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "👗"}, "name=👗: Value error, Emojis"),
        ({"name": "n" * 129, "folder": "SWEEP"}, "name=nn"),
        ({"folder": "nowhere"}, "folder=nowhere: no jobs"),
        ({"folder": "SWEEP", "metrics": ["acu"]}, "metrics: there is no 'acu'"),
        ({"entity": 7}, "entity=7"),
        ({"entity": ""}, "entity= is empty; give entity=NAME"),
        ({"project": ""}, "project= is empty; give project=NAME"),
        ({"name": ""}, "name= is empty; give name=NAME, or leave it out"),
        ({"output": "SWEEP"}, "output=SWEEP: Is a directory; give another output=FILE"),
    ],
)
def test_what_cannot_be_made_is_one_line(sweep: Path, options: dict[str, Any], says: str) -> None:
    given = {name: str(sweep) if value == "SWEEP" else value for name, value in options.items()}
    with pytest.raises(InputError) as caught:
        dashboard(config_of(**given))
    assert str(caught.value).startswith(says.replace("SWEEP", str(sweep)))
    assert "\n" not in str(caught.value)


def run_dashboard(tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, "-m", "ctl_lightning.dashboard", "entity=team", "project=looks"],
        cwd=tmp_path,
        env=kept | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["dashboard", "sweep_table", "check_splits"])
def test_hydra_leaves_no_file_of_its_own(name: str) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        hydra = compose(name, return_hydra_config=True).hydra
    assert hydra.output_subdir is None
    assert {*hydra.job_logging.handlers} == {
        "console"
    }  # Python opens the file of any other, even if nothing is logged there
    assert hydra.job_logging.formatters.simple.format == "%(levelname)s %(message)s"


@pytest.mark.long
@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "k" * 40},
            "127.0.0.1:9: connect: connection refused",
        ),
        ({}, "No API key configured"),
        ({"WANDB_BASE_URL": "nonsense"}, "WANDB_BASE_URL: "),
    ],
)
def test_without_login_or_network_a_line_says_so(tmp_path: Path, environment: dict[str, str], says: str) -> None:
    found = run_dashboard(tmp_path, **environment)
    assert found.returncode == 1
    (line,) = found.stderr.strip().splitlines()
    assert says in line
    assert "wandb login" in line


class Server(BaseHTTPRequestHandler):
    """As much of a server of Weights & Biases as keeps views."""

    kept: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked: Any = json.loads(body) if self.path == "/graphql" else {"query": ""}
        if "upsertView" in asked["query"]:
            self.kept.append(asked["variables"])
        viewer = {"id": "1", "entity": "team", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        answer = json.dumps({"data": {"viewer": viewer, "upsertView": {"view": VIEW, "inserted": True}}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


VIEW = {"id": "VmlldzoxMg==", "name": "nw-abc-v"}


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server, and what it keeps."""
    kept: list[dict[str, Any]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Server,), {"kept": kept})) as own:
        threading.Thread(target=own.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{own.server_port}", kept
        own.shutdown()


@pytest.mark.long
def test_a_view_is_saved_at_the_server_that_the_environment_names(
    tmp_path: Path, server: tuple[str, list[dict[str, Any]]]
) -> None:
    address, kept = server
    found = run_dashboard(tmp_path, WANDB_BASE_URL=address, WANDB_API_KEY="k" * 40)
    assert found.returncode == 0, found.stderr
    (view,) = kept
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("team", "looks", "Complete the look")
    assert len(panels_of(json.loads(view["spec"]))) == 49
    assert found.stdout.splitlines()[-1] == f"{address}/team/looks?nw=abc"
