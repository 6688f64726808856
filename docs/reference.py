"""Writes docs/reference/, one page a program and one a config group, from the comments in conf/: `make docs` runs it first."""

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import ctl_lightning

REPOSITORY = Path(__file__).resolve().parents[1]

GROUPS = {
    "model": "Methods",
    "loss": "Losses",
    "backbone": "Backbones",
    "data": "Data sources",
    "protocol": "Protocols",
    "experiment": "Experiments",
    "trainer": "Trainers",
    "callbacks": "Callbacks",
    "logger": "Loggers",
    "sweep": "Sweeps",
    "hydra": "Launchers, sweepers and Hydra's own",
}
"""Config group -> title of its page."""

COMMENT = re.compile(r"""((?:"[^"]*"|'[^']*'|(?<!\s)\#|[^\#"'])*?)\s+\#\s(.*)""")
"""A value and the comment behind it."""

SPECIAL = re.compile(r"([\\*_\[\]<>|#])")
"""What Markdown would take as its own."""


class Header(NamedTuple):
    """What the first lines of a config file say."""

    sentences: list[str]
    commands: list[str]


class Option(NamedTuple):
    """A line of a config file: an option, or, without a name, a comment alone."""

    name: str
    default: str
    """As it is written."""
    comment: str
    group: bool = False
    """Whether what is chosen is a file of a config group."""


def header(text: str) -> Header:
    """The sentences and the commands of a config file's header."""
    lines = [line.removeprefix("#") for line in text.split("\n\n")[0].splitlines() if not line.startswith("# @package")]
    commands = [line.strip() for line in lines if line.startswith("   ")]
    return Header([line.strip() for line in lines if not line.startswith("   ")], commands)


def options(text: str, package: str) -> Iterator[Option]:
    """The options of a config file, in its order.

    Args:
        text: content of the file.
        package: what stands before the names of its options, such as "model"; "" where they are whole.

    Yields:
        Groups of options too, with an empty default; of the list of defaults, the groups that can be chosen.
    """
    above: list[tuple[int, str]] = []
    for line in "\n\n".join(text.split("\n\n")[1:]).splitlines():
        if not line.strip():
            continue
        bare, indentation = line.strip(), len(line) - len(line.lstrip())
        if bare.startswith("#"):
            yield Option("", "", bare.lstrip("# "))
            continue
        while above and above[-1][0] >= indentation:
            above.pop()
        found = COMMENT.fullmatch(bare)
        key, _, default = (found[1] if found else bare).partition(":")
        if above and above[0][1] == "defaults":
            if re.fullmatch(r"- [a-z]+", key) and default.strip():
                yield Option(key.removeprefix("- "), default.strip(), found[2] if found else "", group=True)
            continue
        above.append((indentation, key))
        if key not in ("defaults", "_target_"):
            yield Option(
                ".".join([*[package] * bool(package), *(name for _, name in above)]),
                default.strip(),
                found[2] if found else "",
            )


def escaped(text: str) -> str:
    """A comment as Markdown that shows it as it is, but for `code`."""
    return "".join(part if part.startswith("`") else SPECIAL.sub(r"\\\1", part) for part in re.split("(`[^`]*`)", text))


def _options_text(found: Iterable[Option]) -> Iterator[str]:
    for option in found:
        if not option.name:
            yield f"\n{escaped(option.comment)}\n"
            continue
        default = f" = `{option.default}`" if option.default else ""
        choice = f"one of these [{GROUPS[option.name].lower()}](group_{option.name}.md)" if option.group else ""
        said = "; ".join(part for part in (escaped(option.comment), choice) if part)
        if said or default:  # a name that only holds others says nothing
            yield f"- `{option.name}`{default}" + f"  \n  {said}" * bool(said)


def _body(text: str, package: str) -> Iterator[str]:
    top = header(text)
    yield "\n".join(escaped(sentence) for sentence in top.sentences)
    if top.commands:
        yield "\n".join(["```bash", *top.commands, "```"])
    yield "\n".join(_options_text(options(text, package)))


def program_page(path: Path) -> str:
    """The page of a program: what it is for, its commands, and its options with their defaults."""
    name = path.stem
    script = f"`python -m ctl_lightning.{name}`, or `ctl-{name.replace('_', '-')}`."
    return "\n\n".join([f"# {name}", script, *_body(path.read_text(), "")]) + "\n"


def api_page() -> str:
    """The page of the public names of the package, which mkdocstrings fills from their docstrings."""
    return (
        "\n\n".join(
            [
                "# Python API",
                "The public names; all of them are imported from `ctl_lightning`.",
                *(f"::: ctl_lightning.{name}" for name in ctl_lightning.__all__),
            ]
        )
        + "\n"
    )


def group_page(folder: Path, title: str) -> str:
    """The page of a config group: what can be chosen, and the options of each."""
    files = sorted(folder.rglob("*.yaml"), key=lambda path: ("base" not in path.parts, path))
    rows, parts = [], []
    for path in files:
        text, name = path.read_text(), path.relative_to(folder).with_suffix("").as_posix()
        inner = path.parent.relative_to(folder).as_posix()
        package = ".".join([folder.name, *[inner] * (inner not in (".", "base"))])
        parts += [f"## {name}", *_body(text, "" if text.startswith("# @package _global_") else package)]
        if "base" not in path.parts:
            rows.append(f"- [`{name}`](#{name.replace('/', '')}): {escaped(header(text).sentences[0])}")
    choice = (
        "Chosen on the command line by `GROUP=NAME`, such as `"
        + ("hydra/launcher=local" if folder.name == "hydra" else f"{folder.name}={rows[0].split('`')[1]}")
        + "`."
    )
    return "\n\n".join([f"# {title}", choice, "\n".join(rows), *parts]) + "\n"


def write(conf: Path, folder: Path) -> None:
    """Writes all pages anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in conf.glob("*.yaml"):
        (folder / f"{path.stem}.md").write_text(program_page(path))
    (folder / "api.md").write_text(api_page())
    for group, title in GROUPS.items():
        (folder / f"group_{group}.md").write_text(group_page(conf / group, title))


if __name__ == "__main__":
    write(REPOSITORY / "conf", REPOSITORY / "docs" / "reference")
