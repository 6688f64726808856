"""Training on features that were computed once is the training that it stands for."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import BACKBONE, TINY, Compose

from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.models.components.libraries.small import SmallNetwork
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.train import train
from ctl_lightning.training.feature_cache import uses_cache

FROZEN = (*TINY, "backbone.frozen=true", "data.augment=none", "trainer.max_epochs=2")

pytestmark = pytest.mark.usefixtures("without_pictures")


def results(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


@pytest.mark.parametrize(
    ("options", "augment", "cached"),
    [
        ({"frozen": True}, "none", True),
        ({"frozen": True}, "crop", False),
        ({"frozen": True, "cache_views": 2}, "crop", True),
        ({"frozen": True, "cache": "never"}, "none", False),
        ({"frozen": True, "cache": "always"}, "none", True),
        ({"frozen": True, "cache": "always", "cache_views": 2}, "crop", True),
        ({"frozen": False}, "none", False),
        ({"frozen": False, "cache": "never"}, "none", False),
    ],
)
def test_when_features_are_cached(options: Any, augment: str, cached: bool) -> None:
    assert uses_cache(BACKBONE | options, augment) == cached


@pytest.mark.parametrize(
    ("options", "augment", "says"),
    [
        ({"frozen": False}, "none", "the backbone is tuned.*backbone.frozen=true"),
        ({"frozen": True}, "crop", "cuts pictures anew.*data.augment=none, or backbone.cache_views=4"),
        ({"frozen": True, "cache_views": 2}, "colour", "changes pictures anew.*data.augment=crop or none"),
    ],
)
def test_a_cache_that_would_be_stale_is_refused(options: Any, augment: str, says: str) -> None:
    with pytest.raises(InputError, match=f"backbone.cache=always: .*{says}"):
        uses_cache(BACKBONE | options | {"cache": "always"}, augment)


@pytest.mark.parametrize(
    ("options", "augment", "says"),
    [
        ({"frozen": False}, "crop", "the backbone is tuned"),
        ({"frozen": True}, "none", "data.augment=none asks for centres"),
        ({"frozen": True}, "colour", "changes pictures anew"),
        ({"frozen": True, "cache": "never"}, "crop", "backbone.cache=never"),
    ],
)
def test_views_that_nobody_would_see_are_refused(options: Any, augment: str, says: str) -> None:
    with pytest.raises(InputError, match=f"backbone.cache_views=2: nobody would see them: .*{says}"):
        uses_cache(BACKBONE | options | {"cache_views": 2}, augment)


def trained(compose: Compose, tmp_path: Path, run: str, *overrides: str) -> Any:
    train(compose(*FROZEN, *overrides, f"paths.cache_dir={tmp_path / 'cache'}", run=run))
    return results(tmp_path / run)


@pytest.mark.parametrize("loss", ["triplet", "info_nce"])
def test_metrics_are_those_of_the_uncached_run_within_half_precision(
    compose: Compose, tmp_path: Path, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = trained(compose, tmp_path, "cached", f"loss={loss}")
    assert list((tmp_path / "cache" / "features").glob("*.npy"))
    plain = trained(compose, tmp_path, "plain", f"loss={loss}", "backbone.cache=never")
    for metric in ("auc", "auc_matched", "binary_accuracy", "lift"):
        assert cached["test"]["all"][metric]["value"] == pytest.approx(plain["test"]["all"][metric]["value"], abs=0.01)
    states = [
        read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt")["state_dict"] for run in ("cached", "plain")
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        if name.startswith("network.backbone"):
            assert torch.equal(value, states[1][name])
        elif value.is_floating_point():
            torch.testing.assert_close(value, states[1][name], rtol=0.02, atol=0.02)


def test_other_weights_are_never_given_the_old_features(compose: Compose, tmp_path: Path) -> None:
    for seed in (0, 1):  # the small network starts from random weights
        trained(compose, tmp_path, f"seed{seed}", f"seed={seed}")
    assert len(list((tmp_path / "cache" / "features").glob("*.npy"))) == 2
    first = trained(compose, tmp_path, "again", "seed=0")
    assert len(list((tmp_path / "cache" / "features").glob("*.npy"))) == 2
    assert first["test"] == results(tmp_path / "seed0")["test"]


def test_a_continued_run_takes_the_features_of_its_own_backbone(compose: Compose, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"

    def write(seed: int) -> None:
        torch.manual_seed(seed)
        torch.save(SmallNetwork().state_dict(), weights)

    options = (f"backbone.weights={weights}", "model.schedule=constant")
    write(0)
    trained(compose, tmp_path, "whole", *options)
    trained(compose, tmp_path, "half", *options, "trainer.max_epochs=1")
    write(1)  # the file is another one when the run goes on
    trained(compose, tmp_path, "rest", *options, f"ckpt_path={tmp_path / 'half' / 'checkpoints' / 'last.ckpt'}")
    whole, rest = (read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("whole", "rest"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, rest["state_dict"][name]), name


def test_random_views_are_trained_on(compose: Compose, tmp_path: Path) -> None:
    centre = trained(compose, tmp_path, "centre")
    views = trained(compose, tmp_path, "views", "data.augment=crop", "backbone.cache_views=3")
    assert centre["test"] != views["test"]
    (small, large) = sorted(file.stat().st_size for file in (tmp_path / "cache" / "features").glob("*.npy"))
    assert (large - 128) / (small - 128) == 4


def test_a_frozen_backbone_that_is_kept_at_work_is_told_of_the_cache(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(compose, tmp_path, "run", "data.augment=crop", "trainer.max_epochs=1")
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"the backbone is frozen.*data\.augment=none, or data\.augment=crop with backbone\.cache_views=4", said
    )
    assert not (tmp_path / "cache" / "features").exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["loss=info_nce", "data.negatives=pairs"],
            "loss=info_nce: its negatives are data.negatives=in_batch, not pairs",
        ),
        (["compile=no"], "compile=no: must be true or false"),
        (["keep_memory=yes"], "keep_memory=yes: must be true or false"),
        (["backbone.cache_views=-1"], "backbone.cache_views must not be negative"),
        (
            ["compile=true", "backbone.checkpointing=true"],
            "compile=true: not together with backbone.checkpointing=true",
        ),
        (["loss=info_nce", "loss.temperature=0.001"], r"a learned temperature must start at 0\.01"),
        (["loss=in_batch_triplet", "data.same_category=99"], "same_category must be between 2 and batch_size=16"),
        (["data.negatives=in_batch"], "loss=triplet: its negatives are data.negatives=uniform or pairs, not in_batch"),
    ],
)
def test_options_that_do_not_go_together_are_refused(compose: Compose, overrides: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        train(compose(*TINY, *overrides))
