"""Vectors as int8 codes, a quarter of the bytes: they tell which vectors may be among the k nearest, and miss none.

A vector v of a category is v̂ = s·c plus a rest, with one step s for the category and whole numbers c from -127 to 127;
a query q is q̂ = t·b plus a rest. The inner product z = b·c of the codes is exact, and

    q·v - s·t·z = q·(v - v̂) + (q - q̂)·v̂,    so by Cauchy and Schwarz    |q·v - s·t·z| <= E = |q|·max|v - v̂| + |q - q̂|·max|v̂|.

Let z_k be a number that at least k vectors reach. Those k have q·v >= s·t·z_k - E, so each of the k nearest has it too,
and hence s·t·z >= s·t·z_k - 2 E. All vectors with z >= z_k - 2 E / (s·t) are candidates; equal distances are among them.
"""

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import mapped_array, replacing
from ctl_lightning.runtime.large_files import told_if_full
from ctl_lightning.serving.catalogue.files import Bonus, Manifest, Scale, Vectors

log = logging.getLogger(__name__)

LARGEST = 127
"""Codes go from -LARGEST to LARGEST."""

SMALLEST = -(2**31)
"""Smallest whole number of 32 bits."""

SLACK = 1e-9
"""More than the rounding of a distance in double precision, as a share of 1 + |q|·max|v| + the largest bonus."""

CELLS = 2**24
"""Most inner products of codes that are held at once, 64 MB."""

TOGETHER = 32
"""Most queries that go through the codes at once: more gain nothing."""

GROUP = 64
"""Most vectors of a group: the k-th largest of the groups' maxima is a number that k vectors reach, found in less time than theirs."""

CHUNK = 10_000
"""Number of vectors that are turned into codes at once."""

MANY = 10_000
"""Number of products in a category from which on codes are worth an installation."""


@cache
def kernel() -> Any:
    """NumKong, whose inner products of int8 are exact; None: it is not installed."""
    try:
        import numkong
    except ImportError:
        return None
    return numkong


def scale_of(vectors: Vectors) -> Scale:
    """The step of a category's codes, and what they leave over; vectors (n, D)."""
    largest = float(np.abs(vectors).max(initial=0))
    step = largest / LARGEST or 1.0
    rest = norm = 0.0
    for start in range(0, len(vectors), CHUNK):
        some = vectors[start : start + CHUNK].astype(np.float64)
        rounded = step * encode(some, step).astype(np.float64)
        rest = max(rest, float(np.linalg.norm(some - rounded, axis=1).max()))
        norm = max(norm, float(np.linalg.norm(rounded, axis=1).max()))
    return Scale(step, rest, norm)


def encode(vectors: NDArray[np.floating[Any]], step: float | NDArray[np.float64]) -> NDArray[np.int8]:
    """Vectors (n, D) in whole steps, int8 (n, D)."""
    return np.rint(np.asarray(vectors, np.float64) / step).clip(-LARGEST, LARGEST).astype(np.int8)


def write_codes(folder: Path, manifest: Manifest) -> Manifest:
    """Writes the codes of a catalogue whose vectors are written. Returns the manifest with them. Raises InputError: a full disk."""
    vectors: Vectors = mapped_array(folder / manifest.vectors)
    path = folder / f"codes-{manifest.vectors.removeprefix('vectors-')}"
    scales = {category: scale_of(vectors[start:end]) for category, (start, end) in manifest.slices.items()}
    if not path.exists():
        with told_if_full(folder, "is embedded"), replacing(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "|i1", "fortran_order": False, "shape": vectors.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for category, (first, end) in manifest.slices.items():
                for start in range(first, end, CHUNK):
                    some = vectors[start : min(start + CHUNK, end)]
                    file.write(encode(some, scales[category].step).tobytes())
    return replace(manifest, codes=path.name, scales=scales)


def open_codes(folder: Path, manifest: Manifest) -> "dict[str, Codes]":
    """Opens the codes of each category, memory-mapped; none if there are none, or nothing that multiplies them.

    Raises:
        InputError: the file is missing or broken.
    """
    if kernel() is None:
        if max(manifest.counts.values()) >= MANY:
            log.info("with pip install 'ctl_lightning[int8]' this catalogue is searched three times as fast")
        return {}
    if manifest.codes is None:
        return {}
    try:
        rows = mapped_array(folder / manifest.codes)
        count = max(end for _, end in manifest.slices.values())
        if (rows.dtype, rows.shape) != (np.int8, (count, manifest.dim)):
            raise ValueError(f"codes {rows.dtype} {rows.shape}, expected {count} of {manifest.dim}")
        return {
            category: Codes(np.asarray(rows)[start:end], manifest.scales[category])
            for category, (start, end) in manifest.slices.items()
        }
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"catalogue={folder}: a file of it is missing or broken ({' '.join(str(error).split())}); make the catalogue anew in "
            "another folder"
        ) from None


