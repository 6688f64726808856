"""conf/ and the version are found however the package is installed, the sdist is the repository, and versions agree."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from factories import REPOSITORY

import ctl_lightning
from ctl_lightning.runtime import environment

CONFIGS = {path.relative_to(REPOSITORY / "conf").as_posix() for path in (REPOSITORY / "conf").rglob("*.yaml")}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def run(*command: str, cwd: Path, **environment: str) -> str:
    found = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY), cwd=folder)
    return folder


@pytest.fixture
def wheel(built: Path) -> Path:
    return built / f"ctl_lightning-{PROJECT['version']}-py3-none-any.whl"


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
        *("ctl_lightning", f"ctl_lightning-{PROJECT['version']}.dist-info"),
        "hydra_plugins",  # where Hydra looks for our sweeper
    }


def test_a_wheel_knows_its_version(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import ctl_lightning as c; print(c.__file__, c.__version__)"
    said = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert said == f"{tmp_path / 'ctl_lightning' / '__init__.py'} {PROJECT['version']}\n"


def test_the_version_of_this_checkout_is_the_installed_one() -> None:
    try:
        where = json.loads(distribution("ctl_lightning").read_text("direct_url.json") or "{}").get("url")
    except PackageNotFoundError:
        where = None
    if where != REPOSITORY.as_uri():
        pytest.skip(f"what is installed is not this checkout, but {where}")
    assert ctl_lightning.__version__ == PROJECT["version"], "pip install --no-deps -e . installs it again"


def test_a_folder_without_an_installation_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "version", version)
    assert environment.own_version() == "unknown"


def test_the_sdist_is_all_that_git_does_not_ignore(built: Path) -> None:
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if said.returncode:
        pytest.skip("this is no checkout")
    top = f"ctl_lightning-{PROJECT['version']}"
    with tarfile.open(built / f"{top}.tar.gz") as archive:
        names = {name.removeprefix(f"{top}/") for name in archive.getnames()}
    assert names - {"PKG-INFO"} == {name for name in said.stdout.splitlines() if (REPOSITORY / name).is_file()}


def test_the_changelog_and_the_citation_have_the_version() -> None:
    release, _, develops = PROJECT["version"].partition(".dev")
    (heading,) = re.findall(
        rf"^## \[{re.escape(release)}\] - (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert heading == ("unreleased" if develops else str(citation["date-released"]))


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
    wanted = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=]", one)[0]).lower() for one in wanted} - {"ctl-lightning"}
    assert names <= pinned


def test_every_bound_has_its_reason_beside_it() -> None:
    for line in (REPOSITORY / "pyproject.toml").read_text().splitlines():
        if re.match(r'\s+"[a-z].*[<>=]=', line):
            assert "# " in line, line


def test_make_help_lists_every_target(tmp_path: Path) -> None:
    printed = run("make", "help", cwd=REPOSITORY)
    named = re.findall(r"`make ([a-z-]+)", (REPOSITORY / "docs" / "contributing.md").read_text())
    assert {"lint", "test", "test-long", "test-all", "matrix"} <= {*named}
    for target in ("help", "install", "train", "clean", *named):
        assert re.search(rf"make {target}\s", printed), target
