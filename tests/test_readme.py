"""Every command in README works: each composes, and those that differ in kind are run whole in other tests."""

import re
import shlex
from typing import Any

import hydra
import pytest
from factories import REPOSITORY
from omegaconf import DictConfig

from ctl_lightning.runtime.config import check_names, check_values, config_dir
from ctl_lightning.runtime.words import spelled_out

README = (REPOSITORY / "README.md").read_text()
DOCS = "".join(
    path.read_text()
    for path in sorted((REPOSITORY / "docs").glob("*.md"))
    if path.name != "add_a_method.md"  # of a method that is not here; test_add_a_method follows it
)
HEADERS = [
    line[line.index("python -m ctl_lightning.") :]
    for path in sorted((REPOSITORY / "conf").rglob("*.yaml"))
    for line in path.read_text().split("\n\n")[0].splitlines()
    if "python -m ctl_lightning." in line
]
COMMANDS = re.findall(r"`(python -m ctl_lightning\.[^`]*)`", README)
SEQUENCES = re.findall(r"^    (python -m ctl_lightning\.\S+ .*)$", README, re.MULTILINE)
MEASURED = [
    found.replace("\\\n", "")
    for found in re.findall(r"^(?:taskset -c 1 )?(python -m ctl_lightning\.(?:.*\\\n)*.*)$", DOCS, re.MULTILINE)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 10
    assert len(HEADERS) >= 20
    assert len(MEASURED) >= 60
    assert len(SEQUENCES) == 5


@pytest.mark.parametrize("command", sorted({*COMMANDS, *HEADERS, *MEASURED, *SEQUENCES}))
def test_every_command_composes_and_has_only_known_options(command: str) -> None:
    program = command.split()[2].removeprefix("ctl_lightning.")
    words = shlex.split(command)[3:]
    multirun = "-m" in words
    overrides = [word for word in words if word not in ("-m", "--cfg", "job")]
    if multirun:  # composed job by job: the first
        overrides = [override.split(",")[0] for override in overrides if "(" not in override]
    if program not in ("check_splits", "sweep_table", "dashboard"):
        overrides = ["paths.run_dir=run", *overrides]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose(program, spelled_out(overrides, program))
    assert isinstance(config, DictConfig)
    check_values(check_names(program, config))


def test_the_lines_of_python_compile_and_name_what_exists() -> None:
    (block,) = re.findall(r"^    from pathlib(?:.*\n    .*)*", README, re.MULTILINE)
    lines = [line[4:] for line in block.splitlines()]
    compile("\n".join(lines), "README", "exec")
    names: dict[str, Any] = {}
    exec("\n".join(line for line in lines if "import" in line), names)
    for method in set(re.findall(r"(?:compatibility\.|; )(\w+)\(", block)):
        assert callable(getattr(names["Compatibility"], method)), method


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"train", "test", "lint", "install"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_no_placeholder_is_left() -> None:
    assert not re.search("@[A-Z]+@", README + DOCS)
