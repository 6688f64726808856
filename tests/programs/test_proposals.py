"""What a message proposes can be pasted: its commands compose, and its options are there, with the values that it names."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import hydra
import pytest
from factories import PROGRAMS, REPOSITORY
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ctl_lightning.runtime.config import check_names, check_values, config_dir, groups
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.words import spelled_out

PACKAGE = REPOSITORY / "src" / "ctl_lightning"

OPTION = re.compile(r"(?<![\w./$(\[{}'\"=+?-])(\+{0,2}[a-z_]+(?:[./][a-z_]+)*)=(\S*)")
COMMAND = re.compile(r"python -m ctl_lightning\.(\w+)((?: \+?[\w./]+=[^\s`;,]+)*)")

FILLED = {
    "N": "3",
    "NAME": "stl_fashion",
    "VALUE": "3",
    "URL": "http://localhost",
    "CLASS": "lightning.pytorch.callbacks.EarlyStopping",
    "DD:HH:MM:SS": "00:01:00:00",
}
"""What a person writes in place of a word in capitals; of all others, a path."""

OTHERS = {"weights_only", "s", "method", "batch_size", "stored_size"}
"""What stands before "=" in a message and is not meant to be pasted: an argument in Python, a format, a value that is told."""

SAYS = {"InputError", "InUseError", "ValueError", "warning", "info", "print", "login"}
"""Functions whose words a user reads."""

WHERE: dict[str, tuple[str, ...]] = {
    "training": ("train", "evaluate"),
    "models": ("train", "evaluate"),
    "data": ("train", "prepare", "evaluate"),
    "metrics": ("train",),
    "reports": ("train", "paper", "sweep_table", "evaluate", "dashboard"),
    "serving": ("catalogue", "recommend", "rerank", "serve", "demo", "export", "evaluate", "train"),
    "sweep_table": ("sweep_table", "train"),  # it tells how the sweep goes on
    "benchmarks": ("benchmark",),
    "runtime": ("train", *PROGRAMS),
}
"""Layer -> programs that its messages come from; those of a program's file come from that program."""


def text_of(node: ast.AST) -> str:
    """A string as a user reads it, with `{}` where a value comes in."""
    if isinstance(node, ast.Constant):
        return re.sub("%[sd]", "{}", node.value) if isinstance(node.value, str) else ""
    return "".join(
        "{}" if isinstance(part, ast.FormattedValue) else text_of(part) for part in getattr(node, "values", [])
    )


def messages(path: Path) -> set[str]:
    """What a file tells its users: strings in errors, warnings and prints, and those that are kept under a name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        inside: list[ast.AST] = []
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            inside = [*node.args] if called in SAYS else []
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.Return)) and node.value is not None:
            inside = [node.value]
        parts = [part for one in inside for part in ast.walk(one)]
        pieces = {id(piece) for part in parts if isinstance(part, ast.JoinedStr) for piece in part.values}
        found |= {
            text_of(part)
            for part in parts
            if isinstance(part, (ast.JoinedStr, ast.Constant)) and id(part) not in pieces
        }
    return {text for text in found if "=" in text and " " in text and "<" not in text and "import " not in text}


def proposed(text: str) -> list[str]:
    """The words of a message that look like options, with capitals filled in; values that are computed stay `{}`."""
    words = []
    for name, value in OPTION.findall(text):
        value = value.rstrip("`;,:.)'").partition(",")[0]
        filled = FILLED.get(value, "some/path") if value.isupper() else value
        if name.lstrip("+") not in OTHERS:
            words.append(f"{name}={'{}' if '{' in filled else filled}")
    return words


def programs_of(path: Path) -> tuple[str, ...]:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return WHERE.get(layer, (layer,))


def is_group(word: str) -> bool:
    name = word.partition("=")[0]
    return name in groups() or "/" in name


@cache
def refusal(program: str, words: tuple[str, ...]) -> str | None:
    """Why a command is refused; None: it composes, and its values are of the right type. A computed value is any."""
    own = () if program in ("check_splits", "sweep_table", "dashboard") else ("paths.run_dir=run",)
    given = [*own, *(word.replace("={}", "=3") for word in words)]
    try:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = hydra.compose(program, spelled_out(given, program), return_hydra_config=True)
        if not any("={}" in word for word in words):
            plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            check_values(check_names(program, plain))
    except MissingMandatoryValue:  # the user has given it, else there would be no message
        return None
    except (HydraException, OmegaConfBaseException, InputError) as error:
        return f"{program} {' '.join(words)}: {error}"
    return None


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
TOLD = [(path, text) for path in SOURCES for text in sorted(messages(path))]
OPTIONS = sorted({(path, text) for path, text in TOLD if proposed(text)})
COMMANDS = sorted({(path, *found) for path, text in TOLD for found in COMMAND.findall(text)})


def test_there_are_proposals() -> None:
    assert len(OPTIONS) > 60
    assert len(COMMANDS) >= 5


@pytest.mark.long  # half a minute of composing
@pytest.mark.parametrize(
    "path", sorted({path for path, _ in OPTIONS}), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_each_option_that_a_message_proposes_can_be_pasted(path: Path) -> None:
    refused = []
    for _, text in (one for one in OPTIONS if one[0] == path):
        # A message may name a command of another program, and options of that.
        programs = (*programs_of(path), *(program for program, _ in COMMAND.findall(text)))
        words = [word for word in proposed(text) if not (is_group(word) and "{}" in word)]
        chosen = [word for word in words if is_group(word)][:1] or ["data=stl_fashion"]
        for number, word in enumerate(words):
            if number == 0 and text.startswith(f"{word.partition('=')[0]}="):
                continue  # what it begins with is what the user gave
            contexts: list[tuple[str, ...]] = [()] if is_group(word) else [(), tuple(chosen)]
            if all(refusal(program, (*context, word)) for context in contexts for program in programs):
                refused.append(f"{text!r}: {refusal(programs[0], (word,))}")
    assert not refused, "\n".join(refused)


@pytest.mark.parametrize(("path", "program", "words"), COMMANDS, ids=lambda part: Path(part).name)
def test_each_command_that_a_message_proposes_composes(path: Path, program: str, words: str) -> None:
    given = tuple(
        f"{name}={FILLED.get(value, value)}" for name, value in (word.split("=") for word in shlex.split(words))
    )
    assert refusal(program, given) is None


def test_an_option_that_is_not_there_would_be_found() -> None:
    assert "trainer.limit_train_batches" in str(refusal("train", ("trainer.limit_train_batches=3",)))
    assert refusal("train", ("+trainer.limit_train_batches=3",)) is None
    assert refusal("train", ("data.augment=blur",)) is not None
