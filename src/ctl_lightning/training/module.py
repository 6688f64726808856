"""How a method is trained and measured: the LightningModule with network, loss, exact ranking metrics and optimiser."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
from lightning import LightningModule
from torch import Tensor

from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.data.triplets import EvaluationImage, PairBatch, Triplet
from ctl_lightning.metrics.pair_metrics import PairScores, logged_values, score_pairs
from ctl_lightning.metrics.ranking import CatalogueRanking, FixedRanking, IncompleteError, Kind, Ranked, Ranking
from ctl_lightning.models.checkpoint import FORMAT, fits_this_revision
from ctl_lightning.models.components.libraries.library import BackboneOptions
from ctl_lightning.models.components.losses import Loss, in_batch_negatives
from ctl_lightning.models.components.network import Network, require_positive, without_regions
from ctl_lightning.models.components.triplet_statistics import observations
from ctl_lightning.models.registry import make_loss, make_network, model_hints
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.distributed import in_all, mean_factor, of_all, several_processes
from ctl_lightning.training.optimisation import adam_with_schedule

KINDS: tuple[Kind, Kind] = ("scenes", "products")
"""Kind of picture that each loader of an evaluation gives, in the order of the loaders."""


class CompleteTheLook(LightningModule):
    """Trains the network of a method and ranks with it.

    Args:
        method: name of the method, a key of `models.registry.METHODS`.
        categories: names of the categories, in the order of their indices.
        backbone: options of the image network.
        loss: options of the loss: `name`, a key of `models.registry.LOSSES`, and those of its own.
        learning_rate: learning rate of Adam.
        weight_decay: weight decay of Adam.
        warmup_steps: number of steps in which the learning rate grows linearly to its full value.
        schedule: learning rate after the warm-up: "constant", or "cosine", which falls to 0 like a cosine.
        seed: random seed of dropout; that of each step is a function of seed and step, so that a resumed run repeats
            it.
        options: options of the method; see its class.

    Attributes:
        network: network of the method.
        loss: loss, with its learned parameters if it has any.
        embedded: embeddings of the split that is measured.
        origin: what it has of another run's checkpoint, as `StartingPoint.give` returns it; None: nothing.

    Raises:
        ValueError: an option out of its range; a loss that cannot train the method.
        InputError: no such method, loss, image network or layer.
    """

    network: Network
    loss: Loss

    def __init__(
        self,
        method: str,
        categories: list[str],
        backbone: BackboneOptions,
        loss: dict[str, Any],
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        schedule: Literal["constant", "cosine"],
        seed: int,
        **options: Any,
    ) -> None:
        super().__init__()
        require_positive(learning_rate=learning_rate)
        if backbone["cache_views"] < 0:
            raise ValueError(f"backbone.cache_views must not be negative, not {backbone['cache_views']}")
        if weight_decay < 0 or warmup_steps < 0:
            raise ValueError("weight_decay and warmup_steps must not be negative")
        self.save_hyperparameters(logger=False)  # the program hands the whole config to the loggers
        self.network = make_network(method, len(categories), backbone, options, loss["name"])
        self.loss = make_loss(loss)
        self.ranking: Ranked
        self.scores: PairScores
        self.embedded = CatalogueRanking(self.network)
        self.origin: dict[str, Any] | None = None
        self._finite = torch.tensor(True)
        self._distances: tuple[Tensor, Tensor, Tensor] | None = None

    @staticmethod
    def option_hints(options: Mapping[str, Any]) -> dict[str, Any]:
        """All options, with those of the chosen method and loss: name -> annotation; see `runtime.config`."""
        hints = get_type_hints(CompleteTheLook.__init__)
        general = {name: hint for name, hint in hints.items() if name not in ("options", "return")}
        return general | model_hints(options)

    @property
    def learns(self) -> bool:
        """Whether there is anything to train."""
        return bool(self.network.losses)

    @property
    def sees(self) -> bool:
        """Whether the method looks at pictures."""
        return self.network.sees

    def load_backbone_weights(self) -> None:
        """Loads the pretrained weights that the options name. Not needed for a checkpoint, which has all weights."""
        backbone: BackboneOptions = self.hparams["backbone"]
        if self.sees and backbone["weights"] is not None:
            self.network.backbone.load_weights(backbone["weights"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the version of the checkpoint format, and what the run started from."""
        checkpoint["format"] = FORMAT
        if self.origin is not None:
            checkpoint["init_from"] = self.origin

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers what the run started from."""
        self.origin = checkpoint.get("init_from")

    def configure_optimizers(self) -> Any:
        """Adam, with warm-up and schedule applied step by step."""
        # Lightning unscales float16 gradients itself, which fused Adam forbids.
        fused = self.trainer.precision != "16-mixed"
        optimiser, factor = adam_with_schedule(
            self.network, self.loss, self.hparams, self.trainer.estimated_stepping_batches, fused
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def on_train_start(self) -> None:
        """Starts to watch whether the loss is finite."""
        self._finite = torch.tensor(True, device=self.device)

    def on_train_batch_start(self, batch: Triplet | PairBatch, batch_idx: int) -> None:
        """Seeds the dropout of the batch by seed, batch number and process."""
        batch_number = self.trainer.fit_loop.epoch_loop.total_batch_idx * self.trainer.world_size + self.global_rank
        seed = (self.hparams["seed"] << 32) + batch_number
        if self.device.type == "cpu":
            # torch.manual_seed also keeps a stack trace for each kind of GPU that is not there: half a millisecond.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def training_step(self, batch: Triplet | PairBatch, batch_idx: int) -> Tensor:
        """The loss of a batch: three backbone passes per triplet, two per pair, none if the batch holds features."""
        loss = self.triplet_loss(batch) if isinstance(batch, Triplet) else self.in_batch_loss(batch)
        self._finite &= torch.isfinite(loss.detach())
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:
            self._log(loss.detach())
        self._distances = None
        return loss

    def _log(self, loss: Tensor) -> None:
        """Logs, but not in each step: the host would wait for the device, and steps on cached features are short."""
        self._stop_unless(in_all(self, bool(self._finite)))
        self.log("train/loss", loss, sync_dist=True)
        if self._distances is not None:
            found = observations(*self._distances, self.loss.hinge)
            share = mean_factor(self, self._distances[2].sum(dtype=loss.dtype))
            self.log_dict({f"train/{name}": share * value for name, value in found.items()}, sync_dist=True)
        learned = self.loss.logged() | self.network.logged()
        self.log_dict({f"train/{name}": value for name, value in learned.items()})

    def triplet_loss(self, batch: Triplet) -> Tensor:
        """The loss of triplets with sampled negatives."""
        style, products, penalty = self.network(batch.scene, (batch.positive, batch.negative), batch.category)
        values = []
        for scene, (near, far) in self.network.separately(style, products):
            positive, negative = self.network.distance(scene, near), self.network.distance(scene, far)
            self._distances = positive.detach(), negative.detach(), torch.ones_like(negative, dtype=torch.bool)
            values.append(self.loss(positive, negative, penalty))
        return mean_of(values)

    def in_batch_loss(self, batch: PairBatch) -> Tensor:
        """The loss of pairs whose products are each other's negatives, over the products of all processes.

        Each process takes its own queries, and gradients flow back to the process that a product came from. The
        gradients are averaged over the processes; the loss is scaled so that this is the mean over all queries that
        have negatives. With boxes the box loss is added: the scene's box, which shows its product as it is worn, is a
        further view of the product, free of wrong labels; a scene has to find it, and it has to find the product.
        """
        kinds = (batch.product,) if batch.box is None else (batch.product, batch.box)
        style, own, _ = self.network(batch.scene, kinds, batch.category)
        products, category, identity, first = own, batch.category, batch.identity, 0
        if several_processes():
            first = self.global_rank * len(identity)
            products = tuple(of_all(self, one, sync_grads=True) for one in own)
            category, identity = of_all(self, category), of_all(self, identity)
        negatives = in_batch_negatives(batch.category, batch.named, category, identity)
        positive = torch.arange(first, first + len(batch.identity), device=negatives.device)
        values = []
        for scene, parts in self.network.separately(style, (*products, *own[1:])):
            distance = self.network.distances(scene, parts[0])
            self._distances = distance.detach().gather(1, positive[:, None]), distance.detach(), negatives
            value: Tensor = self.loss(distance, positive, negatives)
            if batch.box is not None:
                found = self.network.distances(scene, parts[1])
                worn = self.network.distances(without_regions(parts[2]), parts[0])
                both = self.loss(found, positive, negatives) + self.loss(worn, positive, negatives)
                value = value + self.loss.box_weight * both
            values.append(value)
        share = mean_factor(self, negatives.any(1).sum(dtype=style.scene.dtype))
        return share * mean_of(values)

    def on_train_epoch_end(self) -> None:
        """Stops if the network is no longer finite; runs before the checkpoint callbacks, so that it is not saved."""
        self._stop_unless(self._is_finite())

    def _is_finite(self) -> bool:
        weights = [value for value in self.network.state_dict().values() if value.is_floating_point()]
        own = bool(self._finite) and all(bool(torch.isfinite(value).all()) for value in weights)
        return in_all(self, own)

    def _stop_unless(self, finite: bool) -> None:
        if not finite:
            saved = [getattr(callback, "best_model_path", "") for callback in self.trainer.checkpoint_callbacks]
            checkpoint = next(filter(None, reversed(saved)), "none yet")
            raise InputError(
                f"the loss or a weight is not finite at step {self.global_step} (epoch {self.current_epoch}); "
                f"the last good checkpoint is kept: {checkpoint}; try a smaller model.learning_rate"
            )

    def on_validation_epoch_start(self) -> None:
        """Stops if the network is no longer finite, else makes ready for the embeddings of the split."""
        self._stop_unless(self._is_finite())
        self._expect("validation")

    def on_test_epoch_start(self) -> None:
        """Forgets earlier embeddings and makes ready for those of the split."""
        self._expect("test")

    def _expect(self, split: Literal["validation", "test"]) -> None:
        task: EvaluationSet = self.trainer.datamodule.evaluation(split)  # type: ignore[attr-defined]
        self.embedded.expecting(len(task.queries), len(task.products))

    def predict_step(self, batch: EvaluationImage, batch_idx: int, dataloader_idx: int) -> tuple[Tensor, ...]:
        """Embeds scene crops (loader 0) and the catalogue (loader 1).

        Returns:
            Index of each picture in the list of all, (B,), and their SceneStyle or f_p; empty if the method sees no
            pictures.
        """
        if not self.sees:
            return ()
        if dataloader_idx == 0:
            return batch.place, self.network.embed_scene(batch.image, torch.as_tensor(batch.category))  # type: ignore[return-value]
        return batch.place, self.network.embed_product(batch.image)

    def validation_step(self, batch: EvaluationImage, batch_idx: int, dataloader_idx: int) -> None:
        """Embeds as `predict_step` does, and adds the result to `embedded`."""
        if self.sees:
            self.embedded.update(*self.predict_step(batch, batch_idx, dataloader_idx), KINDS[dataloader_idx])  # type: ignore[call-arg, arg-type]

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Ranks the validation split."""
        self._rank("validation", "val")

    def on_test_epoch_end(self) -> None:
        """Ranks the test split; `ranking` and `scores` keep the result."""
        self._rank("test", "test")

    def _rank(self, split: Literal["validation", "test"], prefix: str) -> None:
        if self.trainer.sanity_checking:
            return  # a few batches of the split, which cannot be ranked
        task: EvaluationSet = self.trainer.datamodule.evaluation(split)  # type: ignore[attr-defined]
        self.ranking = ranking_of(self.network, task, self.embedded)
        self.scores = score_pairs(task, self.ranking.distances)
        self.log_dict({f"{prefix}/{name}": value for name, value in logged_values(self.scores, task.seen).items()})


