"""The container files, which cannot be built here: they are linted, and what they run is what the docs and programs say."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import hydra
import pytest
import yaml
from factories import REPOSITORY

from ctl_lightning.runtime.config import check_names, check_values, config_dir
from ctl_lightning.runtime.words import spelled_out

FOLDER = REPOSITORY / "container"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
RECIPE = (FOLDER / "train.def").read_text()
DOCS = (REPOSITORY / "docs" / "containers.md").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())

STEPS = [
    (name, rest)
    for line in re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    for name, _, rest in (line.partition(" "),)
    if name
]
"""Instructions of the Dockerfile: name and the rest of the line."""


def last(name: str) -> str:
    return [rest for given, rest in STEPS if given == name][-1]


COPIED = {word for name, rest in STEPS if name == "COPY" and "--from" not in rest for word in shlex.split(rest)[:-1]}
"""What the image of the service gets of the repository."""

PROBE: list[str] = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])


def section(name: str) -> list[str]:
    """Lines of a section of the Apptainer recipe."""
    found = re.search(rf"^%{name}\n((?:    .*\n)+)", RECIPE, re.MULTILINE)
    assert found is not None, name
    return [line.strip() for line in found[1].splitlines()]


def installs(text: str) -> list[str]:
    """What `pip install --constraint constraints.txt` is given: the words that are no options."""
    lines = re.findall(r"-m pip install ([^`\n]*--constraint constraints\.txt [^`\n]*)", text)
    return [word for line in lines for word in shlex.split(line) if word.startswith(".[")]


def commands() -> list[list[str]]:
    """The programs that the container files and their docs start, as words after `python -m`."""
    found = [json.loads(last("CMD")), *(one["command"] for one in COMPOSE["services"].values() if "command" in one)]
    found += [shlex.split(line) for line in re.findall(r"ctl_lightning (python -m ctl_lightning\..*)", DOCS)]
    trained = re.findall(r"apptainer run .*train\.sif (.*)", DOCS)
    found += [["python", "-m", "ctl_lightning.train", *shlex.split(words)] for words in trained]
    assert all(words[:2] == ["python", "-m"] for words in found)
    return [words[2:] for words in found]


def test_hadolint_finds_nothing() -> None:
    # It lies beside Python, which `make` calls without its folder in PATH.
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    found = subprocess.run([hadolint, str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_only_known_options(words: list[str]) -> None:
    program = words[0].removeprefix("ctl_lightning.")
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose(program, spelled_out(["paths.run_dir=run", *words[1:]], program))
    check_values(check_names(program, config))


def test_installs_are_those_of_the_docs_and_of_make() -> None:
    (service,) = installs(DOCKERFILE)
    assert service in installs(DOCS)
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(service.removeprefix(".[").removesuffix("]").split(",")) <= extras.keys()
    makefile = (REPOSITORY / "Makefile").read_text()
    made = re.search(r"\$\(BIN\)/(python -m pip install .*)", makefile)
    assert made is not None
    (ours,) = (line.removeprefix(".venv/bin/") for line in section("post") if "pip install" in line)
    assert ours.replace(" --no-cache-dir", "") == made[1]  # a cache would stay in the image


def test_what_is_copied_exists_and_is_let_through() -> None:
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == COPIED
    assert {line.split()[0] for line in section("files")} == COPIED
    assert all((REPOSITORY / path).exists() for path in COPIED)


def test_what_is_copied_is_enough_to_build_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in COPIED:
        (shutil.copytree if (REPOSITORY / path).is_dir() else shutil.copy)(REPOSITORY / path, source / path)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {"ctl_lightning/conf/train.yaml", "ctl_lightning/train.py"} <= {*archive.namelist()}


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_a_probe_says_whether_the_service_answers(status: int, code: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    asked: list[str] = []
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for probe in (PROBE, COMPOSE["services"]["service"]["healthcheck"]["test"][1:]):
            words = [word.replace(":8000/", f":{server.server_port}/") for word in probe]
            assert subprocess.run([sys.executable, *words[1:]], capture_output=True, check=False).returncode == code
        server.shutdown()
    assert asked == ["/healthz", "/readyz"]


def test_the_service_is_no_root_and_is_stopped_by_sigterm() -> None:
    user = last("USER")
    assert user.isdecimal()
    assert int(user) > 0
    assert f"--uid {user} " in DOCKERFILE
    assert STEPS.index(("USER", user)) > max(place for place, (name, _) in enumerate(STEPS) if name == "RUN")
    assert last("STOPSIGNAL") == "SIGTERM"


def test_compose_starts_a_service_when_its_database_is_there() -> None:
    services = COMPOSE["services"]
    assert services.keys() == {"service", "catalogue", "database"}
    assert services["database"]["image"].startswith("pgvector/pgvector:pg")
    assert "pg_isready" in services["database"]["healthcheck"]["test"]
    for name in ("service", "catalogue"):
        one = services[name]
        assert one["depends_on"] == {"database": {"condition": "service_healthy"}}
        assert (FOLDER / one["build"]["context"]).resolve() == REPOSITORY
        assert (REPOSITORY / one["build"]["dockerfile"]) == FOLDER / "Dockerfile"
    assert services["service"]["healthcheck"]["test"][0] == "CMD"
    assert all(volume.endswith(":ro") for volume in services["service"]["volumes"])
    (port,) = services["service"]["ports"]
    assert port.startswith("127.0.0.1:")


def test_no_secret_has_a_default() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    for name in ("POSTGRES_PASSWORD", "PGPASSWORD", "CTL_API_KEY"):
        given = re.findall(rf"{name}: (.*)", text)
        assert given, name
        assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", one) for one in given), name
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    (exported,) = re.findall(r"^export (.*)", DOCS, re.MULTILINE)
    assert asked == {word.partition("=")[0] for word in exported.split()}


def test_the_recipe_has_a_base_and_its_sections() -> None:
    header = dict(
        line.split(": ", 1) for line in RECIPE.partition("%")[0].splitlines() if re.match(r"[A-Z][a-z]+: ", line)
    )
    assert header == {"Bootstrap": "docker", "From": "python:3.11"}
    assert {*re.findall(r"^%(\w+)$", RECIPE, re.MULTILINE)} == {"files", "post", "environment", "runscript", "test"}
    assert section("runscript") == ['exec python -m ctl_lightning.train "$@"']
    assert all(line.split()[1] == f"/opt/ctl_lightning/{line.split()[0]}" for line in section("files"))
    for name in ("post", "runscript", "test"):
        subprocess.run(["sh", "-n"], input="\n".join(section(name)), text=True, check=True)
