"""Where the pictures lie in a folder as people have it: with links, hidden files, and names in any writing."""

import itertools
import logging
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unicodedata import normalize

from ctl_lightning.data.pictures.opening import ENDINGS, check_regular

log = logging.getLogger(__name__)

OF_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
"""Folders in which systems keep thumbnails and notes under the names of pictures."""

Identity = tuple[int, int] | str


class PictureFolder:
    """The pictures below a folder, each file once however many links lead to it; the folder is read when this is made.

    Links to folders are followed, except to those that the folder itself lies in. Hidden files and folders, and those
    that systems make for themselves, are passed over.

    Args:
        root: folder to look below; one that is not there counts as empty.

    Attributes:
        root: the folder.
        unreadable: folders that cannot be read, one line each.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.unreadable: list[str] = []
        self._by_stem: dict[str, list[Path]] = {}
        self._others: dict[str, list[Path]] = {}
        for entry in entries_below(root, self.unreadable):
            path = Path(entry.path)
            files = self._by_stem if is_picture(entry.name) and _is_file(entry) else self._others
            files.setdefault(normalize("NFC", path.stem), []).append(path)
        for line in self.unreadable[:3]:
            log.warning("%s; %d in all", line, len(self.unreadable))
        self._alike: dict[str, list[Path]] | None = None

    def find(self, name: str) -> list[Path]:
        """The different image files of an id, in alphabetical order: those of that name, else with that name before the ending.

        Names that Unicode can write in several ways (é) are equal in all of them; one that is equal letter by letter wins.
        """
        written = normalize("NFC", name)
        if is_picture(name):
            paths = [path for path in self._by_stem.get(_stem(written), ()) if normalize("NFC", path.name) == written]
            if paths:
                return _different([path for path in paths if path.name == name] or paths)
        paths = self._by_stem.get(written, [])
        return _different([path for path in paths if path.stem == name] or paths)

    def named(self) -> dict[str, Path]:
        """File name without its ending -> the first image file of that name, in alphabetical order."""
        return {name: min(paths) for name, paths in self._by_stem.items()}

    def expected(self, name: str) -> Path:
        """The first path at which the image of an id is looked for, for a message."""
        return self.root / (name if is_picture(name) else f"{name}.jpg")

    def why_missing(self, name: str) -> str:
        """Why an id has no image: what was looked for, and what is there instead."""
        ending = "" if is_picture(name) else " with the ending of a picture (.jpg, .png, ...)"
        said = f"missing: there is no {name}{ending} below {self.root.name}/"
        stem = _stem(normalize("NFC", name))
        for path in sorted(self._others.get(stem, []))[:3]:
            said += f"; {self._shown(path)} is {_what(path)}"
        if near := self._near(name):
            said += f"; there is {' and '.join(self._shown(path) for path in sorted(near)[:3])}"
        if self.unreadable:
            said += f"; {len(self.unreadable)} folders there cannot be read"
        return said

    def _near(self, name: str) -> list[Path]:
        """The images whose names differ from an id in case, signs, spaces, leading zeros or the ending alone."""
        if self._alike is None:
            self._alike = {}
            for path in itertools.chain.from_iterable(self._by_stem.values()):
                self._alike.setdefault(_letters(path.stem), []).append(path)
        return self._alike.get(_letters(_stem(name)), [])

    def _shown(self, path: Path) -> str:
        return printable(path.relative_to(self.root.parent))


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder itself, by name; links to nothing and pipes too, so that they are told when opened.

    Raises:
        OSError: not a folder, or one that cannot be read.
    """
    return [Path(entry.path) for entry in _visible(folder) if is_picture(entry.name) and not _is_folder(entry)]


def is_picture(name: str) -> bool:
    """Whether a file name ends as picture files do."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def _stem(name: str) -> str:
    """An id without the ending of a picture, if it has one."""
    return os.path.splitext(name)[0] if is_picture(name) else name


def printable(path: Path) -> str:
    r"""A path as text that every terminal and file takes: bytes of a name that are no text become \udcNN."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def entries_below(root: Path, unreadable: list[str]) -> Iterator[os.DirEntry[str]]:
    """What lies below `root`, each folder read once, without folders that are not named like a picture.

    Links to folders are followed, except to those that `root` itself lies in; hidden files and folders, and those that systems make for
    themselves, are passed over. Adds a line for each folder that cannot be read to `unreadable`.
    """
    known: set[Identity] = set()
    for above in Path(os.path.realpath(root)).parents:
        with suppress(OSError):
            known.add(_identity(above))
    # A folder that a link leads to as well is known by its own name.
    waiting = deque([root])
    while waiting:
        folder = waiting.popleft()
        try:
            identity = _identity(folder)
            if identity in known:
                continue
            known.add(identity)
            entries = _visible(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable.append(f"{printable(folder)}: this folder cannot be read ({error.strerror})")
            continue
        for entry in entries:
            folder_too = _is_folder(entry)
            if not folder_too or is_picture(entry.name):
                yield entry
            if folder_too and entry.is_symlink():
                waiting.append(Path(entry.path))
            elif folder_too:
                waiting.appendleft(Path(entry.path))


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in OF_SYSTEMS]
    return sorted(visible, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead to each other
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _identity(path: Path) -> Identity:
    status = path.stat()
    # Some file systems number no files.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _different(paths: list[Path]) -> list[Path]:
    if len(paths) == 1:
        return paths
    files: dict[Identity, Path] = {}
    for path in sorted(paths):
        with suppress(OSError):
            files.setdefault(_identity(path), path)
    return list(files.values()) or sorted(paths)


def _letters(name: str) -> str:
    """What is left of a name without case, signs, spaces and leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]", "", normalize("NFKC", name).casefold()))


def _what(path: Path) -> str:
    """What is wrong with a file or link of the name of an image."""
    try:
        check_regular(path)
    except OSError as error:
        return error.strerror or str(error)
    return "no image file by its ending"