def mean_of(losses: Sequence[Tensor]) -> Tensor:
    """The mean of the losses of a network's members, a scalar; that of a single one is itself, bit for bit."""
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).mean()


def ranking_of(network: Network, task: EvaluationSet, embedded: CatalogueRanking) -> Ranked:
    """The ranking of a split from its embeddings; the same for every scene if the method sees no pictures.

    Raises:
        InputError: a part of the split is missing; an embedding is not finite.
    """
    if not network.sees:
        return FixedRanking(network.prior(task.train_count, task.product_category), len(task.queries))
    try:
        ranking: Ranking = embedded.compute()
    except IncompleteError:
        raise InputError(
            "trainer: a split is ranked whole, but limit_val_batches, limit_test_batches or fast_dev_run leaves parts of it out"
        ) from None
    embedded.reset()  # the embeddings are large
    return ranking


def restored(checkpoint: Mapping[str, Any], path: Path) -> CompleteTheLook:
    """The module of a checkpoint with its weights, in eval mode.

    Args:
        checkpoint: contents of the checkpoint, from `read_checkpoint`.
        path: file of the checkpoint, for error messages.

    Raises:
        InputError: another revision of the package wrote it.
    """
    with fits_this_revision(path):
        module = CompleteTheLook(**checkpoint["hyper_parameters"])
        module.load_state_dict(checkpoint["state_dict"])
    return module.eval()
