"""How many products a second are embedded for a catalogue: as version 0.1 did by default, and by each engine today."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from ctl_lightning.benchmarks.served import Served, engines
from ctl_lightning.benchmarks.timing import Row, alone, in_turn, ratio
from ctl_lightning.runtime.memory import can_keep, keep_freed_memory
from ctl_lightning.serving.catalogue.files import Listed
from ctl_lightning.serving.catalogue.pending import PendingVectors
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.engines import EngineName


class Way(NamedTuple):
    """A way to embed products: what runs the backbone, pictures at once, whether the process keeps freed memory."""

    engine: EngineName
    batch: int
    keep: bool


BEFORE = "version 0.1: torch, 64 at once, memory given back"
WAYS = {"torch": Way("torch", 16, True), "onnx": Way("onnx", 16, True)}


def index_rows(given: Served, rounds: int) -> list[Row]:
    """Products a second, from their photos' files to vectors on disk, on one core; each time in a process of its own.

    Args:
        given: checkpoint and products.
        rounds: how often each way is measured, in turn.
    """
    ways = {BEFORE: Way("torch", 64, False)} | {name: WAYS[name] for name in engines()}
    found = in_turn({name: partial(_measured, given, way) for name, way in ways.items()}, rounds)
    return [Row("index", name, values, "products/s") for name, values in found.items()]


def index_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """The time of version 0.1's way over that of each engine, and of the fastest."""
    ours = [row for row in rows if row.group == "index" and row.name != BEFORE]
    over = {f"before_over_index_{row.name}": ratio(rows, row.name, BEFORE, "index") for row in ours}
    if ours:
        fastest = max(ours, key=lambda row: row.value).name
        over["before_over_index"] = ratio(rows, fastest, BEFORE, "index")
    return over


def _measured(given: Served, way: Way) -> float:
    """In a process of its own, as memory that is kept stays kept."""
    return alone(rate, given, way)


def rate(given: Served, way: Way) -> float:
    """Products a second; what only the first ones cost is not measured."""
    torch.set_num_threads(1)
    if way.keep and can_keep():
        keep_freed_memory()
    encoder = Encoder(given.checkpoint, engine=way.engine)
    listed = [Listed(one.product, one.category, str(one.image), "") for one in given.products]
    with TemporaryDirectory() as folder:
        vectors = PendingVectors(Path(folder), encoder, "0" * 64)
        vectors.add(listed[: way.batch], way.batch)
        began = time.perf_counter()
        vectors.add(listed, way.batch)
        return max(1, len(listed) - way.batch) / (time.perf_counter() - began)
