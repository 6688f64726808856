"""Valid ways to call each program: its words, the files that it reads, and where it stops when all is well."""

import socket
from typing import Any, NamedTuple, NoReturn

from fuzz.places import PAPER
from fuzz.running import Reached, reached

SMALL = (
    "data.stored_size=36",
    "data.image_size=32",
    "data.batch_size=4",
    "backbone.grid=4",
    "model.dim=16",
    "model.hidden=16",
)
TRAIN = (
    *(
        "trainer=cpu",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "callbacks=quiet",
        "backbone=small",
        *SMALL,
    ),
    *("paths.cache_dir=cache",),
)
RUN, CACHE = "ckpt_path=run", "paths.cache_dir=cache"
TRAINED = (RUN, "data.root=looks")
OTHERS = (RUN, CACHE, "accelerator=cpu", "product_visible=false", "data=folder")
WEIGHTS = ("run/checkpoints/*.ckpt",)
PUBLISHED = ("published/config.json", "published/config.json", "published/model.safetensors")
LOOKS = ("looks/*.json*", "looks/images/*0.jpg")
EXACT, FAISS = ("exact/*.*",), ("faiss/*.*",)


class Usage(NamedTuple):
    """A valid way to call a program.

    Attributes:
        words: its command line.
        files: patterns of the files that it reads.
        stops: what is replaced, so that long work is not begun.
    """

    words: tuple[str, ...]
    files: tuple[str, ...]
    stops: dict[str, Any] = {}  # noqa: RUF012


def data_of(folder: str) -> tuple[str, ...]:
    return ("data=folder", f"data.root={folder}", CACHE, "data.stored_size=36", "data.image_size=32")


def files_of(folder: str) -> tuple[str, ...]:
    return (f"{folder}/*.*", f"{folder}/*.*", f"{folder}/images/*0.jpg")


NO_FIT = {"lightning.Trainer.fit": reached}
NO_SHEET = {"ctl_lightning.reports.figures.grids.crop_sheet": lambda *_: None}
NO_PICTURES: dict[str, Any] = {"ctl_lightning.reports.run_report.RunReport.draw": lambda *_: {}}
NO_SERVER = {
    "ctl_lightning.serving.http.server.bound": lambda *_: socket.socket(),
    "ctl_lightning.serving.http.server.run": reached,
}


def only_made(config: Any, make: Any, measured: Any) -> NoReturn:
    """What a benchmark measures is made, and not measured."""
    make.ready()
    make.module()
    make.trainer()
    raise Reached


NO_MEASURE = {"ctl_lightning.benchmarks.measure.measure": only_made}

