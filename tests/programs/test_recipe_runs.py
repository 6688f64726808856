"""The methods recipe and geometry as a user runs them: train, evaluate, resume, recommend, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import Compose, composed, make_catalogue, train_on
from PIL import Image

from ctl_lightning.evaluate import evaluate
from ctl_lightning.models.checkpoint import checkpoint_of, read_checkpoint
from ctl_lightning.publish import publish
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.export import export
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
    for kind in ("scenes", "products"):
        assert state[f"network.{kind}.scale.std"].min() > 0
        assert state[f"network.{kind}.scale.mean"].abs().max() > 0
    assert not torch.equal(state["network.scenes.scale.mean"], state["network.products.scale.mean"])


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


def test_no_embedding_of_a_photo_depends_on_what_is_in_its_box(run: Path, looks: Path) -> None:
    encoder, box = Encoder(run), (0.3, 0.4, 0.9, 0.7)
    with Image.open(next((looks / "images").glob("*/*.jpg"))) as opened:
        pixels = np.array(opened)
    height, width = pixels.shape[:2]
    inside = slice(int(box[1] * height), int(box[3] * height)), slice(int(box[0] * width), int(box[2] * width))
    found = []
    for marker in (0, 255):
        pixels[inside] = marker
        photo = Image.fromarray(pixels)
        found.append([encoder.scene(photo, given, encoder.categories).scene for given in (box, None)])
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])  # the whole photo shows it


def test_a_recipe_is_published_and_recommends_the_same(run: Path, looks: Path, tmp_path: Path) -> None:
    publish(composed("publish", tmp_path / "hydra", f"ckpt_path={run}", f"output={tmp_path / 'published'}"))
    photo = next((looks / "images").glob("*/*.jpg"))
    catalogue = make_catalogue(run, tmp_path / "catalogue")
    answers = [
        Recommender.from_checkpoint(path, catalogue).recommend(photo, "Shoes", box=(0.3, 0.4, 0.9, 0.7))
        for path in (run, tmp_path / "published")
    ]
    assert answers[0] == answers[1]


def test_strips_are_not_exported_as_one_square(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"its scenes are strips of several sizes .*serve it with `recommend` or `demo`"
    ):
        export(Encoder(run), tmp_path / "exported", onnx=False)
    assert not (tmp_path / "exported").exists()


def test_a_recipe_that_is_continued_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, looks: Path, cache: Path
) -> None:
    words = ["+experiment=recipe", "backbone=small", *SMALL, "model.schedule=constant"]
    whole = train_on(looks, cache, tmp_path / "whole", *words)
    first = train_on(looks, cache, tmp_path / "first", *words, "trainer.max_epochs=1")
    last = first / "checkpoints" / "last.ckpt"
    second = train_on(looks, cache, tmp_path / "second", *words, f"ckpt_path={last}")
    expected, found = (read_checkpoint(one / "checkpoints" / "last.ckpt")["state_dict"] for one in (whole, second))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_new_run_takes_scale_and_heads_together_or_neither(
    run: Path, tmp_path: Path, looks: Path, cache: Path
) -> None:
    words = ["+experiment=recipe", "backbone=small", *SMALL, f"init_from={run}", "trainer.max_epochs=1"]
    old = read_checkpoint(checkpoint_of(run))["state_dict"]
    same = train_on(looks, cache, tmp_path / "same", *words, "model.members=2", "data.train_share=0.5")
    state = read_checkpoint(same / "checkpoints" / "last.ckpt")["state_dict"]
    assert torch.equal(state["network.scenes.scale.mean"], old["network.scenes.scale.mean"])
    other = train_on(looks, cache, tmp_path / "other", *words, "model.members=1", "data.train_share=0.5")
    state = read_checkpoint(other / "checkpoints" / "last.ckpt")["state_dict"]
    assert not torch.equal(state["network.scenes.scale.mean"], old["network.scenes.scale.mean"])
    with pytest.raises(InputError, match=r"it was trained with data\.scene=strips, this run has data\.scene=crop"):
        train_on(looks, cache, tmp_path / "crop", *words, "model.members=2", "data.scene=crop")


def test_boxes_are_asked_for_and_there_are_none(tmp_path: Path, looks: Path, cache: Path) -> None:
    rows = [json.loads(line) for line in (looks / "fashion.json").read_text().splitlines()]
    root = tmp_path / "looks"
    root.mkdir()
    (root / "images").symlink_to(looks / "images")
    (root / "categories.json").write_text((looks / "fashion-cat.json").read_text())
    pairs = [row | {"bbox": None} for row in rows]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    words = ["+experiment=recipe", "data=folder", f"data.root={root}", "backbone=small", *SMALL]
    for word, said in (("data.boxes=true", r"data\.boxes=true"), ("data.boxes=false", r"data\.scene=box")):
        with pytest.raises(InputError, match=f"{said}: some pairs of .* have no box; give data.boxes=false"):
            train_on(looks, cache, tmp_path / "run", *words, word, "data.scene=box")


def test_geometry_is_trained_and_serves_nobody(tmp_path: Path, looks: Path, cache: Path) -> None:
    run = train_on(looks, cache, tmp_path / "run", "+experiment=geometry", "backbone=small", *SMALL)
    assert json.loads((run / "results.json").read_text())["method"] == "geometry"
    with pytest.raises(InputError, match=r"it was trained with data\.scene=geometry, which is to compare others with"):
        Encoder(run)
    with pytest.raises(InputError, match="which is to compare others with"):
        publish(composed("publish", tmp_path / "hydra", f"ckpt_path={run}", f"output={tmp_path / 'published'}"))
    assert not (tmp_path / "published").exists()


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
            r"data\.boxes=true: loss=triplet has no box loss; give loss=info_nce",
        ),
        (["+experiment=popularity", "data.scene=strips"], r"data\.scene=strips: method=popularity cannot"),
        (
            ["+experiment=hybrid", "loss=info_nce", "data.boxes=true", "backbone.frozen=true", "data.augment=none"],
            r"data\.boxes=true: method=hybrid compares a product with the regions of a scene",
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
