"""The reference in docs/ has every option of conf/, with its default and its comment."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories import PROGRAMS, REPOSITORY
from reference import GROUPS, header, options, write

import ctl_lightning

CONF = REPOSITORY / "conf"
NAV = (REPOSITORY / "mkdocs.yml").read_text()
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "reference"
    write(CONF, folder)
    return folder


def page_of(file: Path, pages: Path) -> str:
    """The text of the page that a config file is in, without the signs that keep Markdown from reading it."""
    name = f"{file.stem}.md" if len(file.parts) == 1 else f"group_{file.parts[0]}.md"
    return re.sub(r"\\(.)", r"\1", (pages / name).read_text())


def leaves(config: dict[str, Any]) -> Iterator[str]:
    """Names of the options that hold no others, as far as they lie in the file."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from (f"{key}.{inner}" for inner in leaves(value))
        elif key not in ("defaults", "_target_"):
            yield key


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_option_and_every_comment_of_a_config_file_is_in_its_page(file: Path, pages: Path) -> None:
    text, page = (CONF / file).read_text(), page_of(file, pages)
    for name in leaves(yaml.safe_load(text) or {}):
        last = name.split(".")[-1]
        block = re.search(rf"^\s*(?:{re.escape(last)}: )?.*\{{.*\b{re.escape(last)}\b", text, re.MULTILINE)
        assert f"{last}`" in page or block, name  # a mapping in one line is one default
    for line in text.splitlines():
        words = line.split(" # ", 1)
        if len(words) == 2 and not line.lstrip().startswith(("#", "- override")):
            assert words[1] in page, line
    for command in re.findall(r"^#   (.*)", text, re.MULTILINE):
        assert f"\n{command}\n" in page


def test_options_have_the_names_that_the_command_line_takes(pages: Path) -> None:
    assert "`catalogue.dir` = `???`  \n  what `catalogue` made" in (pages / "serve.md").read_text()
    assert "`model.dim` = `128`  \n  of the style space; the paper's" in (pages / "group_model.md").read_text()
    losses = (pages / "group_loss.md").read_text()
    assert "`loss.temperature` = `0.1`" in losses  # of a file that says its options' whole names
    assert "`data.negatives` = `in_batch`" in losses
    assert "`hydra.launcher.timeout_min` = `240`" in (pages / "group_hydra.md").read_text()


def test_an_option_that_is_added_is_shown(tmp_path: Path) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    with (tmp_path / "conf" / "train.yaml").open("a") as file:
        file.write("\nmoon: full # new, half_full, ... [none]: `phase` of the moon\n")
    write(tmp_path / "conf", tmp_path / "reference")
    assert (
        "- `moon` = `full`  \n  new, half\\_full, ... \\[none\\]: `phase` of the moon\n"
        in (tmp_path / "reference" / "train.md").read_text()
    )


def test_a_file_is_taken_apart() -> None:
    text = "# What it is.\n#   python -m ctl_lightning.train\n# More.\n\n" + "\n".join(
        [
            "defaults:",
            "  - _self_",
            "  - data: a # which",
            "  - override x: y",
            "one:",
            '  two: "a # b" # c',
            "  # alone",
        ]
    )
    assert header(text) == (["What it is.", "More."], ["python -m ctl_lightning.train"])
    assert [tuple(option) for option in options(text, "")] == [
        ("data", "a", "which", True),
        ("one", "", "", False),
        ("one.two", '"a # b"', "c", False),
        ("", "", "alone", False),
    ]
    assert [option.name for option in options("# .\n\na: 1", "model")] == ["model.a"]


def test_every_program_and_every_group_has_its_page_and_its_place(pages: Path) -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {*GROUPS}
    for page in pages.glob("*.md"):
        assert f"reference/{page.name}\n" in NAV, page.name
    assert {f"{program}.md" for program in PROGRAMS} <= {page.name for page in pages.glob("*.md")}


def test_the_public_names_are_those_of_the_package(pages: Path) -> None:
    assert re.findall(r"^::: ctl_lightning\.(\w+)$", (pages / "api.md").read_text(), re.MULTILINE) == [
        *ctl_lightning.__all__
    ]
