"""How a source on disk becomes batches of triplets and of evaluation pictures: the LightningDataModule."""

import logging
from collections.abc import Mapping
from typing import Any, get_type_hints

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from ctl_lightning.data.images import Aspect, Interpolation
from ctl_lightning.data.kept_loaders import Batches, KeptLoader, as_it_is, import_torch_once
from ctl_lightning.data.negatives import Negatives, NegativeSampler
from ctl_lightning.data.prepared import PreparedData
from ctl_lightning.data.samplers import EpochSampler, Share, check_processes
from ctl_lightning.data.scene_inputs import SceneInput
from ctl_lightning.data.shown import ShownData
from ctl_lightning.data.sources.registry import make_source, source_hints
from ctl_lightning.data.sources.source import Source
from ctl_lightning.data.splits import SPLITS, Split, SplitRule, TwinRule
from ctl_lightning.data.store.factory import StoreKind
from ctl_lightning.data.store.views import Augment
from ctl_lightning.data.transforms import jitter_batch
from ctl_lightning.data.triplets import (
    PairBatch,
    PairDataset,
    Triplet,
    TripletDataset,
)
from ctl_lightning.runtime.errors import InputError

log = logging.getLogger(__name__)

PRODUCTS = "products"
"""Name of the catalogue among the lists of pictures to embed; the others are those of the scene crops of a split."""

LEFT_TO_WEIGHTS = ("stored_size", "image_size", "interpolation")
"""Options that a config may leave to the weights of the backbone."""


