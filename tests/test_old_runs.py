"""What version 0.1 wrote opens, evaluates and recommends; only to continue it is refused, in one line."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import REPOSITORY, TINY, composed, make_catalogue, train_on
from golden import REMEASURED, code_of
from PIL import Image

from ctl_lightning.benchmarks import look as look_benchmark
from ctl_lightning.benchmarks.packing import before as pixels_of_0_1
from ctl_lightning.data.images import Pixels
from ctl_lightning.data.store import packing
from ctl_lightning.evaluate import evaluate
from ctl_lightning.models.checkpoint import FORMAT, checkpoint_of, read_checkpoint
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving import encoder
from ctl_lightning.serving.compatibility import Compatibility
from ctl_lightning.serving.recommender import Recommender
from ctl_lightning.training.module import CompleteTheLook

LAST_OF_0_1 = "cc2b5368303168a0efebc507718cc14465d37009"
"""The last commit of version 0.1."""

OPTIONS_OF_ALL = {"dim": 16, "hidden": 16, "dropout": 0.0, "attention": "category", "squared": True}
"""In version 0.1 every checkpoint had all of them."""

RENAMED = {"loss.shift": "shift", "loss.temperature.logarithm": "temperature.logarithm"}
"""Name of a weight today -> in version 0.1."""

LATER = ("attention_temperature", "learn_temperature")
"""Options that no checkpoint of a time had in which the attention was the paper's alone."""

SOURCE = "ctl_lightning.data.stl.ShopTheLook"


def as_0_1_wrote_it(run: Path, folder: Path) -> Path:
    """A copy of a run directory, its checkpoints written as version 0.1 did: its plain description."""
    shutil.copytree(run, folder)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        old: dict[str, Any] = copy.deepcopy(torch.load(path, weights_only=True))
        assert old.pop("format") == FORMAT
        without_later_options(old)
        old["hyper_parameters"] = OPTIONS_OF_ALL | old["hyper_parameters"]
        old["state_dict"] = {RENAMED.get(name, name): value for name, value in old["state_dict"].items()}
        del old["config"]["data"]["interpolation"]
        source = old["config"]["data"]["source"]
        assert source.pop("name") == "shop_the_look"
        source["_target_"] = SOURCE
        old["config"]["data"]["_target_"] = "ctl_lightning.data.datamodule.TripletDataModule"
        old["config"]["model"] |= OPTIONS_OF_ALL | {"_target_": "ctl_lightning.module.CompleteTheLook"}
        torch.save(old, path)
    return folder


def without_later_options(old: dict[str, Any]) -> None:
    """Takes out of a checkpoint what `train` did not write when the attention was the paper's alone."""
    for options in (old["hyper_parameters"], old["config"]["model"]):
        for name in LATER:
            options.pop(name, None)
    for backbone in (
        old["hyper_parameters"]["backbone"],
        old["config"]["model"]["backbone"],
        old["config"]["backbone"],
    ):
        for name in ("pooled", "stage_layers"):  # they may be one and the same object
            backbone.pop(name, None)
    for name in ("scene", "boxes"):
        old["config"]["data"].pop(name, None)
    old.pop("train_counts", None)  # last.ckpt has none beside a best one


def without_remeasured(test: Any) -> Any:
    """Results without the metrics that are exact or new since then."""
    if not isinstance(test, dict):
        return test
    return {name: without_remeasured(value) for name, value in test.items() if name not in REMEASURED}


