"""`evaluate data=NAME`: all pairs of other data as the test split of a checkpoint that was trained on something else."""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from factories import REPOSITORY, composed, image_id, save_image, train_on, write_look_files
from PIL import Image

from ctl_lightning.data.category_names import matched_categories
from ctl_lightning.data.sources.stl import ShopTheLook
from ctl_lightning.evaluate import evaluate
from ctl_lightning.models.checkpoint import LAST, checkpoint_of, read_checkpoint
from ctl_lightning.reports.results import Results
from ctl_lightning.runtime.config import check_names, check_values, config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training import predict, seen_scenes

HATS, SHOES = "Apparel & Accessories|Hats", "Apparel & Accessories|Shoes"
OURS = {HATS: HATS, SHOES: SHOES}


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 scenes of two pairs each, 48 products, each in two or three pairs: some products of each half are in that half alone."""
    catalogue = {image_id(f"{kind}{n}"): name for kind, name in (("shoe", SHOES), ("hat", HATS)) for n in range(24)}
    boxes = {"shoe": [0.2, 0.8, 0.8, 0.95], "hat": [0.3, 0.05, 0.7, 0.2]}
    rows = [
        {"product": image_id(f"{kind}{n * step % 24}"), "scene": image_id(f"look{n}"), "bbox": boxes[kind]}
        for n in range(60)
        for kind, step in (("shoe", 7), ("hat", 5))
    ]
    return write_look_files(tmp_path_factory.mktemp("looks48"), rows, catalogue)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, looks: Path, cache: Path) -> Path:
    """A hybrid that was trained on about half of the scenes; the other half, by a hash of their ids, is its test split."""
    return train_on(looks, cache, tmp_path_factory.mktemp("other") / "run", "data.folds=2")


@pytest.fixture(autouse=True)
def numbers_alone(without_pictures: None) -> None:
    pass


def held_out(run: Path) -> set[str]:
    split: dict[str, str] = json.loads((run / "split.json").read_text())["split_of_scene"]
    return {scene for scene, own in split.items() if own == "test"}


def write_folder(root: Path, looks: Path, scenes: set[str], names: Mapping[str, str] = OURS, prefix: str = "") -> Path:
    """A folder of the pairs of these scenes, with the whole catalogue; categories and ids may have other names."""
    source = ShopTheLook("fashion.json", "fashion-cat.json")
    table = source.read(looks)
    (root / "images").mkdir(parents=True)
    rows = [
        {"scene": prefix + pair.scene, "bbox": pair.box, "product": prefix + pair.product}
        for pair in table.pairs
        if pair.scene in scenes
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    catalogue = {prefix + product: names[category] for product, category in table.catalogue.items()}
    (root / "categories.json").write_text(json.dumps(catalogue))
    for image in {*scenes, *table.catalogue}:
        (root / "images" / f"{prefix}{image}.jpg").symlink_to(source.image_path(looks, image))
    return root


def measured(folder: Path, *words: str) -> Results:
    """The content of results.json, and what was printed is left to pytest."""
    evaluate(composed("evaluate", folder, "accelerator=cpu", "product_visible=false", *words))
    content: Results = json.loads((folder / "results.json").read_text())
    return content


def told_of(everything: int, **counts: int | None) -> dict[str, int | None]:
    """What results.json tells of scenes or products of which nothing was in training, but for `counts`."""
    none = dict.fromkeys(("same_id", "not_compared", "same_photo", "other_photo"), 0)
    return {"of": everything, **none, **counts}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "pairs.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_other_half_in_a_folder_is_measured_as_the_test_split_is(
    run: Path, looks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = measured(tmp_path / "own", f"ckpt_path={run}", "product_visible=true")
    folder = write_folder(tmp_path / "folder", looks, held_out(run))
    capsys.readouterr()
    found = measured(
        tmp_path / "found", f"ckpt_path={run}", "data=folder", f"data.root={folder}", "product_visible=true"
    )
    said = capsys.readouterr().out
    assert (tmp_path / "found" / "pairs.csv").read_bytes() == (tmp_path / "own" / "pairs.csv").read_bytes()
    assert len(rows_of(tmp_path / "found")) == found["pairs"]["all"] > 40
    assert 0 < found["pairs"]["seen"] < found["pairs"]["all"]
    for part in ("test", "pairs", "hubs", "reranking", "controls", "twins"):
        assert found[part] == own[part], part
    assert found["classifier"] == {name: value for name, value in own["classifier"].items() if name != "pairs"}
    assert found["left_out"] == {}
    assert found["trained_on"]["scenes"] == told_of(len(held_out(run)))
    assert found["trained_on"]["pairs"] == 0
    assert found["data"]["source"] == "folder"
    assert found["data"]["pairs"] == found["pairs"]["all"]
    assert f"of 48 products {len(read_checkpoint(checkpoint_of(run))['train_counts'])} by their id" in said.replace(
        "\n", " "
    )


def test_other_names_of_categories_and_of_columns_change_nothing_and_what_is_unknown_is_told(
    run: Path, looks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_folder(tmp_path / "plain", looks, held_out(run))
    measured(tmp_path / "own", f"ckpt_path={run}", "data=folder", f"data.root={plain}")
    folder = write_folder(tmp_path / "folder", looks, held_out(run), {SHOES: "Shoes", HATS: "Hüte"})
    catalogue = json.loads((folder / "categories.json").read_text()) | {"lamp1": "Lamps", "lamp2": "Lamps"}
    (folder / "categories.json").write_text(json.dumps(catalogue))
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    rows.append(rows[0] | {"product": "lamp1"})
    lines = ["photo,item,left,top,right,bottom"]
    lines += [",".join(map(str, [row["scene"], row["product"], *row["bbox"]])) for row in rows]
    (folder / "pairs.csv").write_text("\n".join(lines))
    (folder / "pairs.jsonl").unlink()
    (tmp_path / "map.json").write_text(json.dumps({"Hüte": "Hats"}))
    columns = ["data.source.columns.scene=photo", "data.source.columns.product=item"]
    renamed = ["data=folder", f"data.root={folder}", f"categories={tmp_path / 'map.json'}", *columns]
    # categories.json has its own columns, which are called product and category whatever the pairs say
    found = measured(tmp_path / "found", f"ckpt_path={run}", *renamed)
    said = " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "found" / "pairs.csv").read_bytes() == (tmp_path / "own" / "pairs.csv").read_bytes()
    assert found["data"]["categories"] == {"Hüte": HATS, "Shoes": SHOES}
    assert found["data"]["unmatched"] == {"Lamps": {"pairs": 1, "products": 2}}
    assert found["data"]["dropped"] == {"of a category that the checkpoint does not know": 1}
    assert "category 'Lamps' is left out, as the checkpoint does not know it: 1 pairs, 2 products" in said
    assert f"category 'Hüte' is {HATS!r} of the checkpoint" in said


def test_photos_that_were_trained_on_are_told_under_other_ids_and_what_needs_training_pairs_is_left_out(
    run: Path, looks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = json.loads((run / "split.json").read_text())["split_of_scene"]
    learned = sorted(scene for scene, own in split.items() if own == "train")[:5]
    scenes = {*learned, *sorted(held_out(run))[:10]}
    folder = write_folder(tmp_path / "folder", looks, scenes, prefix="x")
    words = [f"ckpt_path={run}", f"against={run}", "data=folder", f"data.root={folder}"]
    found = measured(tmp_path / "found", *words)
    said = " ".join(capsys.readouterr().out.split())
    trained = read_checkpoint(checkpoint_of(run))["train_counts"]
    assert found["trained_on"] == {
        "scenes": told_of(15, same_photo=5),
        "products": told_of(48, same_photo=len(trained)),
        "pairs": 10,
    }
    assert "10 of the 30 pairs are of scenes that it was trained on: their numbers are too good" in said
    assert found["left_out"].keys() == {"seen", "auc_matched", "reranking.popularity"}
    assert found["pairs"] == {"all": 30, "seen": 0, "unseen": 30}
    assert found["test"]["all"]["auc_matched"] == {"value": None, "low": None, "high": None}
    assert found["test"]["unseen"]["auc"] == found["test"]["all"]["auc"]
    assert found["reranking"].keys() == {"shuffled"}
    why = "auc_matched: no product of these data was in training: it would be auc"
    assert f"left out: {why}" in said
    assert f"left out of the difference: {why}" in said
    assert found["against"]["difference"]["all"]["auc_matched"]["value"] is None
    assert found["against"]["difference"]["all"]["auc"]["value"] == 0


def test_an_equal_id_with_another_photo_is_another_product(
    run: Path, looks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = json.loads((run / "split.json").read_text())["split_of_scene"]
    learned = sorted(scene for scene, own in split.items() if own == "train")[:5]
    folder = write_folder(tmp_path / "folder", looks, {*learned, *sorted(held_out(run))[:10]})
    trained = read_checkpoint(checkpoint_of(run))["train_counts"]
    hats = {name for name, own in json.loads((folder / "categories.json").read_text()).items() if own == HATS}
    for seed, name in enumerate([*sorted(hats), *learned[:2]], 1000):
        (folder / "images" / f"{name}.jpg").unlink()
        save_image(folder / "images" / f"{name}.jpg", seed)
    shoe = min(trained.keys() - hats)  # the photo in another size is the photo
    photo = folder / "images" / f"{shoe}.jpg"
    with Image.open(photo) as picture:
        larger = picture.resize((80, 120))
    photo.unlink()
    larger.save(photo, quality=95)
    found = measured(tmp_path / "found", f"ckpt_path={run}", "data=folder", f"data.root={folder}")
    said = " ".join(capsys.readouterr().out.split())
    others = len(trained.keys() & hats)
    assert found["trained_on"] == {
        "scenes": told_of(15, same_id=3, other_photo=2),
        "products": told_of(48, same_id=len(trained) - others, other_photo=others),
        "pairs": 6,
    }
    seen = [row["product"] in trained.keys() - hats for row in rows_of(tmp_path / "found")]
    assert [row["seen"] == "1" for row in rows_of(tmp_path / "found")] == seen
    assert 0 < sum(seen) <= 15
    assert (
        f"{others} products have the id of one that it was trained on, and another photo: they count as other products"
        in said
    )


def test_the_checkpoint_needs_nothing_of_its_training_but_itself(
    run: Path, looks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "folder", looks, held_out(run))
    with_data = measured(tmp_path / "with", f"ckpt_path={run}", "data=folder", f"data.root={folder}")
    checkpoint = read_checkpoint(checkpoint_of(run))
    config = checkpoint["config"]
    partly = tmp_path / "partly"  # a few photos of the training tell nothing of the others
    for file in (*looks.glob("*.json"), *sorted((looks / "images").rglob("*.jpg"))[:9]):
        copied = partly / file.relative_to(looks)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.symlink_to(file)
    for root in (tmp_path / "nowhere", partly):
        moved = config | {"data": config["data"] | {"root": str(root)}}
        torch.save(checkpoint | {"config": moved}, tmp_path / "alone.ckpt")
        words = [f"ckpt_path={tmp_path / 'alone.ckpt'}", "data=folder", f"data.root={folder}"]
        capsys.readouterr()
        found = measured(tmp_path / root.name / "found", *words)
        said = " ".join(capsys.readouterr().out.split())
        assert found["test"] == with_data["test"]
        assert found["classifier"] == with_data["classifier"]
        count = len(checkpoint["train_counts"])
        products = told_of(48, same_id=count, not_compared=count, same_photo=None)
        unknown = dict.fromkeys(products, None) | {"of": len(held_out(run))}
        assert found["trained_on"] == {"scenes": unknown, "products": products, "pairs": None}
        assert f"{count} products are taken for what it was trained on by their id alone" in said


@pytest.mark.parametrize("lacks", ["classifier", "train_counts"])
def test_a_checkpoint_that_is_not_the_chosen_one_of_a_whole_run_is_refused_with_the_way_out(
    lacks: str, run: Path, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(checkpoint_of(run))
    torch.save({name: value for name, value in checkpoint.items() if name != lacks}, tmp_path / "stopped.ckpt")
    for path in (tmp_path / "stopped.ckpt", run / LAST):
        with pytest.raises(InputError, match=r"ckpt_path=.*give the run directory or its best-\*\.ckpt") as error:
            measured(tmp_path / "a", f"ckpt_path={path}", "data=folder", f"data.root={tmp_path}")
        assert "a stopped run goes on with ckpt_path=auto" in str(error.value)


def test_what_was_trained_on_is_looked_for_before_anything_is_ranked(
    run: Path, looks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(seen_scenes, "shown_by_others", interrupted)
    monkeypatch.setattr(predict, "ranked_split", lambda *_: pytest.fail("it has ranked"))
    folder = write_folder(tmp_path / "folder", looks, held_out(run), prefix="x")
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "a", f"ckpt_path={run}", "data=folder", f"data.root={folder}")


def test_two_checkpoints_are_compared_on_the_pairs_that_both_can_rank(
    run: Path, looks: Path, cache: Path, tmp_path: Path
) -> None:
    cached = ["+experiment=imagenet", "backbone.frozen=true", "data.augment=none"]
    shoes = train_on(looks, cache, tmp_path / "shoes", *cached, f'data.exclude_categories=["{HATS}"]', "data.folds=3")
    folder = write_folder(tmp_path / "folder", looks, held_out(run))
    words = ["data=folder", f"data.root={folder}"]
    found = measured(tmp_path / "found", f"ckpt_path={run}", f"against={shoes}", *words)
    alone = measured(tmp_path / "alone", f"ckpt_path={shoes}", *words)
    assert found["against"]["test"] == alone["test"]
    assert found["against"]["compared"]["pairs"] == alone["pairs"]["all"] == found["pairs"]["all"] / 2
    assert found["against"]["compared"]["left_out"].keys() == {"auc_matched"}
    auc, difference = (
        {row["product"] + row["scene"]: float(row["auc"]) for row in rows_of(tmp_path / of)}
        for of in ("found", "alone")
    )
    expected = sum(auc[pair] - other for pair, other in difference.items()) / len(difference)
    assert found["against"]["difference"]["all"]["auc"]["value"] == pytest.approx(expected)
    assert found["against"]["difference"]["all"]["auc_matched"]["value"] is None
    # The cache of the training has features of other pictures: they are not taken for those of these.
    assert list((cache / "features").iterdir())
    fresh = measured(tmp_path / "fresh", f"ckpt_path={shoes}", *words, f"paths.cache_dir={tmp_path / 'cache'}")
    assert fresh["test"] == alone["test"]


def test_a_method_that_sees_nothing_ranks_other_pairs_by_the_training_pairs_of_their_products(
    looks: Path, cache: Path, tmp_path: Path
) -> None:
    product, twin = image_id("shoe0"), "f" * 32
    looks = shutil.copytree(looks, tmp_path / "looks")
    catalogue = json.loads((looks / "fashion-cat.json").read_text())
    (looks / "fashion-cat.json").write_text(json.dumps(catalogue | {twin: SHOES}))
    photo = Path("images") / twin[:2] / f"{twin}.jpg"
    (looks / photo).parent.mkdir(exist_ok=True)
    shutil.copy(looks / "images" / product[:2] / f"{product}.jpg", looks / photo)
    run = train_on(looks, cache, tmp_path / "run", "+experiment=popularity", "data.folds=2")
    folder = write_folder(tmp_path / "folder", looks, held_out(run))
    measured(tmp_path / "own", f"ckpt_path={run}")
    measured(tmp_path / "found", f"ckpt_path={run}", "data=folder", f"data.root={folder}")
    assert (tmp_path / "found" / "pairs.csv").read_bytes() == (tmp_path / "own" / "pairs.csv").read_bytes()
    # Data that have the other id of a photo of two have the product of the training, too.
    counts = read_checkpoint(checkpoint_of(run))["train_counts"]
    assert counts[twin] == counts[product] > 0
    (folder / "pairs.jsonl").write_text((folder / "pairs.jsonl").read_text().replace(product, twin))
    del catalogue[product]
    (folder / "categories.json").write_text(json.dumps(catalogue | {twin: SHOES}))
    found = measured(tmp_path / "other", f"ckpt_path={run}", "data=folder", f"data.root={folder}")
    assert {row["seen"] for row in rows_of(tmp_path / "other") if row["product"] == twin} == {"1"}
    assert found["trained_on"]["products"] == told_of(48, same_id=len(counts) - 1)


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_dir() / "data").glob("*.yaml")))
def test_all_data_of_training_can_be_measured_and_how_they_are_cut_is_the_checkpoints(
    name: str, tmp_path: Path
) -> None:
    given = [f"data={name}", "ckpt_path=run", "data.root=some/path"]
    config = composed("evaluate", tmp_path, *given)
    values = check_names("evaluate", config)
    check_values(values)
    taken = {option for option, value in values["data"].items() if value is not None}
    assert taken == {"root", "source", "max_bad_images"}
    assert f"`{name}`" in (REPOSITORY / "docs/evaluation.md").read_text()
    with pytest.raises(InputError, match=r"there is no option 'data\.margin'"):
        check_names("evaluate", composed("evaluate", tmp_path, *given, "data.margin=0.1"))


def test_what_is_wrong_with_other_data_is_one_line(run: Path, looks: Path, cache: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", looks, held_out(run), {SHOES: "Shoos", HATS: "Hats"})
    strange = write_folder(tmp_path / "strange", looks, held_out(run), {SHOES: "Shoos", HATS: "Mützen"})
    here, file = ["data=folder", f"data.root={folder}"], tmp_path / "map.json"

    def says(words: list[str], message: str, content: str | None = None) -> None:
        if content is not None:
            file.write_text(content)
        with pytest.raises(InputError, match=message) as error:
            measured(tmp_path / "a", f"ckpt_path={run}", *words)
        assert "\n" not in str(error.value)

    says(["data=folder", f"data.root={tmp_path / 'nowhere'}"], r"data\.root=.*nowhere: pairs\.jsonl is not there")
    says([*here, "data.split_file=some/path"], r"data\.split_file: with data=NAME all pairs are measured")
    says([*here, "+data.source.foo=1"], r"data: .*unexpected keyword argument 'foo'")
    says(["data=folder"], r"data\.root has no value; give the folder of these data with data\.root=DIR")
    says([f"categories={file}"], "give data=NAME, too", "{}")
    mapped = [*here, f"categories={file}"]
    says([*here, f"categories={tmp_path / 'no.json'}"], r"categories=.*no\.json: cannot be read \(No such file")
    says(mapped, r"categories=.*map\.json:1: not valid JSON .*it must be JSON such as", "{")
    says(mapped, r"map\.json: \['a'\] is not a JSON object", '["a"]')
    says(mapped, r"map\.json: 'Shoos' is 3, not a name; .* or null to leave it out", '{"Shoos": 3}')
    says(mapped, r"the data have no category 'Shooos'; did you mean 'Shoos'", '{"Shooos": "Shoes"}')
    says(
        mapped,
        rf"'Shoos' is to be 'Shoe', which is no category of the checkpoint; did you mean '{SHOES[:9]}.*Shoes'",
        '{"Shoos": "Shoe"}',
    )
    says(
        ["data=folder", f"data.root={strange}"],
        r"none of the categories .*: the data have 'Mützen', 'Shoos'; the checkpoint knows 'App.*Hats', 'App.*Shoes'; did you mean "
        r".*Shoes' for 'Shoos'\?; say which is which with categories=FILE",
    )
    says([*here, "data.triplets_file=some/path"], r"data\.triplets_file: cannot read some/path")
    says([*mapped], r"none of the categories", '{"Shoos": null, "Hats": null}')
    synthetic = ["data=synthetic", "data.source.scenes=2", "data.source.variants=1", f"data.root={cache / 'synthetic'}"]
    says(synthetic, "none of the categories .* the checkpoint knows")


def test_a_category_is_found_by_its_name_its_last_part_or_the_map() -> None:
    ours = ["A|Lamps", "A|Rugs", "B|Rugs", "Beds"]
    theirs = ["Beds", "X|Lamps", "Rugs", "Cots", "Stools"]
    assert matched_categories(theirs, ours, {}, True) == {"Beds": "Beds", "X|Lamps": "A|Lamps"}
    given = {"Rugs": "B|Rugs", "Cots": "Beds", "X|Lamps": None}
    assert matched_categories(theirs, ours, given, True) == {"Beds": "Beds", "Rugs": "B|Rugs", "Cots": "Beds"}
    assert matched_categories(theirs, ours, {"Cots": "Cribs"}, False) == {"Beds": "Beds", "X|Lamps": "A|Lamps"}
