"""The blocks of code in README.md and docs/, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from factories import REPOSITORY

CODE = ("bash", "python")
"""Languages of blocks that are run, or have a reason above them why not."""

OTHERS = ("text", "json", "yaml", "csv", "bibtex")

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

FOLLOWED = {"add_a_method.md": "tests/test_add_a_method.py"}
"""Pages whose blocks another test follows, in a copy of the code."""

REASON = re.compile(r"<!-- not run: (.+) -->")


class Block(NamedTuple):
    """A fenced block."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None
    """Why it is not run; None: it is."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    """A line of a block of bash."""

    block: Block
    environment: dict[str, str]
    words: list[str]

    @property
    def program(self) -> str | None:
        """Name of the program of ours that it starts, such as "train", if it does."""
        if self.words[:2] == ["python", "-m"] and self.words[2].startswith("ctl_lightning."):
            return self.words[2].removeprefix("ctl_lightning.")
        return None


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in its order."""
    lines = page.read_text().splitlines()
    opened = 0
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("```"):
            continue
        if opened:
            above = next((text for text in reversed(lines[: opened - 1]) if text.strip()), "")
            found = REASON.fullmatch(above.strip())
            text = "\n".join(lines[opened : number - 1]) + "\n"
            yield Block(page.name, opened, lines[opened - 1].strip("` "), text, found[1] if found else None)
        opened = 0 if opened else number


def commands(block: Block) -> Iterator[Command]:
    """The lines of a block of bash, continued ones joined, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        environment = {}
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, environment[name] = words.pop(0).partition("=")
        if words:
            yield Command(block, environment, words)


def programs(text: str) -> list[list[str]]:
    """The programs of ours that lines of bash start, also by torchrun, srun or within a container: name and words of each."""
    found = re.findall(r"-m ctl_lightning\.(.*)", text.replace("\\\n", " "))
    return [shlex.split(line, comments=True) for line in found]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
