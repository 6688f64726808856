"""Reads text, JSON, JSON lines and lists of names that a user or another program wrote; what is wrong is one line that names its place."""

import codecs
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ctl_lightning.runtime.errors import InputError

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark at the start of a file -> its encoding. A file without one is UTF-8."""

STRING = r'"(?:[^"\\]|\\.)*+"'

TOKEN = re.compile(rf"({STRING})(\s*:)?|[{{}}]", re.DOTALL)
"""A string, as a group, and the colon after it if it is a key; or where an object begins or ends."""

ODD_NUMBER = re.compile(rf"{STRING}|(NaN|-?Infinity|-?\d{{4300,}})", re.DOTALL)
"""A string, or else, as a group, a word or number that is no JSON number of a sensible size."""

TRAILING_COMMA = re.compile(r",\s*[\]}]")

SHOWN = 80
"""Most characters of a value that a message shows."""


def shown(value: object) -> str:
    """A value of a file as a message shows it: on one line, printable, not longer than 80 characters."""
    try:
        words = repr(value)
    except RecursionError:
        words = "brackets within brackets"
    return words if len(words) <= SHOWN else f"{words[: SHOWN - 1]}…"


def check_file(path: Path) -> None:
    """Raises InputError: a pipe or a device, which may wait for ever and cannot be read twice; OSError: nothing there."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: a pipe or a device; save what comes from it as a file")


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file, whatever ends them: LF, CRLF or CR.

    Raises:
        InputError: not text in UTF-8, nor in UTF-16 or UTF-32 with a byte order mark; a pipe.
        OSError: not there, or not readable.
    """
    check_file(path)
    with path.open("rb") as file:
        start = file.read(4)
    encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in start:
        raise InputError(f"{path}: not text, or UTF-16 without a mark of it; save the file as UTF-8")
    try:
        with path.open(encoding=encoding) as lines:
            for line in lines:
                yield line.lstrip("\ufeff")  # a mark is left within when files are joined
    except UnicodeError:
        _refuse(path, encoding)


def _refuse(path: Path, encoding: str) -> NoReturn:
    content = path.read_bytes()
    try:
        content.decode(encoding)
        number = 1
    except UnicodeDecodeError as error:
        number = 1 + len(re.findall(r"\r\n?|\n", content[: error.start].decode(encoding, errors="replace")))
    name = encoding.removesuffix("-sig").upper()
    raise InputError(
        f"{path}:{number}: not {name} text; save the file as UTF-8 (in Excel: 'CSV UTF-8'; elsewhere: iconv -f latin1 -t utf-8)"
    ) from None


def read_text(path: Path) -> str:
    """The text of a file, with LF at the end of its lines. Raises InputError and OSError as `lines_of`."""
    return "".join(lines_of(path))


def json_value(text: str, where: str, first: int | None = None, decoder: json.JSONDecoder | None = None) -> Any:
    """The value of a JSON text.

    Args:
        text: the text.
        where: place of the text for messages: a file, or FILE:LINE.
        first: number of the text's first line, which is then added to `where`; None: `where` has it already.
        decoder: decoder; None: one that refuses a key that an object has twice, which JSON allows and a dict would hide.

    Raises:
        InputError: no JSON; NaN or Infinity, which JSON does not have; a number of thousands of digits; too many brackets in
            brackets; a repeated key.
    """

    def place(position: int) -> str:
        return where if first is None else f"{where}:{first + text.count(chr(10), 0, position)}"

    try:
        return (decoder or STRICT).decode(text)
    except json.JSONDecodeError as error:
        position, wrong = _what_is_wrong(text, error)
        raise InputError(f"{place(position)}: not valid JSON ({wrong})") from None
    except RecursionError:
        raise InputError(f"{where}: not valid JSON (too many brackets within brackets)") from None
    except _RepeatedKeyError:
        position, key = _first_repeated(text)
        raise InputError(f"{place(position)}: the key {shown(key)} is there twice in one object; leave one") from None
    except ValueError:  # a constant, or a number that Python does not convert
        position, number = next((match.start(), match[1]) for match in ODD_NUMBER.finditer(text) if match[1])
        words = number if len(number) < SHOWN else f"a number of {len(number):,} digits"
        raise InputError(f"{place(position)}: not valid JSON ({words})") from None


class _RepeatedKeyError(ValueError):
    """An object has a key twice."""


def _object(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(entries)
    if len(content) < len(entries):
        raise _RepeatedKeyError
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)

ENTRIES = json.JSONDecoder(object_pairs_hook=tuple, parse_constant=_no_constant)
"""Decoder that makes of an object a tuple of its (key, value), whether or not a key is repeated."""


def _what_is_wrong(text: str, error: json.JSONDecodeError) -> tuple[int, str]:
    """Where a text is not JSON, and why."""
    before = text[: error.pos].rstrip()
    comma = len(before) - 1 if before.endswith(",") else error.pos  # from Python 3.13 on it is the error's place
    if found := TRAILING_COMMA.match(text, comma):
        bracket = "a closing bracket" if text[found.end() :].strip() else "the last bracket"
        return comma, f"a trailing comma before {bracket}; delete it"
    if not text.strip():
        return error.pos, "there is nothing in it"
    return error.pos, error.msg[:1].lower() + error.msg[1:].removesuffix(" at")


def _first_repeated(text: str) -> tuple[int, str]:
    """Where a JSON text first repeats a key within an object, and the key."""
    objects: list[set[str]] = []
    for match in TOKEN.finditer(text):
        if match[0] == "{":
            objects.append(set())
        elif match[0] == "}":
            objects.pop()
        elif match[2]:
            key = json.loads(match[1])
            if key in objects[-1]:
                return match.start(), key
            objects[-1].add(key)
    raise AssertionError("no key is repeated")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises InputError with file and line, as `json_value` and `lines_of`; OSError: not readable."""
    return json_value(read_text(path), str(path), 1)


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(FILE:LINE, value) of every line of a JSON Lines file that is not blank. Raises InputError as `json_value`."""
    for number, line in enumerate(lines_of(path), start=1):
        if not line.isspace():
            yield f"{path}:{number}", json_value(line, f"{path}:{number}")


def lines_of_entries(text: str) -> list[int]:
    """The line of every key of the outermost object of a valid JSON text, in their order."""
    found = []
    depth, line, before = 0, 1, 0
    for match in TOKEN.finditer(text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if match[2] and depth == 1:
            line += text.count("\n", before, match.start())
            before = match.start()
            found.append(line)
    return found


def read_names(path: Path, option: str, what: str) -> list[str]:
    """The lines of a text file that are not blank, without the white space around them.

    Args:
        path: text file to read.
        option: name of the option that gave the path, for the message.
        what: what a line names, such as "product".

    Raises:
        InputError: the file cannot be read, or names nothing.
    """
    try:
        names = [line.strip() for line in lines_of(path) if line.strip()]
    except OSError as error:
        raise InputError(
            f"{option}={path}: cannot be read ({error.strerror}); give a text file with a {what} a line"
        ) from None
    except InputError as error:
        raise InputError(f"{option}={error}, with a {what} a line") from None
    if not names:
        raise InputError(f"{option}={path}: there is no {what} in it; write one a line")
    return names
