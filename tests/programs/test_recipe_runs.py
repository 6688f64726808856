"""The methods recipe and geometry as a user runs them: train, evaluate, resume, recommend, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import Compose, composed, make_catalogue, train_on

from ctl_lightning.evaluate import evaluate
from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.recommender import Recommender
from ctl_lightning.train import train

SMALL = ("data.same_category=4", "model.warmup_steps=2", "trainer.max_epochs=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, looks: Path, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "run"
    return train_on(looks, cache, folder, "+experiment=recipe", "backbone=small", "model.members=2", *SMALL)


def test_a_recipe_is_trained_and_measured_again_with_the_same_numbers(run: Path, tmp_path: Path, cache: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert results["method"] == "recipe"
    evaluate(composed("evaluate", tmp_path, f"ckpt_path={run}", f"paths.cache_dir={cache}"))
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["test"] == results["test"]
    assert again["controls"]["product_visible"]["all"]["auc"]["value"] is not None


def test_what_the_inputs_look_like_is_learned_once_and_saved(run: Path) -> None:
    state = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    for kind in ("scene", "product"):
        assert state[f"network.{kind}_scale.std"].min() > 0
        assert state[f"network.{kind}_scale.mean"].abs().max() > 0
    assert not torch.equal(state["network.scene_scale.mean"], state["network.product_scale.mean"])


def test_a_recipe_recommends_with_and_without_a_box(run: Path, looks: Path, tmp_path: Path) -> None:
    recommender = Recommender.from_checkpoint(run, make_catalogue(run, tmp_path / "catalogue"))
    photo = next((looks / "images").glob("*/*.jpg"))
    whole, cut = recommender.look(photo), recommender.look(photo, box=(0.3, 0.4, 0.9, 0.7))
    assert whole.kept == [(0.0, 0.0, 1.0, 1.0)]
    assert len(cut.kept) == 3
    first = [one.answers[0].products[0].distance for one in (whole, cut)]
    assert first[0] != first[1]


def test_serving_gives_the_vectors_that_evaluation_ranks_by(run: Path, looks: Path) -> None:
    """The features of the cache are in half precision, hence the tolerance."""
    encoder = Encoder(run)
    data = encoder.trained.data({})
    data.prepare_data()
    data.setup()
    pair = data.pairs["test"][0]
    from ctl_lightning.training.feature_cache import cache_features
    from ctl_lightning.training.module import restored

    module = restored(encoder.trained.checkpoint, encoder.trained.path)
    cache_features(module, data, torch.device("cpu"))
    views = data.query_images(data.evaluation("test"))
    with torch.inference_mode():
        theirs = module.network.embed_scene(views[0].image, views[0].category).scene[0]
    ours = encoder.scene(data.source.image_path(data.root, pair.scene), pair.box, [pair.category]).scene[0]
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)


def test_geometry_is_trained_and_serves_nobody(tmp_path: Path, looks: Path, cache: Path) -> None:
    run = train_on(looks, cache, tmp_path / "run", "+experiment=geometry", "backbone=small", *SMALL)
    assert json.loads((run / "results.json").read_text())["method"] == "geometry"
    with pytest.raises(InputError, match=r"it was trained with data\.scene=geometry, which is to compare others with"):
        Encoder(run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["+experiment=recipe", "backbone.frozen=false"],
            r"method=recipe: it takes features .*give backbone\.frozen=true",
        ),
        (["+experiment=recipe", "data.augment=crop"], r"method=recipe: .*data\.augment=crop cuts pictures anew"),
        (
            ["+experiment=recipe", "loss=triplet", "data.boxes=false", "data.scene=geometry"],
            r"data\.scene=geometry: method=recipe cannot",
        ),
        (
            ["+experiment=recipe", "loss=triplet", "data.negatives=uniform"],
            r"data\.boxes=true: the box loss is one of batches of pairs",
        ),
        (
            ["+experiment=hybrid", "data.scene=strips"],
            r"data\.scene=strips: method=hybrid cannot .*give data\.scene=crop",
        ),
        (
            ["+experiment=global", "data.scene=strips"],
            r"data\.scene=strips: it takes features that a frozen backbone computes once",
        ),
        (["+experiment=recipe", "model.members=0"], r"members must be positive"),
        (["+experiment=recipe", "loss.box_weight=-1"], r"box_weight must not be negative"),
        (["+experiment=recipe", "backbone.pooled=[]"], r"backbone\.pooled must be some of final, stages and colours"),
    ],
)
def test_what_does_not_go_together_is_refused(compose: Compose, words: list[str], message: str) -> None:
    config: Any = compose("data.source.scenes=150", "data.batch_size=16", "data.same_category=8", *words)
    with pytest.raises((InputError, ValueError), match=message):
        train(config)
