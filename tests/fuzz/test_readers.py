"""Each reader is given a valid file that was broken somewhere: it reads it, or says in one line what is wrong with which file.

`FUZZ_INPUTS=1000 FUZZ_SEED=1 pytest tests/fuzz -rP` tries more, and others; docs/architecture.md says how.
"""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz.breaking import break_file
from fuzz.odd import Draw, one_of
from fuzz.places import copied, is_given
from fuzz.running import hangs_are_ended
from fuzz.trying import try_inputs

from ctl_lightning.data.category_names import read_category_map
from ctl_lightning.data.images import open_upright, size_upright
from ctl_lightning.data.names import id_problem
from ctl_lightning.data.products import read_products
from ctl_lightning.data.published_splits import read_published, split_problems
from ctl_lightning.data.sources.deepfurniture import DeepFurniture
from ctl_lightning.data.sources.folder import LooksFolder
from ctl_lightning.data.sources.stl import ShopTheLook
from ctl_lightning.data.sources.street2shop import Street2Shop
from ctl_lightning.data.splits import read_split, read_triplets
from ctl_lightning.data.store.packing import read_index
from ctl_lightning.reports.paper_rows import read_row
from ctl_lightning.reports.sweep import read_sweep
from ctl_lightning.runtime.csv_files import read_metrics
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.reading import json_lines, read_json, read_names
from ctl_lightning.serving.catalogue.files import Manifest, all_products, open_files
from ctl_lightning.serving.trained import Trained

INPUTS = int(os.environ.get("FUZZ_INPUTS", "40"))

Read = Callable[[Path], Any]
"""Reads what is below a folder."""


def catalogue(folder: Path) -> None:
    manifest = Manifest.read(folder / "exact")
    if manifest is not None:
        all_products(open_files(folder / "exact", manifest)[1])


def checkpoint(name: str) -> Read:
    def read(folder: Path) -> None:
        trained = Trained(folder / name)
        trained.network()
        trained.data({"root": "looks"})

    return read


def published(folder: Path) -> list[str]:
    return list(split_problems(read_published(folder / "splits/folder.json")))


def index(folder: Path) -> Any:
    name = next(folder.with_name("valid").glob("cache/stores/*.json")).name
    return read_index(folder / "cache/stores" / name)


def looks(name: str) -> Read:
    return lambda folder: LooksFolder().read(folder / name)


def checked(name: str) -> Read:
    return lambda folder: LooksFolder().check(folder / name)


def products(name: str) -> Read:
    return lambda folder: read_products(folder / name, id_problem)


READERS: dict[str, tuple[Read, tuple[str, ...]]] = {
    "json": (lambda folder: read_json(folder / "looks/categories.json"), ("looks/categories.json",)),
    "json_lines": (lambda folder: list(json_lines(folder / "looks/pairs.jsonl")), ("looks/pairs.jsonl",)),
    "names": (lambda folder: read_names(folder / "lists/candidates.txt", "a", "b"), ("lists/candidates.txt",)),
    **{f"folder_{of}": (looks(of), (f"{of}/*.*",)) for of in ("looks", "tables", "columns")},
    **{f"check_{of}": (checked(of), (f"{of}/*.*", f"{of}/images/*0.jpg")) for of in ("looks", "tables", "columns")},
    **{
        name: (products(name), (name,))
        for name in ("looks/categories.json", "tables/products.csv", "columns/products.parquet")
    },
    "shop_the_look": (lambda folder: ShopTheLook("pairs.jsonl", "categories.json").read(folder / "stl"), ("stl/*.*",)),
    "street2shop": (lambda folder: Street2Shop().read(folder / "street"), ("street/meta/json/*", "street/images/*")),
    "deepfurniture": (
        lambda folder: DeepFurniture().read(folder / "rooms"),
        ("rooms/metadata/*", "rooms/scenes/*/*.json", "rooms/scenes/*/*"),
    ),
    "picture": (
        lambda folder: (size_upright(folder / "photos/a.jpg"), open_upright(folder / "photos/a.jpg")),
        ("photos/a.jpg",),
    ),
    "split": (lambda folder: read_split(folder / "run/split.json"), ("run/split.json",)),
    "triplets": (lambda folder: read_triplets(folder / "run/triplets.jsonl"), ("run/triplets.jsonl",)),
    "map": (lambda folder: read_category_map(folder / "lists/map.json"), ("lists/map.json",)),
    "published": (published, ("splits/folder.json",)),
    "index": (index, ("cache/stores/*.json",)),
    "checkpoint": (checkpoint("run"), ("run/checkpoints/best*.ckpt",)),
    "model": (
        checkpoint("published"),
        ("published/config.json", "published/config.json", "published/model.safetensors"),
    ),
    "catalogue": (catalogue, ("exact/*.*",)),
    "metrics": (lambda folder: read_metrics(folder / "run/metrics.csv"), ("run/metrics.csv",)),
    "sweep": (lambda folder: read_sweep(folder / "sweep"), ("sweep/*/*.*", "sweep/*/.hydra/*")),
    "paper": (lambda folder: read_row("x", [folder / "paper/folder/popularity/seed0"], [], []), ("paper/*/*/*/*.*",)),
}
"""Reader -> how it is called on a case, and patterns of the files that it reads."""


@pytest.mark.parametrize("reader", READERS)
def test_a_broken_file_is_read_or_is_one_line(case: Path, fuzz_seed: int, reader: str) -> None:
    read, patterns = READERS[reader]

    def attempt(draw: Draw) -> tuple[str | None, str]:
        copied(case.with_name("valid"), case, {Path(pattern).parts[0] for pattern in patterns})
        path = one_of(draw, sorted(path for path in case.glob(one_of(draw, patterns)) if path.is_file()))
        what = break_file(draw, path, is_given(path, case))
        return complaint(read, case), what

    findings = try_inputs(INPUTS, fuzz_seed, attempt)
    print(f"{reader}, seed {fuzz_seed}: {INPUTS} inputs")
    assert not findings, findings


def complaint(read: Read, case: Path) -> str | None:
    """What a user could complain about."""
    try:
        with hangs_are_ended():
            read(case)
    except OSError as error:
        return f"says {error}" if "\n" in str(error) else None  # of a picture: its file is told by who opened it
    except InputError as error:
        said = str(error)
        if "\n" in said or len(said) > 1000:
            return f"says {said[:200]!r}, {len(said)} letters"
        return None if str(case) in said or case.name in said else f"names no file: {said[:100]}"
    except Exception as error:
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        return f"{type(error).__name__} at {' < '.join(reversed(where[-4:]))}: {str(error)[:100]}"
    return None