USAGES: dict[str, list[Usage]] = {
    "train": [
        *(
            Usage((*TRAIN, "data=folder", f"data.root={of}"), files_of(of), NO_FIT)
            for of in ("looks", "tables", "columns")
        ),
        Usage(
            (
                *TRAIN,
                *data_of("looks"),
                "hydra.run.dir=runs/run",
                "ckpt_path=run/checkpoints/last.ckpt",
                "trainer.max_epochs=2",
            ),
            WEIGHTS,
            NO_FIT,
        ),
        Usage((*TRAIN, *data_of("looks"), "init_from=run", "data.salt=1"), (*WEIGHTS, "run/split.json"), NO_FIT),
        Usage(
            (*TRAIN, *data_of("looks"), "data.split_file=run/split.json", "data.triplets_file=run/triplets.jsonl"),
            ("run/split.json", "run/triplets.jsonl"),
            NO_FIT,
        ),
        Usage((*TRAIN, *data_of("looks")), ("cache/stores/*",), NO_FIT),
    ],
    "prepare": [Usage(data_of(of), files_of(of), NO_SHEET) for of in ("looks", "tables", "columns")],
    "evaluate": [
        Usage(
            (*TRAINED, CACHE, "accelerator=cpu", "product_visible=false"),
            (*WEIGHTS, *LOOKS, "cache/stores/*"),
            NO_PICTURES,
        ),
        Usage(
            (*TRAINED, CACHE, "accelerator=cpu", "product_visible=false", "against=run/checkpoints/last.ckpt"),
            WEIGHTS,
            NO_PICTURES,
        ),
        Usage(
            (*OTHERS, "data.root=tables", "categories=lists/map.json"),
            (*WEIGHTS, "run/split.json", "tables/*.*", "lists/map.json"),
            NO_PICTURES,
        ),
        Usage(
            (*OTHERS, "data.root=looks", "against=run/checkpoints/last.ckpt"),
            LOOKS,
            NO_PICTURES,
        ),
    ],
    "catalogue": [
        Usage((*TRAINED, "catalogue=made"), (*WEIGHTS, *LOOKS)),
        Usage(("ckpt_path=published", "data.root=looks", "catalogue=made"), PUBLISHED),
        Usage(
            (*TRAINED, "catalogue=made", "products=lists/products.json", "images=looks/images"),
            ("lists/products.json",),
        ),
        *(
            Usage(
                (*TRAINED, f"catalogue={of}", "change=add", "products=lists/products.json", "images=looks/images"),
                (f"{of}/*.*", "lists/products.json"),
            )
            for of in ("exact", "faiss")
        ),
        Usage(
            (*TRAINED, "catalogue=exact", "change=remove", "products=lists/remove.txt"), (*EXACT, "lists/remove.txt")
        ),
    ],
    "recommend": [
        *(
            Usage(
                (*TRAINED, f"catalogue={of}", "scene=photos/a.jpg"),
                (f"{of}/*.*", f"{of}/*.*", *WEIGHTS, "photos/a.jpg", "looks/images/shoe*.jpg"),
            )
            for of in ("exact", "faiss")
        ),
        Usage((*TRAINED, "catalogue=exact", "scene=photos", "output=made/look.html"), ("photos/*", *EXACT)),
        Usage(
            (
                *TRAINED,
                "catalogue=exact",
                "scene=scene1",
                "category=Shoes",
                "box=[0.1,0.1,0.5,0.5]",
                "output=made/look.json",
            ),
            (*EXACT, *LOOKS),
        ),
    ],
    "rerank": [
        Usage(
            (*TRAINED, "scene=photos/a.jpg", "category=Shoes", "candidates=lists/candidates.txt"),
            (*WEIGHTS, "photos/a.jpg", "lists/candidates.txt", "looks/images/shoe*.jpg"),
        )
    ],
    "demo": [
        Usage((*TRAINED, "catalogue=exact", *more), (*WEIGHTS, *EXACT, *files), NO_SERVER)
        for more, files in (((), LOOKS), (("examples=photos",), ("photos/*",)))
    ],
    "serve": [Usage((RUN, f"catalogue={of}"), (*WEIGHTS, f"{of}/*.*"), NO_SERVER) for of in ("exact", "faiss")],
    "export": [Usage(("ckpt_path=run", "output=made"), WEIGHTS, {"torch.export.export": reached})],
    "publish": [
        Usage(("ckpt_path=run", "output=made"), (*WEIGHTS, "run/results.json", "run/split.json")),
        Usage(("ckpt_path=published", "output=published"), PUBLISHED),
    ],
    "paper": [
        Usage(
            (*PAPER, CACHE, "workers=1"),
            ("paper/folder/*/*/*",),
            {"ctl_lightning.reports.cells.run_cells": lambda *_: {}},
        )
    ],
    "sweep_table": [Usage((f"folder={of}",), (f"{of}/*/*.*", f"{of}/*/.hydra/*")) for of in ("sweep", "failing")],
    "dashboard": [
        Usage(
            ("entity=team", "project=looks", f"folder={of}", *more),
            (f"{of}/*/*.*", f"{of}/*/.hydra/*"),
            {"ctl_lightning.reports.workspace.saved": reached},
        )
        for of, more in (("sweep", ()), ("failing", ("output=made/report.json",)))
    ],
    "check_splits": [Usage(("data=folder", "folder=splits", "data.root=looks"), ("splits/*", *LOOKS))],
    "benchmark": [
        Usage(
            (*data_of("looks"), "trainer=cpu", "backbone=small", "what=loader", "rounds=1", "seconds=0.1"),
            LOOKS,
            NO_MEASURE,
        )
    ],
}

WRITTEN = {
    "catalogue": ("exact", "faiss"),
    "sweep_table": ("sweep", "failing"),
    "paper": ("paper",),
    "publish": ("published",),
}
"""Folders of a case that programs are told to change."""