def evaluated(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(RunReport, "draw", lambda *_: {})
    evaluate(composed("evaluate", folder, f"ckpt_path={run}", "product_visible=false", "accelerator=cpu"))
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_a_run_and_its_catalogue_are_served_as_before(
    served: tuple[Path, Path], tmp_path: Path, looks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = as_0_1_wrote_it(served[0], tmp_path / "old")
    photo = next((looks / "images").rglob("*.jpg"))
    answers = [Recommender.from_checkpoint(run, served[1]).recommend(photo, "Shoes") for run in (old, served[0])]
    assert answers[0] == answers[1]
    found = [evaluated(run, tmp_path / f"evaluated{n}", monkeypatch) for n, run in enumerate((old, served[0]))]
    assert found[0]["test"] == found[1]["test"]


def test_options_of_other_methods_and_old_names_of_weights_are_read(
    looks: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_on(looks, cache, tmp_path / "run", "+experiment=ibr")
    old = as_0_1_wrote_it(run, tmp_path / "old")
    state = torch.load(checkpoint_of(old), weights_only=True)["state_dict"]
    assert "shift" in state
    assert evaluated(old, tmp_path / "a", monkeypatch)["test"] == evaluated(run, tmp_path / "b", monkeypatch)["test"]
    photos = sorted((looks / "images").rglob("*.jpg"))[:4]
    found = [Compatibility(one).distances(photos[0], "Shoes", photos) for one in (old, run)]
    assert np.array_equal(found[0], found[1])


def test_it_is_not_continued_and_the_line_says_so(
    served: tuple[Path, Path], tmp_path: Path, looks: Path, cache: Path
) -> None:
    old = as_0_1_wrote_it(served[0], tmp_path / "old")
    last = old / "checkpoints" / "last.ckpt"
    with pytest.raises(
        InputError, match=r"an older version .* evaluated and served, but not continued; start a new run"
    ):
        train_on(looks, cache, tmp_path / "new", f"ckpt_path={last}", "trainer.max_epochs=2")
    assert read_checkpoint(last)["format"] == 1


def test_a_run_from_before_photos_had_a_choice_of_filters_is_continued_and_served(
    served: tuple[Path, Path], tmp_path: Path, looks: Path, cache: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(served[0], old)
    (old / "results.json").unlink()
    for path in (old / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["config"]["data"].pop("interpolation") == "bilinear"
        assert [checkpoint["hyper_parameters"][name] for name in LATER] == [1.0, False]
        without_later_options(checkpoint)
        torch.save(checkpoint, path)
    assert "interpolation" not in json.loads((served[1] / "catalogue.json").read_text())["identity"]["photos"]
    photo = next((looks / "images").rglob("*.jpg"))
    answers = [Recommender.from_checkpoint(run, served[1]).recommend(photo, "Shoes") for run in (old, served[0])]
    assert answers[0] == answers[1]
    assert CompleteTheLook.load_from_checkpoint(checkpoint_of(old), weights_only=True).network.logged() == {}
    last = old / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match=r"trained with model.attention_temperature=1.0, this run has 0.5"):
        train_on(
            *(looks, cache, tmp_path / "other", f"ckpt_path={last}", "trainer.max_epochs=2"),
            "model.attention_temperature=0.5",
        )
    with pytest.raises(InputError, match=r"trained with data.interpolation='bilinear', this run has 'bicubic'"):
        train_on(
            *(looks, cache, tmp_path / "other", f"ckpt_path={last}", "trainer.max_epochs=2"),
            "data.interpolation=bicubic",
        )
    run = train_on(looks, cache, tmp_path / "new", f"ckpt_path={last}", "trainer.max_epochs=2")
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 1


def as_format_2(run: Path, folder: Path) -> Path:
    """A copy of a run directory, its checkpoints as they were before backbones had a library and a preprocessing."""
    shutil.copytree(run, folder)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        old: dict[str, Any] = copy.deepcopy(torch.load(path, weights_only=True))
        old["format"] = 2
        parts = (old["hyper_parameters"], old["config"], old["config"]["model"])
        for options in {id(part["backbone"]): part for part in parts}.values():  # of a file, some may be one object
            del options["backbone"]["library"], options["backbone"]["preprocessing"]
        del old["config"]["data"]["interpolation"]
        torch.save(old, path)
    return folder


MOBILENET = (
    "backbone=mobilenet_v2",
    "backbone.weights=null",
    "backbone.grid=1",
    "data.stored_size=36",
    "data.image_size=32",
)


@pytest.mark.parametrize("backbone", ["small", pytest.param("mobilenet_v2", marks=pytest.mark.long)])
def test_a_run_from_before_backbones_had_libraries_is_evaluated_served_and_continued(
    backbone: str, looks: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model.schedule=constant", *(MOBILENET if backbone == "mobilenet_v2" else ()))
    run = train_on(looks, cache, tmp_path / "run", *words)
    folder = make_catalogue(run, tmp_path / "catalogue")
    old = as_format_2(run, tmp_path / "old")
    assert (
        read_checkpoint(checkpoint_of(old))["hyper_parameters"]
        == read_checkpoint(checkpoint_of(run))["hyper_parameters"]
    )
    found = [evaluated(one, tmp_path / f"evaluated{n}", monkeypatch) for n, one in enumerate((old, run))]
    assert found[0]["test"] == found[1]["test"]
    photo = min((looks / "images").rglob("*.jpg"))
    answers = [Recommender.from_checkpoint(one, folder).recommend(photo, "Shoes") for one in (old, run)]
    assert answers[0] == answers[1]
    (old / "results.json").unlink()
    more = [
        train_on(
            looks,
            cache,
            tmp_path / f"more{n}",
            f"ckpt_path={one / 'checkpoints/last.ckpt'}",
            "trainer.max_epochs=2",
            *words,
        )
        for n, one in enumerate((old, run))
    ]
    states = [read_checkpoint(one / "checkpoints" / "last.ckpt") for one in more]
    assert [(one["format"], one["epoch"]) for one in states] == [(FORMAT, 1), (FORMAT, 1)]
    assert all(torch.equal(value, states[1]["state_dict"][name]) for name, value in states[0]["state_dict"].items())


def test_a_catalogue_of_another_preprocessing_is_refused(served: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = torch.load(checkpoint_of(served[0]), weights_only=True)
    checkpoint["state_dict"]["network.backbone.mean"] += 0.01
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"catalogue=.*: its vectors are of another checkpoint"):
        Recommender.from_checkpoint(tmp_path / "other.ckpt", served[1])


def test_what_a_newer_version_wrote_is_refused(served: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = torch.load(checkpoint_of(served[0]), weights_only=True)
    torch.save(checkpoint | {"format": FORMAT + 1}, tmp_path / "new.ckpt")
    with pytest.raises(InputError, match=r"a newer version of ctl_lightning wrote it .* update ctl_lightning"):
        read_checkpoint(tmp_path / "new.ckpt")


def resized_as_0_1(image: Image.Image, crop: object, size: int, aspect: str, interpolation: str) -> Pixels:
    assert (crop, aspect) == (None, "stretch")
    return np.asarray(image.resize((size, size), Image.Resampling[interpolation.upper()], reducing_gap=2.0))


@pytest.mark.long
@pytest.mark.parametrize("experiment", ["hybrid", "ibr"])
def test_what_the_code_of_0_1_writes_is_read(
    experiment: str, looks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = subprocess.run(
        ["git", "-C", str(REPOSITORY), "cat-file", "-e", LAST_OF_0_1], check=False, capture_output=True
    )
    if known.returncode:
        pytest.skip("the history of version 0.1 is not in this checkout")
    small = [word for word in TINY if not word.startswith("data.")]
    sizes = ["data.stored_size=36", "data.image_size=32", "data.batch_size=4", "backbone.grid=4"]
    with code_of(LAST_OF_0_1) as old:

        def program(name: str, *words: str) -> None:
            environment = os.environ | {"PYTHONPATH": str(old / "src"), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", f"ctl_lightning.{name}", *words]
            said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert said.returncode == 0, said.stderr

        data = ["data=stl_fashion", f"data.root={looks}", f"paths.cache_dir={tmp_path / 'cache'}"]
        program("train", f"+experiment={experiment}", *small, *sizes, *data, "hydra.run.dir=run")
        if experiment == "hybrid":
            program("catalogue", "ckpt_path=run", "catalogue=products", "hydra.run.dir=made")
            photo = next((looks / "images").rglob("*.jpg"))
            program("recommend", "ckpt_path=run", "catalogue=products", f"scene={photo}", "output=look.json")
    # Its pixels: today's are one more or less here and there.
    monkeypatch.setattr(packing, "decode", lambda item, size, aspect, how: pixels_of_0_1(item, size, how))
    monkeypatch.setattr(encoder, "to_square", resized_as_0_1)
    run = tmp_path / "run"
    before = json.loads((run / "results.json").read_text())["test"]
    assert without_remeasured(evaluated(run, tmp_path / "evaluated", monkeypatch)["test"]) == without_remeasured(before)
    if experiment == "hybrid":
        answered = json.loads((tmp_path / "look.json").read_text())["categories"]
        recommender = Recommender.from_checkpoint(run, tmp_path / "products")
        look = recommender.look(photo, k=5)
        monkeypatch.setattr(look_benchmark, "NEAREST", 5)
        for old_answer, answer in zip(answered, look_benchmark.look_before(recommender, photo), strict=True):
            # Each sum is taken by itself since, which rounds the last bit otherwise.
            distances = [one["distance"] for one in old_answer["products"]]
            assert distances == pytest.approx([one.distance for one in answer.products], rel=0, abs=1e-14)
        for old_answer, answer in zip(answered, look.answers, strict=True):
            assert [one["product"] for one in old_answer["products"]] == [one.product for one in answer.products]
            # The heads run once a photo since, not once a category, which rounds otherwise.
            distances = [one["distance"] for one in old_answer["products"]]
            assert distances == pytest.approx([one.distance for one in answer.products], abs=1e-6)
        assert (
            make_catalogue(run, tmp_path / "products", "change=set") == tmp_path / "products"
        )  # and it is changed, too