class Codes(NamedTuple):
    """Codes of the vectors of a category.

    Attributes:
        rows: codes c, int8 (n, D).
        scale: step s, and what the codes leave over.
    """

    rows: NDArray[np.int8]
    scale: Scale

    def candidates(self, queries: Vectors, k: int, bonus: Bonus | None = None) -> list[Integers]:
        """Rows that include the k with the largest inner products, of each query; in increasing order.

        Args:
            queries: queries q, (B, D).
            k: number of vectors to find, from 1 to n.
            bonus: what is added to each inner product, (n,); None: nothing.
        """
        together = min(TOGETHER, max(1, CELLS // len(self.rows)))
        found: list[Integers] = []
        for start in range(0, len(queries), together):
            found += self._candidates(queries[start : start + together].astype(np.float64), k, bonus)
        return found

    def _candidates(self, queries: NDArray[np.float64], k: int, bonus: Bonus | None) -> list[Integers]:
        largest = np.abs(queries).max(1, keepdims=True)
        steps = np.where(largest > 0, largest / LARGEST, 1.0)
        codes = encode(queries, steps)
        left = queries - steps * codes
        length, left = (np.sqrt((part * part).sum(1)) for part in (queries, left))
        _, rest, norm = self.scale
        most = 0.0 if bonus is None else float(np.abs(bonus).max())
        error = length * rest + left * norm + SLACK * (1 + length * (norm + rest) + most)
        unit = self.scale.step * steps[:, 0]
        products = np.asarray(kernel().dots_packed(self.rows, kernel().dots_pack(codes)))  # (n, B)
        if bonus is not None:
            scores = products * unit + bonus[:, None]
            return _reaching(scores, _reached(scores, k) - 2 * error)
        # Whole numbers are compared with whole numbers: a threshold between two of them is the upper one.
        return _reaching(products, np.ceil(_reached(products, k) - 2 * error / unit))


def _reached(scores: NDArray[Any], k: int) -> NDArray[np.float64]:
    """A number that at least k of each column of (n, B) reach, near the k-th largest, (B,)."""
    size = max(1, min(GROUP, len(scores) // (16 * k)))
    groups = len(scores) // size
    maxima = scores[: size * groups].reshape(size, groups, -1).max(0)
    return np.partition(np.ascontiguousarray(maxima.T), -k, axis=1)[:, -k].astype(np.float64)


def _reaching(scores: NDArray[Any], least: NDArray[np.float64]) -> list[Integers]:
    """The rows of (n, B) that are at least `least`, (B,), of each column."""
    if scores.dtype == np.int32:
        least = np.maximum(least, SMALLEST).astype(np.int32)
    count = scores.shape[1]
    cells = np.flatnonzero(scores >= least)  # np.nonzero of two dimensions takes ten times as long
    if count == 1:
        return [cells]
    rows, columns = np.divmod(cells, count)
    order = np.argsort(columns, kind="stable")
    return np.split(rows[order], np.searchsorted(columns[order], np.arange(1, count)))
