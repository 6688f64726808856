"""What is published says what the run says, in a fresh process and from the Hub, and holds nothing of this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import composed, image_id, make_catalogue, train_on
from hub_server import OWNER, hub

from ctl_lightning.evaluate import evaluate
from ctl_lightning.models.checkpoint import FORMAT, checkpoint_of, read_checkpoint
from ctl_lightning.models.published import CARD, CONFIG, WEIGHTS
from ctl_lightning.publish import publish
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving import publishing
from ctl_lightning.serving.compatibility import Compatibility
from ctl_lightning.serving.publishing import public_data
from ctl_lightning.serving.recommender import Recommender
from ctl_lightning.serving.trained import Trained

PNG = b"\x89PNG\r\n\x1a\n"


def published(run: Path, folder: Path, *words: str) -> Path:
    publish(composed("publish", folder.parent / "hydra", f"ckpt_path={run}", f"output={folder}", *words))
    return folder


def evaluated(model: Path, folder: Path, looks: Path, cache: Path) -> dict[str, Any]:
    words = (f"data.root={looks}", f"paths.cache_dir={cache}", "product_visible=false", "accelerator=cpu")
    evaluate(composed("evaluate", folder, f"ckpt_path={model}", *words))
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return {name: found[name] for name in ("method", "seed", "test", "classifier", "reranking")}


def program(name: str, where: Path, environment: dict[str, str], *words: str) -> str:
    """What a program prints in a fresh process, in a folder of its own."""
    command = [sys.executable, "-m", f"ctl_lightning.{name}", *words]
    said = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout


def answers(folder: Path) -> list[list[tuple[str, float]]]:
    """(product, distance) of every answer of a look that `recommend` wrote as JSON."""
    look = json.loads((folder / "look.json").read_text())
    return [[(one["product"], one["distance"]) for one in answer["products"]] for answer in look["categories"]]


@pytest.fixture(scope="module")
def model(served: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `served`, published."""
    return published(served[0], tmp_path_factory.mktemp("published") / "model")


def test_ids_distances_and_numbers_are_those_of_the_run(
    model: Path, served: tuple[Path, Path], looks: Path, cache: Path, tmp_path: Path, without_pictures: None
) -> None:
    run, catalogue = served
    photo = min((looks / "images").rglob("*.jpg"))
    found = [Recommender.from_checkpoint(str(one), catalogue).look(photo) for one in (model, run)]
    assert [answer.products for answer in found[0].answers] == [answer.products for answer in found[1].answers]
    assert evaluated(model, tmp_path / "a", looks, cache) == evaluated(run, tmp_path / "b", looks, cache)
    popular = [Recommender.from_checkpoint(str(one), catalogue, popularity=0.3).look(photo) for one in (model, run)]
    assert [answer.products for answer in popular[0].answers] == [answer.products for answer in popular[1].answers]
    assert any(one.bonus for answer in popular[0].answers for one in answer.products)


@pytest.mark.parametrize("method", ["ibr", "popularity"])
def test_so_are_those_of_other_methods(
    method: str, looks: Path, cache: Path, tmp_path: Path, without_pictures: None
) -> None:
    run = train_on(looks, cache, tmp_path / "run", f"+experiment={method}")
    folder = published(run, tmp_path / "model")
    assert evaluated(folder, tmp_path / "a", looks, cache) == evaluated(run, tmp_path / "b", looks, cache)
    if method == "ibr":
        photos = sorted((looks / "images").rglob("*.jpg"))[:4]
        distances = [Compatibility(one).distances(photos[0], "Shoes", photos) for one in (folder, run)]
        assert np.array_equal(distances[0], distances[1])


