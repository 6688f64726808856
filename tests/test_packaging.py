"""conf/ is found however the package is installed and wherever it is run."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from factories import REPOSITORY

CONFIGS = {path.relative_to(REPOSITORY / "conf").as_posix() for path in (REPOSITORY / "conf").rglob("*.yaml")}


def run(*command: str, cwd: Path, **environment: str) -> str:
    found = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY), cwd=folder
    )
    (built,) = folder.glob("*.whl")
    return built


def test_editable_install_as_module_and_as_console_script(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "ctl-train"
    for command in ([sys.executable, "-m", "ctl_lightning.train"], [str(script)]):
        assert "loyalty: 0.95" in run(*command, "--cfg", "job", cwd=tmp_path)


def test_the_wheel_has_every_config_and_nothing_but_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {
        name.removeprefix("ctl_lightning/conf/") for name in names if name.startswith("ctl_lightning/conf/")
    } == CONFIGS
    assert {name.split("/")[0] for name in names} == {
        *("ctl_lightning", "ctl_lightning-0.1.0.dist-info"),
        "hydra_plugins",  # where Hydra looks for our sweeper
    }


@pytest.mark.long
def test_an_installed_wheel_as_module_and_as_console_script(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
        cwd=tmp_path,
    )
    path = {"PYTHONPATH": str(site)}
    where = run(
        sys.executable, "-c", "import ctl_lightning.runtime.config as c; print(c.config_dir())", cwd=tmp_path, **path
    )
    assert Path(where.strip()) == site / "ctl_lightning" / "conf"
    assert "loyalty: 0.95" in run(sys.executable, "-m", "ctl_lightning.train", "--cfg", "job", cwd=tmp_path, **path)
    assert "loyalty: 0.95" in run(sys.executable, str(site / "bin" / "ctl-train"), "--cfg", "job", cwd=tmp_path, **path)


def test_every_dependency_is_pinned_in_the_constraints_and_none_names_an_index() -> None:
    lines = [
        line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=]", one)[0]).lower() for one in wanted} - {"ctl-lightning"}
    assert names <= pinned


def test_every_bound_has_its_reason_beside_it() -> None:
    for line in (REPOSITORY / "pyproject.toml").read_text().splitlines():
        if re.match(r'\s+"[a-z].*[<>=]=', line):
            assert "# " in line, line


def test_make_help_lists_every_target(tmp_path: Path) -> None:
    printed = run("make", "help", cwd=REPOSITORY)
    for target in ("help", "install", "train", "test", "test-all", "lint", "clean"):
        assert re.search(rf"make {target}\s", printed), target
