"""What may be an id or a category: any text of any language that can be a file's name, or a label. All sources and programs ask here."""

import re
import unicodedata
from collections.abc import Callable

from ctl_lightning.runtime.reading import shown

NameRule = Callable[[object], str | None]
"""Says why a value is no id, in words that name it; None: it is one."""

LONGEST_ID = 250
"""Most bytes of an id in UTF-8: a file's name has at most 255, with its ending."""

LONGEST_CATEGORY = 1000
"""Most characters of a category."""

UNPRINTABLE = {
    "Cc": "a control character",
    "Cs": "half of a surrogate pair",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
"""Unicode category -> what its characters are; no name has one."""

HEX_ID = re.compile(r"[0-9a-f]{32}")


def id_problem(name: object) -> str | None:
    """Why a value cannot be the id of a scene or product, such as "'.x' cannot be an id: it begins with a dot"; None: it can.

    An id is the name of an image file without its ending, and part of addresses: a text of any script, with no slash.
    """
    why = _problem(name)
    if why is None and isinstance(name, str):
        if "/" in name or "\\" in name:
            why = "it has a slash"
        elif name.startswith("."):
            why = "it begins with a dot"
        elif len(name.encode()) > LONGEST_ID:
            why = f"it has more than {LONGEST_ID} bytes, and is to be a file's name"
    return why and f"{shown(name)} cannot be an id: {why}"


def category_problem(name: object) -> str | None:
    """Why a value cannot be the name of a category; None: it can. Any text can that is one line and not blank."""
    why = _problem(name)
    if why is None and isinstance(name, str) and len(name) > LONGEST_CATEGORY:
        why = f"it has more than {LONGEST_CATEGORY:,} characters"
    return why and f"{shown(name)} cannot be a category: {why}"


def hex_id_problem(name: object) -> str | None:
    """Why a value cannot be an id of Shop-the-Look; None: it can."""
    if isinstance(name, str) and HEX_ID.fullmatch(name):
        return None
    return f"{shown(name)} is not an id of 32 lower-case hex digits"


def _problem(name: object) -> str | None:
    if not isinstance(name, str):
        return "it is not a text"
    if not name.strip():
        return "it is blank" if name else "it is empty"
    for character in name if not name.isprintable() else "":  # what is printable has none of these
        if (kind := unicodedata.category(character)) in UNPRINTABLE:
            return f"it has {UNPRINTABLE[kind]} (U+{ord(character):04X})"
    return "it begins or ends with a space" if name != name.strip() else None
