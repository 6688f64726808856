"""How fast training triplets arrive, without any network: from the store, from the image files, and in the usual way."""

import multiprocessing
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ctl_lightning.benchmarks.timing import Row, rates, ratio
from ctl_lightning.data.crop import scene_crop, to_pixels
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.triplets import TripletDataset
from ctl_lightning.models.components.preprocessing import IMAGENET

IMAGES_A_TRIPLET = 3

STORE, FILES, USUAL = "packed store", "image files (store=none)", "PIL, torchvision v1, float"


class UsualTriplets(Dataset[tuple[Tensor, Tensor, Tensor, int]]):
    """The same triplets as most code loads them: PIL and torchvision's first transforms in `__getitem__`, float tensors out."""

    def __init__(self, data: TripletDataModule, triplets: TripletDataset) -> None:
        self._data, self._triplets = data, triplets
        self._transform = transforms.Compose(
            [
                transforms.Resize(
                    (data.stored_size, data.stored_size), transforms.InterpolationMode(data.interpolation)
                ),
                transforms.RandomCrop(data.image_size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET.mean, IMAGENET.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._triplets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, int]:
        pair = self._triplets.pairs[index]
        scene = self._open(pair.scene)
        scene = scene.crop(to_pixels(scene_crop(pair.box, self._data.margin), scene.width, scene.height))
        positive, negative = self._open(pair.product), self._open(self._triplets.negative(0, index))
        category = self._data.categories.index(pair.category)
        return self._transform(scene), self._transform(positive), self._transform(negative), category

    def _open(self, image: str) -> Image.Image:
        return Image.open(self._data.source.image_path(self._data.root, image)).convert("RGB")


def loader_rows(make: Callable[..., TripletDataModule], seconds: float, rounds: int, workers: int) -> list[Row]:
    """Images a second with and without loader processes, and the memory of such a process.

    Args:
        make: makes the data module with options changed.
        seconds: length of each measurement, in seconds.
        rounds: number of times that each is measured.
        workers: loader processes of the rows that have some.

    Returns:
        Rows STORE, FILES, USUAL, each alone on one core and with workers; then the memory of a worker.
    """
    torch.set_num_threads(1)  # what a loader process has
    work: dict[str, Callable[[], Iterator[int]]] = {}
    for count in (0, workers):
        packed, files = (_ready(make(store=kind, num_workers=count)) for kind in ("packed", "none"))
        triplets = packed.train_dataloader().dataset
        assert isinstance(triplets, TripletDataset)
        usual = DataLoader(
            UsualTriplets(packed, triplets), packed.batch_size, shuffle=True, num_workers=count, drop_last=True
        )
        loaders = {STORE: packed.train_dataloader(), FILES: files.train_dataloader(), USUAL: usual}
        for name, loader in loaders.items():
            work[f"{name}, {_processes(count)}"] = partial(_images, loader, packed.batch_size)
    found = rates(work, seconds, rounds)
    rows = [Row("loader", name, values, "images/s") for name, values in found.items()]
    for count in sorted({1, workers}):
        memory = _private_memory(_ready(make(store="packed", num_workers=count)))
        if memory:
            rows.append(Row("loader memory", f"a worker's own, {_processes(count)}", memory, "MB"))
    return rows


def _ready(data: TripletDataModule) -> TripletDataModule:
    data.prepare_data()
    data.setup()
    return data


def _processes(count: int) -> str:
    return "in the main process" if count == 0 else f"{count} worker{'s' if count > 1 else ''}"


def _images(loader: DataLoader[object], batch: int) -> Iterator[int]:
    for epoch in repeat(loader):
        for _ in epoch:
            yield IMAGES_A_TRIPLET * batch


def _private_memory(data: TripletDataModule) -> list[float]:
    """MB that each loader process has for itself after half an epoch; pages of the mapped store are everybody's. Linux only."""
    loader = data.train_dataloader()
    batches = iter(loader)
    for _ in range(max(1, len(loader) // 2)):
        next(batches)
    found = []
    for process in multiprocessing.active_children():
        rollup = Path(f"/proc/{process.pid}/smaps_rollup")
        if rollup.exists():
            sizes = re.findall(r"^Private_\w+:\s+(\d+) kB", rollup.read_text(), re.MULTILINE)
            found.append(sum(map(int, sizes)) / 1024)
    return found


def loader_ratios(rows: list[Row]) -> dict[str, float]:
    """What the rows of one core say in one number each: images/s over those of USUAL; larger is better for us."""
    alone = _processes(0)
    return {
        name: ratio(rows, f"{ours}, {alone}", f"{USUAL}, {alone}", "loader")
        for name, ours in (("store_over_pil", STORE), ("files_over_pil", FILES))
    }
