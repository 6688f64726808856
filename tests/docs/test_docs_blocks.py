"""Every block of bash and Python in README and docs/ says what works: all compose or compile; test_docs_run runs those that can be run."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import hydra
import pytest
from doc_blocks import CODE, FOLLOWED, OTHERS, PAGES, Block, blocks, programs, prose
from factories import REPOSITORY
from omegaconf import DictConfig

from ctl_lightning.runtime.config import check_names, check_values, config_dir
from ctl_lightning.runtime.words import spelled_out

BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language == "bash" and block.page not in FOLLOWED]
PYTHON = [block for block in BLOCKS if block.language == "python" and block.page not in FOLLOWED]
HEADERS = [
    line[line.index("ctl_lightning.") + len("ctl_lightning.") :]
    for path in sorted((REPOSITORY / "conf").rglob("*.yaml"))
    for line in path.read_text().split("\n\n")[0].splitlines()
    if "python -m ctl_lightning." in line
]
COMMANDS = sorted(
    {*map(tuple, programs("\n".join(f"-m ctl_lightning.{line}" for line in HEADERS)))}
    | {tuple(words) for block in SHELL for words in programs(block.text)}
)


def test_there_are_commands() -> None:
    assert len(HEADERS) >= 20
    assert len(COMMANDS) >= 100


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_composes_and_has_only_known_options(words: tuple[str, ...]) -> None:
    program, *given = words
    overrides = [word for word in given if word not in ("-m", "--cfg", "job")]
    if "-m" in given:  # composed job by job: the first
        overrides = [override.split(",")[0] for override in overrides if "(" not in override]
    if program not in ("check_splits", "dashboard", "sweep_table"):
        overrides = ["paths.run_dir=run", *overrides]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose(program, spelled_out(overrides, program))
    assert isinstance(config, DictConfig)
    check_values(check_names(program, config))


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_imports_names_that_exist(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            assert all(importlib.util.find_spec(alias.name) for alias in node.names)


def test_every_block_has_its_language_and_only_code_a_reason() -> None:
    for block in BLOCKS:
        assert block.language in (*CODE, *OTHERS), block
        assert block.language in CODE or block.reason is None, block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks(page: Path) -> None:
    assert not re.findall(r"python -m ctl_lightning\.[a-z_]+ \S.*", prose(page))
    assert not re.findall(r"^(?: {4}|\t)(?:python|make|pip|curl|docker) .*", prose(page), re.MULTILINE)


def test_a_reason_stands_above_a_block() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert text.count("<!-- not run: ") == sum(block.reason is not None for block in BLOCKS)


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    named = set(
        re.findall(r"\bmake ([a-z-]+)", "".join(page.read_text() for page in PAGES if page.name == "README.md"))
    )
    assert "train" in named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_blocks_are_counted() -> None:
    code = [block for block in BLOCKS if block.language in CODE]
    followed = sum(block.page in FOLLOWED for block in code)
    not_run = sum(block.reason is not None for block in code)
    run = len(code) - followed - not_run
    print(f"{run} blocks are run, {followed} are followed by another test, {not_run} are not run")
    assert run > 30


def test_no_placeholder_is_left() -> None:
    assert not re.search("@[A-Z]+@", "".join(page.read_text() for page in PAGES))
