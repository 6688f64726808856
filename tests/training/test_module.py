from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import BACKBONE, TRIPLET, MakeData, module, trainer
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from ctl_lightning.data.triplets import Triplet
from ctl_lightning.metrics.pair_metrics import score_pairs
from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.models.components.network import SceneStyle
from ctl_lightning.models.components.style_network import StyleNetwork, region_distance
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.checkpointing import check_resumable
from ctl_lightning.training.module import CompleteTheLook
from ctl_lightning.training.run_directory import unfinished_run


@pytest.mark.parametrize("method", ["hybrid", "global", "local", "imagenet", "siamese", "bpr_dae"])
def test_the_logged_metrics_are_those_of_the_region_by_region_distance(
    make_data: MakeData, tmp_path: Path, method: str
) -> None:
    data, model = make_data(), module(method=method)
    runner = trainer(tmp_path)
    runner.test(model, datamodule=data, verbose=False)
    logged = runner.callback_metrics
    task = data.evaluation("test")
    model.eval()
    queries, products = data.query_images(task), data.product_images(task)
    network = model.network

    def distances(rows: Any, columns: Any) -> Any:
        table = np.empty((len(rows), len(columns)))
        for r, row in enumerate(rows):
            item = queries[int(row)]
            with torch.no_grad():
                style = network.embed_scene(item.image, item.category)
                for c, column in enumerate(columns):
                    product = network.embed_product(products[int(column)].image)
                    if isinstance(network, StyleNetwork):
                        table[r, c] = float(region_distance(network.method, style, product))
                    elif method == "bpr_dae":
                        table[r, c] = -float(style.scene @ product.T)
                    else:
                        table[r, c] = float((style.scene - product).square().sum())
        return table

    rows, columns = np.arange(len(task.queries)), np.arange(len(task.products))
    np.testing.assert_allclose(model.ranking.distances(rows, columns), distances(rows, columns), rtol=1e-4, atol=1e-5)
    scores = score_pairs(task, model.ranking.distances)
    assert float(logged["test/auc"]) == pytest.approx(scores.auc.mean(), abs=1e-6)
    assert float(logged["test/binary_accuracy"]) == pytest.approx(scores.correct.mean(), abs=1e-6)
    np.testing.assert_array_equal(model.scores.rank, scores.rank)


def distances(model: CompleteTheLook, batch: Triplet) -> tuple[torch.Tensor, torch.Tensor]:
    style, (near, far), _ = model.network(batch.scene, (batch.positive, batch.negative), batch.category)
    return model.network.distance(style, near), model.network.distance(style, far)


def test_the_dropout_of_each_batch_is_drawn_from_its_own_seed(make_data: MakeData, tmp_path: Path) -> None:
    model = module(seed=3)
    states: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state()))
    trainer(tmp_path, limit_train_batches=2, limit_val_batches=0).fit(model, datamodule=make_data())
    expected = [torch.Generator().manual_seed((3 << 32) + number).get_state() for number in range(len(states))]
    assert len(states) >= 2
    assert all(torch.equal(*pair) for pair in zip(states, expected, strict=True))


def test_training_brings_the_true_product_nearer_than_the_negative(make_data: MakeData, tmp_path: Path) -> None:
    batch: Triplet = next(iter(make_data(batch_size=8).train_dataloader()))
    loader: DataLoader[Triplet] = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    model = module(learning_rate=0.01)

    def right() -> float:
        with torch.no_grad():
            near, far = distances(model.eval(), batch)
        return float((near < far).double().mean())

    trainer(tmp_path, max_epochs=40, log_every_n_steps=1).fit(model, train_dataloaders=loader)
    assert right() >= 7 / 8
    with torch.no_grad():
        near, far = distances(model, batch)
    assert float((far - near).mean()) > 0.2  # the margin


def test_the_optimiser_gets_the_options(tmp_path: Path, make_data: MakeData) -> None:
    model = module(learning_rate=0.02, weight_decay=0.3)
    trainer(tmp_path, limit_val_batches=0).fit(model, datamodule=make_data())
    (group,) = model.optimizers().param_groups  # type: ignore[union-attr]
    assert (group["initial_lr"], group["weight_decay"]) == (0.02, 0.3)