class TripletDataModule(ShownData, LightningDataModule):
    """Batches of triplets (or pairs) for training; of scene crops and catalogue products for validation and test.

    Args:
        root: folder with the data of the source.
        source: format of that data: a Source, or its options with `name`, a key of `sources.registry.SOURCES`.
        cache_dir: folder in which image stores are kept.
        stored_size: side of the stored pictures, in pixels.
        aspect: how a picture becomes a square: "stretch", "pad" or "crop".
        interpolation: filter that resizes it: "nearest", "bilinear", "bicubic" or "lanczos".
        store: kind of image store, "packed", "litdata" or "none"; see `open_store`.
        chunks_dir: folder for the chunks of "litdata"; see `open_store`.
        image_size: side of the part of a stored picture that the network sees, in pixels.
        augment: change of training pictures: "none": their centres, as in evaluation; "crop": a random part, mirrored
            half of the time (the paper's); "colour": that, and random colours (brightness, contrast, saturation),
            changed on the device.
        margin: distance that a box grows on each side before it is cut away, as a share of the image side, say 0.05.
        min_area: smallest area of a scene crop, as a share of the scene, such as 0.2; pairs below it are dropped.
        exclude_categories: names of categories to leave out, with their products and pairs.
        max_bad_images: largest share of unreadable images, such as 0.01, up to which the run goes on without them.
        scene: what a method is shown of a scene: "crop", "strips", "box" or "geometry"; see `SceneInput`.
        boxes: whether batches of pairs also hold the features of their boxes, for the box loss.
        negatives: source of negatives: "uniform" (the paper's) or "pairs": see NegativeSampler; "in_batch": none are
            drawn, batches are of pairs.
        same_category: size of the groups of "in_batch": the pairs of a group follow each other, are of one category,
            and are each other's negatives. The border of two batches cuts a group; a pair without a negative does not
            count in the loss.
        batch_size: number of triplets or pairs that each process has in a training step.
        eval_batch_size: number of pictures that each process has in a step of validation or test.
        num_workers: number of loader processes; the result does not depend on it.
        seed: random seed of negatives, order and augmentation.
        salt: text hashed into split and evaluation triplets; equal salt and data give the same split and triplets.
        split_file: published split.json to use in place of the split that the salt gives; None: the salt decides.
        twins: pictures that are one photo: "merge": count as one; "keep": are not looked for; this and the next: see SplitRule.
        folds: number of folds, of which one is for testing; None: a tenth of the scenes is for testing.
        fold: number of the fold that is for testing, from 0.
        train_share: share of the training scenes that are used, such as 0.25; validation and test stay as they are.
        triplets_file: published triplets.jsonl to use in place of those that the salt gives; None: the salt decides.
    """

    _kept: KeptLoader | None = None
    _kept_for: tuple[object, ...] = ()

    def __init__(
        self,
        root: str,
        source: Source | Mapping[str, Any],
        cache_dir: str,
        stored_size: int,
        aspect: Aspect,
        interpolation: Interpolation,
        store: StoreKind,
        chunks_dir: str | None,
        image_size: int,
        augment: Augment,
        margin: float,
        min_area: float,
        exclude_categories: list[str],
        max_bad_images: float,
        scene: SceneInput,
        boxes: bool,
        negatives: Negatives,
        same_category: int,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        seed: int,
        salt: str | int,
        split_file: str | None,
        twins: TwinRule,
        folds: int | None,
        fold: int,
        train_share: float,
        triplets_file: str | None,
    ) -> None:
        _check_sizes(image_size, stored_size)
        _check_batches(batch_size, eval_batch_size, num_workers, negatives, same_category)
        LightningDataModule.__init__(self)
        PreparedData.__init__(
            self,
            root,
            source if isinstance(source, Source) else make_source(source),
            cache_dir,
            stored_size,
            aspect,
            interpolation,
            store,
            chunks_dir,
            margin,
            min_area,
            exclude_categories,
            max_bad_images,
            SplitRule(str(salt), split_file, twins, folds, fold, train_share),
            triplets_file,
            batch_size,
        )
        self.image_size, self.augment = image_size, augment
        self.scene, self.boxes = scene, boxes
        self.negatives: Negatives = negatives
        self.same_category = same_category
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed = num_workers, seed
        self._first = 0, 0

    @staticmethod
    def option_hints(options: Mapping[str, Any]) -> dict[str, Any]:
        """Option name -> type annotation, with those of the chosen source under "source"; see `runtime.config`.

        In a config, sizes may be null: the weights of the backbone then decide (`training.picture_options`).
        """
        hints = get_type_hints(TripletDataModule.__init__)
        hints |= {name: hints[name] | None for name in LEFT_TO_WEIGHTS}
        source = options.get("source")
        of_source = source_hints(source) if isinstance(source, Mapping) else dict[str, Any]
        return {name: hint for name, hint in hints.items() if name != "return"} | {"source": of_source}

    def train_dataloader(self) -> DataLoader[Any]:
        """Loader of Triplet batches; of PairBatch batches if `negatives` is "in_batch"."""
        pairs = self.pairs["train"]
        dataset: Dataset[Any]
        if self.negatives == "in_batch":
            dataset = PairDataset(pairs, self.table, self.product_views, self.scene_views, self.box_views)
        else:
            negatives = NegativeSampler(self.table, frozenset(self.products), pairs, self.negatives)
            # With negatives=pairs a pair can have no negative although its category has other products.
            pairs = [pair for pair in pairs if negatives.exists(pair)]
            dataset = TripletDataset(pairs, self.categories, self.product_views, negatives, self.seed, self.scene_views)
        same = self.same_category if self.negatives == "in_batch" else 1
        sampler = EpochSampler(
            [pair.category for pair in pairs], self.seed, self._next_batch, self.batch_size, same, self._share
        )
        return DataLoader(
            dataset,
            self.batch_size,
            sampler=sampler,
            drop_last=True,
            **self._loader_options(),
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Changes the colours of training pictures if `augment` is "colour"."""
        if self.augment != "colour" or not isinstance(batch, (Triplet, PairBatch)):
            return batch
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx  # type: ignore[union-attr]
        return jitter_batch(batch, self.seed, number, self._share.rank)

    def val_dataloader(self) -> list[Batches]:
        """Two loaders for the validation split: its scene crops, and the catalogue."""
        return self.evaluation_loaders("validation", self._share)

    def test_dataloader(self) -> list[Batches]:
        """Two loaders for the test split: its scene crops, and the catalogue."""
        return self.evaluation_loaders("test", self._share)

    def evaluation_loaders(self, split: Split, share: Share) -> list[Batches]:
        """Two loaders for a split, with one process's share of the batches: its scene crops, and the catalogue.

        They share loader processes with those of the other split; one is iterated over at a time.
        """
        if self._kept is None or self._kept_for != self._shown:
            tasks = {name: self.evaluation(name) for name in SPLITS[1:] if self.pairs[name]}
            lists = {PRODUCTS: self.product_images(tasks["test"])}
            lists |= {name: self.query_images(task) for name, task in tasks.items()}
            self._kept, self._kept_for = KeptLoader(lists, **self._loader_options()), self._shown
        return [self._kept.batches(name, share, self.eval_batch_size) for name in (split, PRODUCTS)]

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the next epoch and batch, the number of processes, and a hash of each split's pairs."""
        epoch, batch = self._next_batch()
        return {"epoch": epoch, "batch": batch, "processes": self._share.processes, "pairs": self.pair_hashes()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues at the epoch, and the batch in it, that the checkpoint names.

        Raises:
            InputError: the checkpoint's run had other pairs: some that it trained on may be in this run's test split;
                also as `check_processes`.
        """
        if state_dict["pairs"] != self.pair_hashes():
            raise InputError(
                f"ckpt_path: it was trained on other pairs than those of {self.root}; "
                "give the data that it was trained on, or start a new run without ckpt_path"
            )
        self.check_processes(self._share.processes, state_dict)
        self._first = state_dict["epoch"], state_dict.get("batch", 0)

    def check_processes(self, processes: int, state_dict: Mapping[str, Any] | None) -> None:
        """Checks that `processes` processes can train from a state (None: the start); see `samplers.check_processes`."""
        check_processes(processes, len(self.pairs["train"]), self.batch_size, state_dict or {})

    @property
    def _share(self) -> Share:
        return Share(self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else Share()

    def _next_batch(self) -> tuple[int, int]:
        """The epoch, and the batch in it, with which training goes on."""
        if self.trainer is None:
            return self._first
        fit = self.trainer.fit_loop
        done = fit.epoch_loop.batch_progress.current.ready
        batch = done if done < fit.max_batches else 0
        # Loaders of a resumed run begin to fetch before Lightning has restored its own counts.
        return max(self._first, (fit.epoch_progress.current.processed, batch))  # type: ignore[attr-defined]

    def _loader_options(self) -> dict[str, Any]:
        if self.num_workers > 0:
            import_torch_once()
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {
            "num_workers": self.num_workers,
            # New processes would take longer to start than an epoch on features lasts.
            "persistent_workers": self.num_workers > 0,
            "pin_memory": on_gpu,
            "collate_fn": as_it_is,
        }


def _check_sizes(image_size: int, stored_size: int) -> None:
    if not 0 < image_size <= stored_size:
        raise ValueError(f"image_size must be between 1 and stored_size={stored_size}, not {image_size}")


def _check_batches(
    batch_size: int, eval_batch_size: int, num_workers: int, negatives: Negatives, same_category: int
) -> None:
    if num_workers < 0 or eval_batch_size < 1:
        raise ValueError("num_workers must be at least 0 and eval_batch_size at least 1")
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 for batch normalisation, not {batch_size}")
    if negatives == "in_batch" and not 2 <= same_category <= batch_size:
        raise ValueError(
            f"same_category must be between 2 and batch_size={batch_size}, not {same_category}; give data.same_category=N"
        )