@pytest.mark.long
def test_a_fresh_process_says_the_same_and_so_does_one_that_has_it_from_the_hub(
    served: tuple[Path, Path], looks: Path, tmp_path: Path
) -> None:
    run, catalogue = served
    photo = min((looks / "images").rglob("*.jpg"))
    name = f"{OWNER}/looks"
    with hub() as server:
        environment = server.environment(tmp_path / "home")
        said = program("publish", tmp_path, environment, f"ckpt_path={run}", "output=model", f"hub={name}")
        assert f"pushed to {server.address}/{name}" in said
        pushed = next(iter(server.revisions[name].values()))
        assert pushed == {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
        again = program("publish", tmp_path, environment, f"ckpt_path={run}", f"hub={OWNER}/other", "private=true")
        assert "written" not in again
        assert server.private == {f"{OWNER}/other"}
        stranger = server.environment(tmp_path / "elsewhere", login=False)
        for number, ckpt_path in enumerate((run, "model", f"hf://{name}")):
            words = (f"ckpt_path={ckpt_path}", f"catalogue={catalogue}", f"scene={photo}", f"output={number}/look.json")
            program("recommend", tmp_path, stranger, *words)
    found = [answers(tmp_path / str(number)) for number in range(3)]
    assert len(found[0]) == 2
    assert found[0][0]
    assert found[1] == found[2] == found[0]


def test_a_published_model_is_not_continued_and_not_fetched_to_say_so(
    model: Path, looks: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    for given in (str(model), str(model / WEIGHTS), "hf://owner/name"):
        with pytest.raises(InputError, match=r"holds the network alone, .* not continued") as refused:
            train_on(looks, cache, tmp_path / "run", f"ckpt_path={given}")
        assert f"ckpt_path={given}:" in str(refused.value)


def test_nothing_of_this_machine_is_in_the_folder(
    model: Path, served: tuple[Path, Path], looks: Path, cache: Path, tmp_path: Path
) -> None:
    assert {path.name for path in model.iterdir()} == {CONFIG, WEIGHTS, CARD}
    assert len({path.stat().st_mode for path in model.iterdir()}) == 1
    content = (model / CONFIG).read_text() + (model / CARD).read_text()
    for private in (looks, cache, served[0], tmp_path, Path.home(), sys.executable):
        assert str(private) not in content
    assert not {"logger", "callbacks", "paths"} & json.loads((model / CONFIG).read_text())["config"].keys()


def test_places_and_addresses_are_not_published() -> None:
    source = {
        "name": "shop_the_look",
        "pairs_file": "/home/me/p.json",
        "categories_file": "c.json",
        "images_dir": "../i",
    }
    given = {
        **{"_target_": "x.Y", "root": "/home/me/data", "cache_dir": "../cache", "chunks_dir": "~/chunks", "salt": "/0"},
        **{"split_file": "/home/me/split.json", "triplets_file": "t.jsonl"},
        "source": source | {"images_url": "http://me:secret@host/x"},
    }
    assert public_data(given) == {
        **{"root": "data", "cache_dir": "cache", "chunks_dir": None, "salt": "/0"},
        **{"split_file": "split.json", "triplets_file": "t.jsonl"},
        "source": {
            **{"name": "shop_the_look", "pairs_file": "p.json", "categories_file": "c.json", "images_dir": "images"},
            "images_url": None,
        },
    }
    assert public_data({"root": "data/stl_fashion"})["root"] == "data/stl_fashion"


def test_the_card_is_one_that_the_hub_reads_and_has_the_runs_numbers(
    model: Path, served: tuple[Path, Path], tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(model / CARD)
    assert (card.data.library_name, card.data.license) == ("ctl_lightning", "unknown")
    test = json.loads((served[0] / "results.json").read_text())["test"]
    assert card.data.eval_results is not None
    assert {one.metric_type: one.metric_value for one in card.data.eval_results} == {
        name: test["all"][name]["value"] for name in ("auc", "hit@10", "mrr")
    }
    auc = test["all"]["auc"]
    assert f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]" in card.text
    assert "python -m ctl_lightning.train " in card.text
    assert "| data.stored_size | `36` |" in card.text
    (tmp_path / "chart.png").write_bytes(PNG)
    words = ("license=cc-by-4.0", "title=Our *looks*", f"picture={tmp_path / 'chart.png'}")
    other = ModelCard.load(published(served[0], tmp_path / "other", *words) / CARD)
    assert other.data.license == "cc-by-4.0"
    assert r"# Our \*looks\*" in other.text
    assert "(picture.png)" in other.text


def test_a_checkpoint_without_its_run_has_a_card_without_results(
    model: Path, served: tuple[Path, Path], tmp_path: Path
) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copy(checkpoint_of(served[0]), alone)
    card = (published(alone, tmp_path / "model") / CARD).read_text()
    assert "None are beside the checkpoint" in card
    assert "metrics:" not in card
    # Results are of the best checkpoint.
    last = published(served[0] / "checkpoints" / "last.ckpt", tmp_path / "last") / CARD
    assert "None are beside the checkpoint" in last.read_text()
    assert "None are beside" not in (model / CARD).read_text()


def test_results_that_are_broken_are_one_line(served: tuple[Path, Path], tmp_path: Path) -> None:
    run = shutil.copytree(served[0], tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"test": {}}))
    with pytest.raises(InputError, match=r"results.json or split.json is not as `train` writes it \(KeyError"):
        published(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_published_model_is_replaced_whole_or_not_at_all(
    served: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published(served[0], tmp_path / "all" / "model", "title=One")
    published(served[0], folder, "title=Two")
    published(folder, folder, "title=Three")  # of itself
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert b"# Three" in before[CARD]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for broken in ("_write", "_compare", "_replace"):
        with monkeypatch.context() as patch:
            patch.setattr(publishing, broken, full)
            with pytest.raises(OSError, match="No space left"):
                published(served[0], folder, "title=Four")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir() if path.name != "hydra"] == ["model"]


def test_if_the_new_folder_cannot_be_moved_the_old_one_stays(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        shutil.copytree(model, folder)
    (old / CARD).write_text("old")
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: rename(self, to if self != new else tmp_path / "no" / "where"))
    with pytest.raises(FileNotFoundError):
        publishing._replace(new, old)
    assert (old / CARD).read_text() == "old"


@pytest.mark.parametrize("case", ["a run", "a file", "a stranger's", "with more in it"])
def test_what_is_not_a_published_model_is_not_overwritten(
    case: str, model: Path, served: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "there"
    if case == "a run":
        shutil.copytree(served[0], folder)
    elif case == "a file":
        folder.write_text("mine")
    elif case == "a stranger's":
        folder.mkdir()
        (folder / CONFIG).write_text('{"model_type": "bert"}')
    else:
        shutil.copytree(model, folder)
        (folder / "notes.txt").write_text("mine")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    with pytest.raises(InputError, match=f"^output={re.escape(str(folder))}: "):
        published(served[0], folder)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_an_empty_folder_and_one_by_a_link_are_filled(served: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    published(served[0], tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / WEIGHTS).is_file()


def test_weights_that_are_not_finite_are_not_published(served: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = torch.load(checkpoint_of(served[0]), weights_only=True)
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][name].fill_(torch.inf)
    torch.save(checkpoint, tmp_path / "broken.ckpt")
    with pytest.raises(InputError, match=r"ckpt_path=.*broken.ckpt: .* is not finite"):
        published(tmp_path / "broken.ckpt", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_an_older_version_wrote_is_published_as_of_today(served: tuple[Path, Path], tmp_path: Path) -> None:
    old = torch.load(checkpoint_of(served[0]), weights_only=True)
    del old["format"]
    torch.save(old, tmp_path / "old.ckpt")
    folder = published(tmp_path / "old.ckpt", tmp_path / "model")
    assert read_checkpoint(folder / WEIGHTS)["format"] == FORMAT


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("margin", "wide", r"data.margin='wide': input should be a valid"),
        ("aspect", "round", r"data.aspect='round': input should be 'stretch'"),
        ("exclude_categories", 5, r"data.exclude_categories=5"),
        ("source", {"name": "folder", "columns": 5}, r"data.source.columns=5"),
    ],
)
def test_options_of_a_strangers_data_are_of_their_types(
    name: str, value: object, why: str, model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    content = json.loads((folder / CONFIG).read_text())
    content["config"]["data"][name] = value
    (folder / CONFIG).write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"^ckpt_path={re.escape(str(folder / WEIGHTS))}: {why}"):
        Trained(folder)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "publish where"),
        (("hub=looks",), "hub=looks: expected OWNER/NAME"),
        (("output=made", "license=as I like"), "license='as I like'"),
        (("output=made", "private=maybe"), "private='maybe'"),
        (("output=made", "picture=nothing.png"), r"picture=nothing.png: cannot be read \(No such file"),
        (("output=made", f"picture={__file__}"), "not a PNG file"),
    ],
)
def test_a_wrong_option_is_refused_before_the_checkpoint_is_read(
    words: tuple[str, ...], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=why):
        publish(composed("publish", tmp_path / "hydra", "ckpt_path=nothing.ckpt", *words))
    assert os.listdir(tmp_path) == []


def test_a_catalogue_of_a_published_model_is_that_of_the_run(
    model: Path, served: tuple[Path, Path], looks: Path, tmp_path: Path
) -> None:
    made = make_catalogue(model, tmp_path / "catalogue", f"data.root={looks}")
    scene = looks / "images" / image_id("scene1")[:2] / f"{image_id('scene1')}.jpg"
    found = [Recommender.from_checkpoint(served[0], one).recommend(scene, "Hats") for one in (made, served[1])]
    assert [(one.product, one.distance) for one in found[0]] == [(one.product, one.distance) for one in found[1]]
