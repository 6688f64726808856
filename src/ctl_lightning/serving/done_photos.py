"""Where the look of each photo of a folder goes, and which photos are completed already, so that a stopped command goes on."""

import hashlib
import json
import os
from pathlib import Path

from ctl_lightning.data.store.packing import version_of
from ctl_lightning.runtime.files import sha256_of, write_text
from ctl_lightning.serving.catalogue.files import MANIFEST
from ctl_lightning.serving.recommender import Recommender

LONGEST = 255
"""Most bytes of a file's name, on the usual file systems."""


def file_for(photo: Path, output: Path) -> Path:
    """The file of a photo among several: its name before that of `output`, cut where that is too long for a file."""
    name = f"{photo.name}-{output.name}"
    if len(os.fsencode(name)) > LONGEST:
        name = f"{photo.name[:40]}-{hashlib.sha256(os.fsencode(photo.name)).hexdigest()[:12]}-{output.name}"
    return output.with_name(name)


class DonePhotos:
    """Notes beside the written files which photos of a folder are done, so that a stopped command goes on after them.

    Args:
        output: path that the written files are named after, such as looks/look.png.
        recommender: recommender that completes the photos.
        catalogue: folder of the recommender's catalogue.
        options: whatever else the written files depend on.
    """

    def __init__(self, output: Path, recommender: Recommender, catalogue: Path, options: list[object]) -> None:
        self._note = output.with_name(f".{output.name}.made")
        made_with = json.dumps([recommender.encoder.identity(), sha256_of(catalogue / MANIFEST), *options])
        lines = self._note.read_text(encoding="utf-8", errors="replace").splitlines() if self._note.exists() else []
        if not lines or lines[0] != made_with:
            write_text(self._note, f"{made_with}\n")
        self._done = {*lines[1:]} if lines and lines[0] == made_with else set()

    def has(self, photo: Path) -> bool:
        """Whether this photo, with its present size and time, is done."""
        return self._line(photo) in self._done

    def note(self, photo: Path) -> None:
        """Notes that a photo is done."""
        with self._note.open("a", encoding="utf-8") as file:
            file.write(f"{self._line(photo)}\n")

    def _line(self, photo: Path) -> str:
        return json.dumps([str(photo.absolute()), *(version_of(photo) or ())])
