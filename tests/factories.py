"""What the tests make for themselves: small data, networks, trainings and catalogues. No test file imports another one."""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from lightning import Trainer
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from ctl_lightning.catalogue import catalogue
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.data.pairs import Pair
from ctl_lightning.data.sources.stl import ShopTheLook
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.preprocessing import IMAGENET
from ctl_lightning.models.registry import METHODS, own_options
from ctl_lightning.reports.paper_rows import METRICS
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.csv_files import csv_text
from ctl_lightning.runtime.words import spelled_out
from ctl_lightning.serving.recommender import Recommender
from ctl_lightning.train import train
from ctl_lightning.training.module import CompleteTheLook

REPOSITORY = Path(__file__).resolve().parents[1]

PROGRAMS = (
    *(
        "train",
        "evaluate",
        "prepare",
        "catalogue",
        "recommend",
        "rerank",
        "demo",
        "serve",
        "export",
        "benchmark",
        "paper",
    ),
    *("sweep_table", "check_splits", "publish", "dashboard"),
)

LATE = ("torch", "torchvision", "lightning", "torchmetrics", "wandb", "sklearn", "scipy", "pydantic", "huggingface_hub")
"""What `runtime` and the programs import within functions alone: they answer before it is there."""

Compose = Callable[..., DictConfig]
MakeData = Callable[..., TripletDataModule]


def image_id(name: str) -> str:
    """32 hex digits for a readable name."""
    return hashlib.md5(name.encode()).hexdigest()


def save_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> None:
    """A small JPEG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_look_files(root: Path, rows: list[dict[str, Any]], catalogue: dict[str, str], *, images: bool = True) -> Path:
    """A folder in Shop-the-Look's format."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "fashion.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "fashion-cat.json").write_text(json.dumps(catalogue))
    (root / "images").mkdir(exist_ok=True)
    if images:
        for seed, name in enumerate(sorted({row["scene"] for row in rows} | set(catalogue))):
            save_image(root / "images" / name[:2] / f"{name}.jpg", seed)
    return root


def room_instance(
    product: object, left: int = 30, top: int = 40, category: str = "lamp", **more: Any
) -> dict[str, Any]:
    """An instance of a room in DeepFurniture's format: a box of 40 x 20 pixels."""
    box = {"xMin": left, "xMax": left + 40, "yMin": top, "yMax": top + 20}
    return {
        "identityID": product,
        "boundingBox": box,
        "categoryName": category,
        "segmentation": [9, 1],
        "numberID": 1,
    } | more


