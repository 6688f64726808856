"""`evaluate` from the checkpoint alone, against another one, and on what is no checkpoint of ours."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from factories import TINY, Compose, MakeData, fitting

from ctl_lightning.data.crop import crop_key
from ctl_lightning.data.images import ImageItem, decode
from ctl_lightning.evaluate import evaluate
from ctl_lightning.models.checkpoint import checkpoint_of, read_checkpoint
from ctl_lightning.reports.results import Results
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.trained import Trained
from ctl_lightning.train import train
from ctl_lightning.training.predict import ranked_split


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Run directories of hybrid, of global and of popularity."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunReport, "draw", lambda *_: {})
        for method in ("hybrid", "global", "popularity"):
            with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
                overrides = [f"+experiment={method}", f"paths.run_dir={folder / method}", f"paths.cache_dir={cache}"]
                train(hydra.compose("train", fitting([*TINY, *overrides])))
    return folder


def run(tmp_path: Path, *overrides: str) -> Results:
    words = [f"paths.run_dir={tmp_path / 'evaluated'}", "accelerator=cpu", *overrides]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        evaluate(hydra.compose("evaluate", words))
    content: Results = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    return content


def test_the_checkpoint_alone_gives_the_numbers_of_its_training_and_more(runs: Path, tmp_path: Path) -> None:
    found = run(tmp_path, f"ckpt_path={runs / 'hybrid'}", f"against={runs / 'global'}")
    trained = json.loads((runs / "hybrid" / "results.json").read_text())
    for part in (
        "protocol",
        "method",
        "seed",
        "test",
        "pairs",
        "classifier",
        "hubs",
        "reranking",
        "oracle",
        "attention",
    ):
        assert found[part] == trained[part], part
    assert (tmp_path / "evaluated" / "pairs.csv").read_bytes() == (runs / "hybrid" / "pairs.csv").read_bytes()
    assert found["controls"]["product_visible"]["all"]["auc"]["value"] != found["test"]["all"]["auc"]["value"]
    other = json.loads((runs / "global" / "results.json").read_text())
    assert found["against"]["test"] == other["test"]
    difference = found["against"]["difference"]["all"]["auc"]
    assert difference["value"] == pytest.approx(
        trained["test"]["all"]["auc"]["value"] - other["test"]["all"]["auc"]["value"]
    )
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert 0 < difference["p"] <= 1
    assert {path.name for path in (tmp_path / "evaluated" / "pictures").iterdir()} == {
        f"{name}.png"
        for name in ("retrieval", "classifier", "categories", "attention", "distances", "confusion", "embedding")
    }


def test_pairs_csv_averages_to_the_table(runs: Path) -> None:
    with (runs / "hybrid" / "pairs.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    table = json.loads((runs / "hybrid" / "results.json").read_text())["test"]
    for group, chosen in (("all", ("0", "1")), ("seen", ("1",)), ("unseen", ("0",))):
        for metric in ("auc", "mrr", "binary_accuracy", "hit@10", "lift", "lift_geometry"):
            values = np.array([float(row[metric]) for row in rows if row["seen"] in chosen])
            assert np.nanmean(values) == pytest.approx(table[group][metric]["value"]), (group, metric)


def test_a_method_that_sees_nothing_has_no_lift_no_control_and_no_difference_to_itself(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunReport, "draw", lambda *_: {})
    found = run(tmp_path, f"ckpt_path={runs / 'popularity'}", f"against={runs / 'popularity'}")
    for lift in ("lift", "lift_geometry"):
        assert found["test"]["all"][lift] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert "controls" not in found
    assert found["against"]["difference"]["unseen"]["auc"]["value"] == 0
    assert found["reranking"]["popularity"]["gain"]["value"] == 0


def test_the_control_shows_the_whole_scene_of_the_test_split_and_only_within(make_data: MakeData) -> None:
    data = make_data()
    task = data.evaluation("test")
    cut = data.query_images(task)[0].image
    with data.whole_scenes():
        whole = data.query_images(task)
        assert set(whole.keys) == {pair.scene for pair in task.pairs}
        for query, (key, _) in enumerate(task.queries):
            assert key.startswith(whole.keys[query])
        photo = ImageItem("", data.source.image_path(data.root, whole.keys[0]), None)
        shown = torch.as_tensor(whole[0].image)[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(shown, decode(photo, 36, "stretch", "bilinear")[2:34, 2:34])
    assert torch.equal(torch.as_tensor(data.query_images(task)[0].image), torch.as_tensor(cut))
    assert data.query_images(task).keys[0] == crop_key(task.pairs[0].scene, task.pairs[0].box)


def broken(path: Path, source: Path, **changed: Any) -> Path:
    torch.save(read_checkpoint(source / "checkpoints" / "last.ckpt") | changed, path)
    return path


def test_what_is_no_checkpoint_of_ours_is_one_line(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign.ckpt").write_text("not a checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    old = read_checkpoint(runs / "hybrid" / "checkpoints" / "last.ckpt")
    for name, says in (
        ("nowhere.ckpt", "no such file"),
        ("foreign.ckpt", "not a readable checkpoint"),
        ("other.ckpt", "not a checkpoint of ctl_lightning"),
        (".", r"a directory without checkpoints/best\*\.ckpt"),
        (broken(tmp_path / "a.ckpt", runs / "hybrid", config={}), "it does not say how it was trained"),
        (broken(tmp_path / "d.ckpt", runs / "hybrid", format="new"), "not a checkpoint of ctl_lightning"),
        (broken(tmp_path / "e.ckpt", runs / "hybrid", epoch=None), "not a checkpoint of ctl_lightning"),
        (
            broken(tmp_path / "f.ckpt", runs / "hybrid", hyper_parameters={"method": []}),
            "not a checkpoint of ctl_lightning",
        ),
        ("empty.ckpt", r"not a readable checkpoint \(EOFError\)|not a readable checkpoint \(Ran out of input\)"),
        (broken(tmp_path / "b.ckpt", runs / "hybrid", state_dict={}), "it does not fit this revision"),
        (
            broken(tmp_path / "c.ckpt", runs / "hybrid", hyper_parameters=old["hyper_parameters"] | {"new": 1}),
            "it does not fit this revision",
        ),
    ):
        with pytest.raises(InputError, match=rf"ckpt_path=.*{says}"):
            run(tmp_path, f"ckpt_path={tmp_path / name}")
    with pytest.raises(InputError, match=r"against=.*nowhere\.ckpt: no such file"):
        run(tmp_path, f"ckpt_path={runs / 'hybrid'}", f"against={tmp_path / 'nowhere.ckpt'}")


def test_nothing_that_a_checkpoint_names_is_imported(runs: Path, tmp_path: Path) -> None:
    config = read_checkpoint(runs / "hybrid" / "checkpoints" / "last.ckpt")["config"]
    source = config["data"] | {"source": {"_target_": "os.system", "command": f"touch {tmp_path / 'never'}"}}
    path = broken(tmp_path / "source.ckpt", runs / "hybrid", config=config | {"data": source})
    with pytest.raises(
        InputError, match=r"data\.source\.name=os\.system: there is no such source; there are: synthetic"
    ):
        Trained(path).data({})
    path = broken(
        tmp_path / "data.ckpt", runs / "hybrid", config=config | {"data": config["data"] | {"_target_": "os.system"}}
    )
    assert type(Trained(path).data({})).__name__ == "TripletDataModule"
    assert not (tmp_path / "never").exists()


def test_data_that_are_missing_or_of_another_protocol_are_one_line(
    runs: Path, tmp_path: Path, looks: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunReport, "draw", lambda *_: {})
    small = [word for word in TINY if not word.startswith("data.")]
    other = ["data=stl_fashion", f"data.root={looks}", "data.stored_size=36", "data.image_size=32", "backbone.grid=4"]
    train(
        compose(
            *small,
            "+experiment=global",
            *other,
            "data.batch_size=4",
            "protocol=stl_fashion",
            "backbone=small",
            run="other",
        )
    )
    with pytest.raises(InputError, match="nowhere"):
        run(tmp_path, f"ckpt_path={tmp_path / 'other'}", f"data.root={tmp_path / 'nowhere'}")
    with pytest.raises(
        InputError,
        match=r"against=.*: its protocol is synthetic \(\d+ test pairs, .*that of ckpt_path is stl_fashion.*not the same",
    ):
        run(tmp_path, f"ckpt_path={tmp_path / 'other'}", f"against={runs / 'hybrid'}")
    # Other categories than it knows.
    catalogue = json.loads((looks / "fashion-cat.json").read_text())
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("fashion.json", "images"):
        (moved / name).symlink_to(looks / name)
    (moved / "fashion-cat.json").write_text(json.dumps({key: value + "|New" for key, value in catalogue.items()}))
    with pytest.raises(
        InputError,
        match=r"trained under protocol stl_fashion and knows 2 categories.*has 2 .'Apparel & Accessories.Hats' is in one of them only",
    ):
        run(tmp_path, f"ckpt_path={tmp_path / 'other'}", f"data.root={moved}")
    # A split under which test scenes were learned from, or chosen on.
    split = json.loads((tmp_path / "other" / "split.json").read_text())
    for swap in ({"train": "test", "test": "train"}, {"validation": "test", "test": "validation"}):
        moved_split = {scene: swap.get(old, old) for scene, old in split["split_of_scene"].items()}
        (tmp_path / "swapped.json").write_text(json.dumps(split | {"split_of_scene": moved_split}))
        with pytest.raises(InputError, match=r"swapped\.json are not split as in its training"):
            run(tmp_path, f"ckpt_path={tmp_path / 'other'}", f"data.split_file={tmp_path / 'swapped.json'}")
    same = [f"ckpt_path={tmp_path / 'other'}", f"data.split_file={tmp_path / 'other' / 'split.json'}"]
    monkeypatch.setattr(RunReport, "draw", lambda *_: {})
    assert run(tmp_path, *same)["test"] == json.loads((tmp_path / "other" / "results.json").read_text())["test"]


def test_what_is_wrong_with_a_checkpoint_or_an_option_is_one_line(runs: Path, tmp_path: Path) -> None:
    old = read_checkpoint(runs / "hybrid" / "checkpoints" / "last.ckpt")
    hyper, config = old["hyper_parameters"], old["config"]
    backbone = {key: value for key, value in hyper["backbone"].items() if key != "checkpointing"}
    for changed in (
        {"hyper_parameters": hyper | {"backbone": backbone}},
        {"hyper_parameters": hyper | {"method": "foo"}},
        {"hyper_parameters": hyper | {"method": None}},
        {"classifier": {"threshold": 1.0}},
        {"config": config | {"data": None}},
        {"config": config | {"data": {key: value for key, value in config["data"].items() if key != "source"}}},
        {"config": config | {"data": config["data"] | {"source": {}}}},
        {"config": config | {"data": config["data"] | {"source": {"_target_": ["a"]}}}},
    ):
        with pytest.raises(InputError, match=r"ckpt_path=.*broken\.ckpt: "):
            run(tmp_path, f"ckpt_path={broken(tmp_path / 'broken.ckpt', runs / 'hybrid', **changed)}")
    for option, says in (
        ("accelerator=foo", "accelerator=foo devices=1 precision=32-true: "),
        ("precision=foo", "accelerator=cpu devices=1 precision=foo: "),
        ("data.store=foo", r"data\.store='foo': "),
        ("data.eval_batch_size=2.5", r"data\.eval_batch_size=2\.5: "),
        ("data.root=5", r"data\.root=5: "),
        ("paths.cache_dir=7", r"paths\.cache_dir=7: "),
    ):
        with pytest.raises(InputError, match=f"^{says}"):
            run(tmp_path, f"ckpt_path={runs / 'popularity'}", option)
    with pytest.raises(InputError, match="a training lies there, whose results would be overwritten"):
        run(tmp_path, f"ckpt_path={runs / 'hybrid'}", f"paths.run_dir={runs / 'hybrid'}")


def test_of_two_best_checkpoints_the_one_that_the_last_one_names_is_taken(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed" / "checkpoints"
    folder.mkdir(parents=True)
    (best,) = (runs / "hybrid" / "checkpoints").glob("best*.ckpt")
    for name in ("best-epoch099.ckpt", best.name, "last.ckpt"):
        (folder / name).symlink_to(runs / "hybrid" / "checkpoints" / (name if name == "last.ckpt" else best.name))
    assert checkpoint_of(tmp_path / "killed") == folder / best.name
    (folder / best.name).unlink()
    (folder / "best-epoch098.ckpt").symlink_to(best)
    with pytest.raises(InputError, match="not clear which of its checkpoints is the best; name one of them"):
        checkpoint_of(tmp_path / "killed")


@pytest.mark.parametrize("sign", ["interrupted", "received_sigterm"])
def test_ctrl_c_and_sigterm_while_pictures_are_embedded_are_not_swallowed(make_data: MakeData, sign: str) -> None:
    def predict(*_: Any) -> Any:
        if sign == "interrupted":
            raise SystemExit(1)  # as Lightning does
        return [[], []]

    trainer: Any = SimpleNamespace(
        global_rank=0, world_size=1, **{"interrupted": False, "received_sigterm": False, sign: True}, predict=predict
    )
    module: Any = SimpleNamespace(sees=True)
    with pytest.raises(KeyboardInterrupt):
        ranked_split(trainer, module, make_data(), "test")
