"""Every command in README works: each composes, and those that differ in kind are run whole in other tests."""

import re
import shlex
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from ctl_lightning.conf import _check_config, config_dir

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
DOCS = "".join(path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md")))
HEADERS = [
    line.removeprefix("#").strip()
    for path in sorted((REPOSITORY / "conf").rglob("*.yaml"))
    for line in path.read_text().split("\n\n")[0].splitlines()
    if "python -m ctl_lightning." in line
]
COMMANDS = re.findall(r"`(python -m ctl_lightning\.[^`]*)`", README)
MEASURED = [
    found.replace("\\\n", "")
    for found in re.findall(r"^    (python -m ctl_lightning\.(?:.*\\\n)*.*)$", DOCS, re.MULTILINE)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 10
    assert len(HEADERS) >= 20
    assert len(MEASURED) == 9


@pytest.mark.parametrize("command", sorted({*COMMANDS, *HEADERS, *MEASURED}))
def test_every_command_composes_and_has_only_known_options(command: str) -> None:
    program = command.split()[2].removeprefix("ctl_lightning.")
    words = shlex.split(command)[3:]
    multirun = "-m" in words
    overrides = [word for word in words if word not in ("-m", "--cfg", "job")]
    for first in ([override.split(",")[0] for override in overrides], overrides):
        if first is overrides and multirun:
            continue  # composed job by job, as above
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = hydra.compose(program, ["paths.run_dir=run", *first])
        assert isinstance(config, DictConfig)
        _check_config(program, config)


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"train", "test", "lint", "install"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_no_placeholder_is_left() -> None:
    assert not re.search("@[A-Z]+@", README + DOCS)