def test_warmup_and_cosine_by_hand(make_data: MakeData, tmp_path: Path) -> None:
    data, model = make_data(), module(warmup_steps=3, schedule="cosine")
    runner = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    runner.fit(model, datamodule=data)
    (config,) = runner.lr_scheduler_configs
    assert isinstance(config.scheduler, LambdaLR)
    factor = config.scheduler.lr_lambdas[0]
    total = int(runner.estimated_stepping_batches)
    assert [factor(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factor(3 + (total - 3) // 2) == pytest.approx(0.5, abs=0.05)
    assert factor(total) == pytest.approx(0, abs=1e-9)


class Poison(Callback):
    """Breaks the network in the second epoch: before its fourth step, or after its last."""

    def __init__(self, last: bool) -> None:
        self._last = last

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 3 and not self._last:
            self._break(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == trainer.num_training_batches - 1 and self._last:
            self._break(pl_module)

    @staticmethod
    def _break(module: LightningModule) -> None:
        with torch.no_grad():
            next(module.parameters()).fill_(float("nan"))


@pytest.mark.parametrize("every", [1, 3], ids=["validated", "not validated"])
@pytest.mark.parametrize("last", [False, True], ids=["before a step", "by the last step"])
def test_a_network_that_is_not_finite_stops_and_is_not_saved(
    make_data: MakeData, tmp_path: Path, last: bool, every: int
) -> None:
    callbacks = [Poison(last), ModelCheckpoint(tmp_path, "kept", save_on_train_epoch_end=True)]
    options = {"max_epochs": 3, "log_every_n_steps": 2, "check_val_every_n_epoch": every, "callbacks": callbacks}
    with pytest.raises(
        InputError, match=r"the loss or a weight is not finite .*epoch 1.*last good checkpoint .*\.ckpt.*learning_rate"
    ):
        trainer(tmp_path, **options).fit(module(), datamodule=make_data())
    (kept,) = tmp_path.rglob("*.ckpt")
    saved = read_checkpoint(kept)
    assert saved["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


def test_a_network_that_is_not_finite_is_not_ranked(make_data: MakeData, tmp_path: Path) -> None:
    model = module()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="embeddings of scenes or products are not finite"):
        trainer(tmp_path).test(model, datamodule=make_data(), verbose=False)


def test_a_part_of_a_split_is_not_ranked_as_if_it_were_the_whole(make_data: MakeData, tmp_path: Path) -> None:
    trainer(tmp_path, num_sanity_val_steps=1).fit(module(), datamodule=make_data())
    for options in ({"limit_val_batches": 1}, {"fast_dev_run": True}):
        with pytest.raises(InputError, match="limit_test_batches or fast_dev_run leaves parts of it out"):
            trainer(tmp_path, **options).fit(module(), datamodule=make_data(eval_batch_size=4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 0}, "dim must be positive, not 0"),
        ({"loss": TRIPLET | {"margin": -1.0}}, r"loss\.margin must be positive, not -1\.0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
        (
            {"squared": False, "loss": {"name": "contrastive", "margin": 1.0}},
            "loss=contrastive cannot train method=hybrid with model.squared=false; give loss=triplet, in_batch_triplet, info_nce",
        ),
        (
            {
                "method": "ibr",
                "loss": {"name": "info_nce", "temperature": 0.1, "learn_temperature": True, "box_weight": 0.5},
            },
            "loss=info_nce cannot train method=ibr; give loss=triplet, contrastive, logistic, bpr",
        ),
        ({"method": "siamese", "squared": False}, "method=siamese has no option 'squared'; it has: dim"),
        (
            {"method": "bpr_dae", "loss": {"name": "contrastive", "margin": 1.0}},
            "loss=contrastive cannot train method=bpr_dae; give loss=bpr, triplet, logistic",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        module(**options)


@pytest.fixture
def checkpoint(make_data: MakeData, tmp_path: Path) -> Path:
    model = module()
    runner = trainer(tmp_path)
    runner.fit(model, datamodule=make_data())
    runner.save_checkpoint(tmp_path / "good.ckpt")
    return tmp_path / "good.ckpt"


def test_a_checkpoint_is_plain_data_and_makes_the_same_model(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    assert content["hyper_parameters"]["backbone"] == BACKBONE
    again = CompleteTheLook.load_from_checkpoint(checkpoint, weights_only=True)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, content["state_dict"][name])


@pytest.mark.parametrize("kind", ["missing", "garbage", "truncated", "foreign", "pickle"])
def test_an_unreadable_or_foreign_checkpoint_is_named(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.ckpt"
    if kind == "garbage":
        path.write_bytes(b"garbage")
    elif kind == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:5000])
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    elif kind == "pickle":
        torch.save({"state_dict": Path("a class that is not plain data")}, path)
    with pytest.raises(InputError, match=rf"ckpt_path=.*{kind}\.ckpt"):
        read_checkpoint(path)


def test_a_checkpoint_of_other_options_is_not_continued(checkpoint: Path) -> None:
    check_resumable(checkpoint, module(), {})
    with pytest.raises(InputError, match="dim=8, this run has 16"):
        check_resumable(checkpoint, module(dim=16), {})


def test_auto_continues_this_run_or_the_newest_unfinished_one_of_its_config(checkpoint: Path, tmp_path: Path) -> None:
    def make(name: str, config: dict[str, Any], finished: bool = False) -> Path:
        folder = tmp_path / "runs" / name
        (folder / "checkpoints").mkdir(parents=True)
        content = torch.load(checkpoint, weights_only=True) | {"config": config}
        torch.save(content, folder / "checkpoints" / "last.ckpt")
        if finished:
            (folder / "results.json").write_text("{}")
        return folder

    config = {"seed": 0, "model": {"dim": 8}, "ckpt_path": None, "paths": {"run_dir": "a"}}
    own = tmp_path / "runs" / "own"
    wanted = config | {"ckpt_path": "auto", "paths": {"run_dir": "b"}}
    assert unfinished_run(own, wanted, elsewhere=True) is None
    make("finished", config, finished=True)
    make("other", config | {"seed": 1})
    assert unfinished_run(own, wanted, elsewhere=True) is None
    stopped = make("stopped", config)
    assert unfinished_run(own, wanted, elsewhere=True) == stopped
    assert unfinished_run(make("own", config | {"seed": 9}), wanted, elsewhere=True) == own


def test_scene_style_keeps_its_order() -> None:
    assert SceneStyle._fields == ("scene", "regions", "attention")  # query(method, *style) relies on it
