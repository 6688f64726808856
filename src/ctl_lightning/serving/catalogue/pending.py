"""Keeps vectors of products that are in no catalogue yet between runs, so that an interrupted run can go on."""

import json
import logging
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ctl_lightning.data.images import Pixels
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.large_files import check_room, told_if_full
from ctl_lightning.runtime.progress import progress
from ctl_lightning.runtime.reading import json_value
from ctl_lightning.serving.catalogue.files import Listed, Vectors
from ctl_lightning.serving.encoder import Encoder

log = logging.getLogger(__name__)

PENDING_FILES = re.compile(r"\.?embedded-[0-9a-f]{12}(\.\d+)?\.(partial|jsonl)")
"""Names of the files of pending vectors, and of their half-written temporary files."""


class PendingVectors:
    """A file of vectors, and a file that says which image each vector is of.

    Args:
        folder: folder of the catalogue.
        encoder: encoder that makes the vectors.
        identity: hash of the encoder's identity, in hex digits.

    Attributes:
        dim: length D of a vector.
        bad: product id -> why it could not be embedded.
    """

    def __init__(self, folder: Path, encoder: Encoder, identity: str) -> None:
        self._encoder = encoder
        self._folder = folder
        self._vectors = folder / f"embedded-{identity[:12]}.partial"
        self._lines = self._vectors.with_suffix(".jsonl")
        self.dim = encoder.products([np.zeros((encoder.size, encoder.size, 3), np.uint8)]).shape[1]
        self._row: dict[tuple[str, str], int] = {}
        self._count = 0
        self.bad: dict[str, str] = {}

    def add(self, products: Sequence[Listed], batch_size: int) -> None:
        """Embeds the products that are not embedded yet. Raises InputError: no room on the disk; vectors not finite."""
        self._read()
        todo = [one for one in products if (one.image, one.version) not in self._row]
        if not products:
            return
        check_room(
            self._vectors,
            "the vectors need",
            2 * len(products) * self.dim * 4,
            "Choose another folder with catalogue=DIR",
        )
        done = len(products) - len(todo)
        log.info("embedding %d products%s", len(products), f", {done} of them embedded before" if done else "")
        began = time.monotonic()
        batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
        with ExitStack() as opened:
            opened.enter_context(told_if_full(self._folder, "is embedded"))
            pool = opened.enter_context(ThreadPoolExecutor(os.cpu_count()))
            shown = opened.enter_context(progress("embedding products", len(products), done))
            vectors = opened.enter_context(self._vectors.open("ab"))
            lines = opened.enter_context(self._lines.open("a", encoding="utf-8"))
            # The next batch is decoded while this one goes through the network.
            ahead = pool.map(self._square, batches[0]) if batches else iter(())
            for number, batch in enumerate(batches):
                squares = list(ahead)
                if number + 1 < len(batches):
                    ahead = pool.map(self._square, batches[number + 1])
                good = [(one, found) for one, found in zip(batch, squares, strict=True) if not isinstance(found, str)]
                self.bad |= {
                    one.product: found for one, found in zip(batch, squares, strict=True) if isinstance(found, str)
                }
                if good:
                    found = self._encoder.products(square for _, square in good).float().cpu().numpy()
                    if not np.isfinite(found).all():
                        raise InputError("ckpt_path: its embeddings are not finite: the network's weights are broken")
                    vectors.write(found.tobytes())
                    vectors.flush()
                    lines.write("".join(json.dumps([one.image, one.version]) + "\n" for one, _ in good))
                    lines.flush()
                    for one, _ in good:
                        self._row[one.image, one.version] = self._count
                        self._count += 1
                shown.note = f"{len(self.bad):,} unreadable" if self.bad else ""
                shown.advance(len(batch))
        if todo:
            log.info("embedded %.0f products a second", len(todo) / (time.monotonic() - began))

    def _read(self) -> None:
        """Reads what earlier runs left, and cuts off what a killed one wrote only in part."""
        if not (self._vectors.exists() and self._lines.exists()):
            self.delete()
            return
        named: list[tuple[str, str]] = []
        for line in self._lines.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                image, version = json_value(line, str(self._lines))
            except (InputError, ValueError, TypeError):
                break  # the lines after it would name other vectors
            named.append((str(image), str(version)))
        rows = min(len(named), self._vectors.stat().st_size // (4 * self.dim))
        os.truncate(self._vectors, rows * 4 * self.dim)
        write_text(self._lines, "".join(json.dumps(one) + "\n" for one in named[:rows]))
        self._row, self._count = {one: row for row, one in enumerate(named[:rows])}, rows

    def _square(self, product: Listed) -> Pixels | str:
        """The square picture of a product that the network is given, uint8 (S, S, 3); or why there is none."""
        try:
            return self._encoder.square(Path(product.image))
        except InputError as error:
            return f"product {product.product}: {str(error).removesuffix('; give an image file')}"

    def rows(self, products: Sequence[Listed]) -> Vectors:
        """The vectors of n products that are embedded already, (n, D)."""
        vectors: Vectors = np.memmap(self._vectors, np.float32, "r").reshape(-1, self.dim)
        return vectors[[self._row[one.image, one.version] for one in products]]

    def delete(self) -> None:
        """Deletes the files once their vectors are in the catalogue; those of other checkpoints too."""
        for path in self._folder.iterdir():
            if PENDING_FILES.fullmatch(path.name):
                path.unlink(missing_ok=True)
