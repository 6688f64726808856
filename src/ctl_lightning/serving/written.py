"""Which photos of a folder are completed already: a command that was stopped goes on behind them."""

import json
from pathlib import Path

from ctl_lightning.data.store.packing import version_of
from ctl_lightning.runtime.files import sha256_of, write_text
from ctl_lightning.serving.catalogue.files import MANIFEST
from ctl_lightning.serving.recommender import Recommender


class Written:
    """Which photos of a folder are done, by a note beside the files: a command that was stopped goes on behind them.

    Args:
        output: what files are named after.
        recommender: who makes them.
        catalogue: folder of its catalogue.
        options: what else they depend on.
    """

    def __init__(self, output: Path, recommender: Recommender, catalogue: Path, options: list[object]) -> None:
        self._note = output.with_name(f".{output.name}.made")
        made_with = json.dumps([recommender.encoder.identity(), sha256_of(catalogue / MANIFEST), *options])
        lines = self._note.read_text(encoding="utf-8").splitlines() if self._note.exists() else []
        if not lines or lines[0] != made_with:
            write_text(self._note, f"{made_with}\n")
        self._done = {*lines[1:]} if lines and lines[0] == made_with else set()

    def has(self, photo: Path) -> bool:
        """Whether this very photo is done."""
        return self._line(photo) in self._done

    def note(self, photo: Path) -> None:
        """It is done."""
        with self._note.open("a", encoding="utf-8") as file:
            file.write(f"{self._line(photo)}\n")

    def _line(self, photo: Path) -> str:
        return json.dumps([str(photo.absolute()), *(version_of(photo) or ())])
