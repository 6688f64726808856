"""A folder with everything that the programs read, all of it valid; and a copy of it for each case."""

import csv
import json
import os
import shutil
from collections.abc import Collection
from contextlib import chdir
from pathlib import Path

import pyarrow
from factories import composed, make_catalogue, room_instance, save_image, train_on, write_rooms
from pyarrow import parquet

from ctl_lightning.data.published_splits import published_split, write_published
from ctl_lightning.reports.cells import cells_of
from ctl_lightning.runtime.config import resolved
from ctl_lightning.serving.publishing import write_published_model
from ctl_lightning.serving.trained import Trained

SHOES, HATS = "Shoes", "Hats"


PAPER = ("protocols=[folder]", "methods=[popularity]", "seeds=[0]", "product_visible=false", "hydra.run.dir=paper")
"""Words of a table of one cell, which is finished."""


GIVEN = ("looks", "tables", "columns", "stl", "street", "rooms", "lists", "photos")
"""Folders of what users bring; the rest is what programs wrote."""


def is_given(path: Path, case: Path) -> bool:
    return path.relative_to(case).parts[0] in GIVEN


def make_place(folder: Path, case: Path) -> Path:
    """Data in three formats, a trained run, that run published, catalogues, a published split, a sweep, a paper's run directory, and lists.

    Args:
        folder: folder to make it in.
        case: folder that it is copied to, which the cells of a paper know.
    """
    folder.mkdir()
    with chdir(folder):
        _make_data(Path("looks"))
        words = ["data=folder", "data.root=looks", "paths.data_dir=data"]
        train_on(Path("looks"), Path("cache"), Path("run"), *words, "hydra.output_subdir=null")
        for backend in ("exact", "faiss"):
            graphs = ["catalogue.hnsw_from=2"] if backend == "faiss" else []
            make_catalogue(Path("run"), Path(backend), "data.root=looks", f"catalogue.backend={backend}", *graphs)
        write_published_model(Trained(Path("run")), Path("published"), "A card.", None)
        _make_lists(Path())
        _make_street(Path("street"))
        write_rooms(
            Path("rooms"), {f"room{n}": [room_instance(7), room_instance(8)] for n in range(2)}, {"7": 4, "8": 4}
        )
        _make_splits(Path("splits"))
        _make_jobs(case)
        for name in ("a.jpg", "b.jpg"):
            save_image(Path("photos") / name, 9)
        Path("taken").write_text("")
        shutil.rmtree("run/.lock", ignore_errors=True)
    return folder


def _make_data(root: Path) -> None:
    rows, catalogue = [], {f"shoe{n}": SHOES for n in range(4)} | {f"hat{n}": HATS for n in range(4)}
    for n in range(36):
        rows.append({"scene": f"scene{n}", "product": f"shoe{n % 4}", "bbox": [0.2, 0.8, 0.8, 0.95]})
        rows.append({"scene": f"scene{n}", "product": f"hat{n % 4}", "bbox": [0.3, 0.05, 0.7, 0.2]})
    root.mkdir()
    for seed, name in enumerate(sorted({row["scene"] for row in rows} | set(catalogue))):  # type: ignore[type-var]
        save_image(root / "images" / f"{name}.jpg", seed)
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "categories.json").write_text(json.dumps(catalogue))
    shutil.copytree(root, "stl", copy_function=os.link)
    flat = [
        {
            "scene": row["scene"],
            "product": row["product"],
            **dict(zip(("left", "top", "right", "bottom"), row["bbox"], strict=True)),
        }
        for row in rows
    ]
    for other in ("tables", "columns"):
        shutil.copytree(root / "images", Path(other) / "images", copy_function=os.link)
    for name, content in (
        ("pairs", flat),
        ("products", [{"product": key, "category": value} for key, value in catalogue.items()]),
    ):
        with Path("tables", f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
        parquet.write_table(pyarrow.Table.from_pylist(content), Path("columns", f"{name}.parquet"))


def _make_street(root: Path) -> None:
    """Street2Shop's files: two categories, each with two products."""
    (root / "meta/json").mkdir(parents=True)
    for number, category in enumerate(("hats", "shoes")):
        shop = [{"photo": 10 * number + n, "product": n} for n in range(2)]
        box = {"left": 1, "top": 1, "width": 20, "height": 20}
        street = [{"photo": 100 + 10 * number + n, "product": n, "bbox": box} for n in range(2)]
        (root / f"meta/json/retrieval_{category}.json").write_text(json.dumps(shop))
        (root / f"meta/json/train_pairs_{category}.json").write_text(json.dumps(street))
        for row in shop + street:
            save_image(root / "images" / f"{row['photo']:09d}.jpg", 3)


def _make_lists(folder: Path) -> None:
    (folder / "lists").mkdir()
    (folder / "lists/candidates.txt").write_text("shoe0\nshoe1\nphotos/a.jpg\n")
    (folder / "lists/products.json").write_text(json.dumps({"hat0": HATS, "shoe1": SHOES}))
    (folder / "lists/remove.txt").write_text("hat0\nshoe1\n")
    (folder / "lists/map.json").write_text(json.dumps({SHOES: SHOES, HATS: None}))


def _make_splits(folder: Path) -> None:
    folder.mkdir()
    shutil.copy("run/triplets.jsonl", folder / "folder_triplets.jsonl")
    scenes = json.loads(Path("run/split.json").read_text())["split_of_scene"]
    write_published(
        folder / "folder.json", published_split("folder", scenes, "0", {}, "all", folder / "folder_triplets.jsonl")
    )


def _make_jobs(case: Path) -> None:
    """A sweep of two jobs, another one in which one failed; and a paper's folder with one finished cell."""
    for number in range(4):
        job = Path("failing" if number > 1 else "sweep", f"{number}_hybrid_seed{number}")
        (job / ".hydra").mkdir(parents=True)
        (job / ".hydra/overrides.yaml").write_text(f"- seed={number}\n- model.dim=16\n")
        if number == 3:
            (job / "error.txt").write_text("train: something\n")
        else:
            for name in ("results.json", "metrics.csv"):
                shutil.copy(Path("run") / name, job / name)
    cell = Path("paper/folder/popularity/seed0")
    cell.mkdir(parents=True)
    for name in ("results.json", "pairs.csv", "metrics.csv"):
        shutil.copy(Path("run") / name, cell / name)
    plain = resolved(composed("paper", case / "paper", *PAPER[:-1]))
    commands = [list(words) for words in cells_of(plain, case.resolve() / "paper")[0].commands]
    (cell / "done.json").write_text(json.dumps(commands))


def copied(valid: Path, case: Path, names: Collection[str] | None = None) -> Path:
    """A copy, of `names` alone if they are given, whose files are links to the valid ones, but for those that programs may write to."""
    shutil.rmtree(case, ignore_errors=True)
    for name in os.listdir(valid) if names is None else names:
        source = valid / name
        if source.is_file():
            os.makedirs(case, exist_ok=True)
            os.link(source, case / name)
        else:
            copy = shutil.copy2 if name == "cache" else os.link
            shutil.copytree(source, case / name, copy_function=copy)
    return case