def write_rooms(root: Path, rooms: Mapping[str, Sequence[object]], products: Mapping[str, int]) -> Path:
    """A folder in DeepFurniture's format, unpacked: room -> instances, product -> number of its category; rooms of 200 x 100 pixels."""
    (root / "metadata").mkdir(parents=True)
    (root / "metadata/categories.json").write_text(json.dumps({"4": "lamp", "3": "chair#stool"}))
    records = [{"furniture_id": name, "category_id": number, "style_ids": None} for name, number in products.items()]
    (root / "metadata/furnitures.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for seed, name in enumerate(products):
        save_image(root / "furnitures" / f"{name}.jpg", seed)
    for seed, (room, instances) in enumerate(rooms.items()):
        save_image(root / "scenes" / room / "image.jpg", 1000 + seed, (200, 100))
        (root / "scenes" / room / "annotation.json").write_text(json.dumps({"instances": instances}))
    return root


def data_module(root: Path, cache: Path, **options: Any) -> TripletDataModule:
    """A data module on a folder in Shop-the-Look's format."""
    defaults: dict[str, Any] = {
        "source": ShopTheLook("fashion.json", "fashion-cat.json"),
        "stored_size": 36,
        "image_size": 32,
        "augment": "crop",
        "aspect": "stretch",
        "interpolation": "bilinear",
        "store": "packed",
        "chunks_dir": None,
        "margin": 0.05,
        "min_area": 0.2,
        "exclude_categories": [],
        "max_bad_images": 0.01,
        "scene": "crop",
        "boxes": False,
        "negatives": "uniform",
        "same_category": 4,
        "batch_size": 4,
        "eval_batch_size": 8,
        "num_workers": 0,
        "seed": 0,
        "salt": "0",
        "split_file": None,
        "twins": "merge",
        "folds": None,
        "fold": 0,
        "train_share": 1.0,
        "triplets_file": None,
    }
    return TripletDataModule(root=str(root), cache_dir=str(cache), **defaults | options)


TINY = (
    "data.source.scenes=150",
    "data.source.variants=1",
    "data.batch_size=16",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=5",
    "trainer.enable_progress_bar=false",
    "callbacks=quiet",
    "model.dim=16",
    "model.hidden=16",
)
"""Overrides that make a training of two seconds."""


def fitting(words: Sequence[str]) -> list[str]:
    """Overrides without the options of TINY that the method of their `+experiment=` does not have."""
    experiment = next((word.partition("=")[2] for word in words if word.startswith("+experiment=")), "hybrid")
    lacks = {*(["model.hidden=16"] if experiment in ("siamese", "ibr", "bpr_dae", "imagenet", "popularity") else [])}
    lacks |= {*(["model.dim=16"] if experiment in ("imagenet", "popularity") else [])}
    return [word for word in words if word not in lacks]


def train_on(looks: Path, cache: Path, folder: Path, *more: str) -> Path:
    """The run directory of a hybrid (or of what `more` says) on `looks`."""
    small = [word for word in TINY if not word.startswith("data.")]
    sizes = ["data.stored_size=36", "data.image_size=32", "data.batch_size=4", "backbone.grid=4"]
    words = [f"paths.run_dir={folder}", f"paths.cache_dir={cache}", "data=stl_fashion", f"data.root={looks}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunReport, "draw", lambda *_: {})
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            train(hydra.compose("train", fitting([*small, *sizes, *words, *more])))
    return folder


def composed(program: str, folder: Path, *words: str) -> Any:
    """The config of a program with options as on its command line."""
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose(program, spelled_out([f"paths.run_dir={folder}", *words], program))


KEPT = ("keep_memory=false",)
"""What a program keeps by default, the process of the tests must not: it would stay so for all tests."""


def make_catalogue(run: Path, folder: Path, *words: str) -> Path:
    """A catalogue of a run's data, or as `words` say."""
    catalogue(composed("catalogue", folder / "hydra", f"ckpt_path={run}", f"catalogue={folder}", *KEPT, *words))
    return folder


BACKBONE: Any = {
    "library": "small",
    "name": "small",
    "weights": None,
    "preprocessing": IMAGENET.plain(),
    "pooled_layer": "pooled",
    "region_layer": "regions",
    "stage_layers": None,
    "pooled": ["final"],
    "grid": 4,
    "frozen": False,
    "checkpointing": False,
    "cache": "auto",
    "cache_views": 0,
    "cache_dtype": "float16",
}
TRIPLET = {"name": "triplet", "margin": 0.2}


def module(kind: type[CompleteTheLook] = CompleteTheLook, **options: Any) -> CompleteTheLook:
    defaults: dict[str, Any] = {
        "method": "hybrid",
        "categories": ["Apparel & Accessories|Hats", "Apparel & Accessories|Shoes"],
        "backbone": BACKBONE,
        "dim": 8,
        "hidden": 8,
        "dropout": 0.0,
        "attention": "category",
        "attention_temperature": 1.0,
        "learn_temperature": False,
        "squared": True,
        "loss": TRIPLET,
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "schedule": "constant",
        "seed": 0,
    }
    method = METHODS[options.get("method", "hybrid")]
    of_methods = {name for one in METHODS.values() for name in own_options(one)}
    other = of_methods - own_options(method).keys()
    return kind(**{name: value for name, value in defaults.items() if name not in other} | options)


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
    }
    return Trainer(**defaults | options)


BOX = (0.0, 0.0, 0.5, 0.5)


def task(seed: int = 0, pairs: int = 60, products: int = 40, scenes: int = 25) -> EvaluationSet:
    """Random pairs of two categories; scenes have several pairs, so some products are masked; half of the products are seen."""
    random = np.random.default_rng(seed)
    product_category = np.arange(products) % 2
    positive = random.integers(products, size=pairs)
    scene = random.integers(scenes, size=pairs)
    category = product_category[positive]
    negative = np.array(
        [
            random.choice(np.flatnonzero((product_category == c) & (np.arange(products) != p)))
            for c, p in zip(category, positive, strict=True)
        ]
    )
    masked = tuple(
        np.array(sorted({int(q) for q in positive[scene == s]} - {int(p)}), int)
        for s, p in zip(scene, positive, strict=True)
    )
    return EvaluationSet(
        pairs=tuple(Pair(f"s{s}", BOX, f"p{p}", f"c{c}") for s, p, c in zip(scene, positive, category, strict=True)),
        categories=("c0", "c1"),
        products=tuple(f"p{n}" for n in range(products)),
        product_category=product_category,
        train_count=np.where(np.arange(products) % 4 < 2, random.integers(1, 9, size=products), 0),
        queries=tuple((f"s{s}", int(c)) for s, c in zip(scene, category, strict=True)),
        query=np.arange(pairs),
        positive=positive,
        negative=negative,
        category=category,
        scene=scene,
        masked=masked,
    )


def table_distances(table: Floats) -> Any:
    def distances(queries: Integers, products: Integers) -> Floats:
        return table[np.ix_(queries, products)]

    return distances


def pictures(count: int, seed: int = 0, size: int = 56) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def small(frozen: bool = False, grid: int = 7) -> Backbone:
    torch.manual_seed(0)
    return backbone_of("small", "pooled", "regions", grid, frozen)


def backbone_of(
    name: str, pooled_layer: str, region_layer: str, grid: int, frozen: bool, checkpointing: bool = False
) -> Backbone:
    """The small network, or one of torchvision, with random weights."""
    changed = {"library": "small" if name == "small" else "torchvision", "name": name, "grid": grid, "frozen": frozen}
    layers = {"pooled_layer": pooled_layer, "region_layer": region_layer, "checkpointing": checkpointing}
    return Backbone(BACKBONE | changed | layers)


MARGIN = 0.2

Batch = list[tuple[str, str, int]]
"""(scene, product, category) of each row."""


def slow_loss(variant: str, distance: Tensor, rows: Batch, named: dict[str, set[str]], tau: Tensor) -> Tensor:
    losses = []
    for i, (scene, _, category) in enumerate(rows):
        near = distance[i, i]
        far = [distance[i, j] for j, (_, other, c) in enumerate(rows) if c == category and other not in named[scene]]
        if not far:
            continue
        if variant == "info_nce":
            odds = [torch.exp(-d / tau) for d in [near, *far]]
            losses.append(-torch.log(odds[0] / sum(odds)))
            continue
        if variant == "all":
            chosen = far
        elif variant == "hardest":
            chosen = [min(far)]
        else:
            farther = [d for d in far if d > near]
            chosen = [min(farther)] if farther else [max(far)]
        hinges = [torch.clamp(MARGIN + near - d, min=0) for d in chosen]
        losses.append(torch.stack(hinges).mean())
    return torch.stack(losses).mean() if losses else distance.sum() * 0


LOSSES: dict[str, Any] = {
    "all": {"name": "in_batch_triplet", "margin": MARGIN, "mining": "all"},
    "semi_hard": {"name": "in_batch_triplet", "margin": MARGIN, "mining": "semi_hard"},
    "hardest": {"name": "in_batch_triplet", "margin": MARGIN, "mining": "hardest"},
    "info_nce": {"name": "info_nce", "temperature": 0.1, "learn_temperature": True, "box_weight": 0.5},
}


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits until something is so, which it has to be in time, however busy the machine is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def served_ranks(run: Path, folder: Path) -> list[float]:
    """What `recommend`'s path gives for each test pair, the scene's other products masked; ties share their places."""
    recommender = Recommender.from_checkpoint(run, folder)
    data = recommender.encoder.trained.data({})
    data.prepare_data()
    data.setup()
    task = data.evaluation("test")
    ranks = []
    for number, pair in enumerate(task.pairs):
        scene = data.source.image_path(data.root, pair.scene)
        count = recommender.catalogue.counts[pair.category]
        found = recommender.recommend(scene, pair.category, count, pair.box)
        assert [one.rank for one in found] == list(range(1, count + 1))
        masked = {task.products[product] for product in task.masked[number]}
        distance = {one.product: one.distance for one in found if one.product not in masked}
        own, all_distances = distance[pair.product], np.array(list(distance.values()))
        assert (np.diff(all_distances) >= 0).all()
        ranks.append(1 + float((all_distances < own).sum()) + float((all_distances == own).sum() - 1) / 2)
    return ranks


def write_ranked(folder: Path, pairs: Sequence[Mapping[str, object]], **results: Any) -> Path:
    """A run directory of made-up pairs, each with a "scene" and a "product"; metrics that a pair does not name are its auc."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["scene", "bbox", "product", "category", "seen", *METRICS]
    names += [name for name in ("group",) if name in pairs[0]]
    rows = [
        [
            ({"bbox": "0,0,1,1", "category": "c", "seen": 1} | dict.fromkeys(METRICS, pair["auc"]) | dict(pair))[name]
            for name in names
        ]
        for pair in pairs
    ]
    (folder / "pairs.csv").write_text(csv_text([names, *rows]))
    (folder / "results.json").write_text(json.dumps(results))
    return folder
