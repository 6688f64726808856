"""Recommending serves the ranks that were evaluated, for any photo, as a table, a picture, a page and data."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import composed, make_catalogue, save_image, served_ranks, train_on
from PIL import Image
from torch import Tensor

from ctl_lightning.data import images
from ctl_lightning.data.pictures import opening
from ctl_lightning.evaluate import evaluate
from ctl_lightning.models.components.backbone import Features
from ctl_lightning.recommend import recommend
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.locks import alone
from ctl_lightning.serving.catalogue.opening import open_catalogue
from ctl_lightning.serving.encoder import Encoder, Photo
from ctl_lightning.serving.look import write_look
from ctl_lightning.serving.pictures import product_picture
from ctl_lightning.serving.recommender import Answer, Look, Recommended, Recommender
from ctl_lightning.serving.trained import Trained

SHOES, HATS = "Apparel & Accessories|Shoes", "Apparel & Accessories|Hats"


def evaluated_ranks(run: Path, folder: Path) -> list[float]:
    evaluate(composed("evaluate", folder, f"ckpt_path={run}", "product_visible=false", "accelerator=cpu"))
    with (folder / "pairs.csv").open() as file:
        return [float(row["median_rank"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "words",
    [
        *([f"+experiment={name}"] for name in ("hybrid", "global", "local", "imagenet", "hybrid_uniform")),
        ["+experiment=imagenet", "data.interpolation=bicubic", "data.aspect=pad"],
    ],
    ids=" ".join,
)
def test_serving_ranks_every_test_pair_as_the_evaluation_did(
    tmp_path: Path, looks: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(RunReport, "draw", lambda *_: {})
    run = train_on(looks, cache, tmp_path / "run", *words)
    folder = make_catalogue(run, tmp_path / "catalogue")
    ranks = evaluated_ranks(run, tmp_path / "evaluation")
    assert len(ranks) > 8
    assert served_ranks(run, folder) == ranks


def test_a_method_without_a_query_is_one_line(
    tmp_path: Path, looks: Path, cache: Path, served: tuple[Path, Path]
) -> None:
    for name, words, says in (
        ("siamese", ("+experiment=siamese",), "siamese has no distance of the form 2 - query"),
        ("plain", ("model.squared=false",), "hybrid with plain distances has no distance of the form"),
        ("popularity", ("+experiment=popularity",), "popularity sees no pictures"),
    ):
        run = train_on(looks, cache, tmp_path / name, *words)
        with pytest.raises(InputError, match=says):
            make_catalogue(run, tmp_path / f"{name}_catalogue")
        assert not (tmp_path / f"{name}_catalogue").exists()


def photo_of(mode: str, size: tuple[int, int] = (60, 90)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_any_kind_of_photo_is_completed(served: tuple[Path, Path], tmp_path: Path, mode: str) -> None:
    recommender = Recommender.from_checkpoint(*served)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(photo_of("L")).astype(np.uint16) * 257).save(path)
        same: list[float] = [one.distance for one in recommender.recommend(photo_of("L"), "Shoes")]
        assert [one.distance for one in recommender.recommend(path, "Shoes")] == pytest.approx(same, abs=1e-6)
    else:
        photo_of(mode).save(path)
    look = recommender.look(path)
    assert [answer.category for answer in look.answers] == [HATS, SHOES]
    assert [len(answer.products) for answer in look.answers] == [3, 3]
    assert look.photo.mode == "RGB"
    picture = product_picture(path)
    assert not isinstance(picture, str)
    assert picture.shape == (90, 60, 3)
    for answer in look.answers:
        assert answer.attention is not None
        assert answer.attention.shape == (4, 4)
        assert answer.attention.sum() == pytest.approx(1)


def test_photos_of_several_requests_go_through_one_backbone_pass_with_the_answers_of_each(
    served: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = Recommender.from_checkpoint(*served)
    asked: list[tuple[Path, list[str] | None, int, tuple[float, float, float, float] | None]] = []
    for seed, (categories, k, box) in enumerate(
        [(None, 3, None), (["Shoes"], 2, (0.1, 0.6, 0.5, 0.9)), (["Hats", "Shoes"], 3, None), (["Shoes"], 3, None)]
    ):
        save_image(tmp_path / f"{seed}.png", seed, (40 + seed, 60))
        asked.append((tmp_path / f"{seed}.png", categories, k, box))
    alone = [recommender.look(*one) for one in asked]
    passes: list[int] = []
    features = recommender.encoder._features

    def counted(pictures: Tensor) -> Features:
        passes.append(len(pictures))
        return features(pictures)

    monkeypatch.setattr(recommender.encoder, "_features", counted)
    together = recommender.search(recommender.embed([recommender.prepare(*one) for one in asked]))
    assert passes == [4]
    for mine, theirs in zip(together, alone, strict=True):
        assert (mine.box, mine.crop, mine.seen, list(mine.kept)) == (theirs.box, theirs.crop, theirs.seen, theirs.kept)
        assert [one.category for one in mine.answers] == [one.category for one in theirs.answers]
        for here, there in zip(mine.answers, theirs.answers, strict=True):
            assert [one.product for one in here.products] == [one.product for one in there.products]
            for a, b in zip(here.products, there.products, strict=True):
                assert a.distance == pytest.approx(b.distance, abs=1e-5)
    with pytest.raises(InputError, match="k=0: give a whole number"):
        recommender.prepare(tmp_path / "0.png", None, 0, None)


def test_a_category_that_was_emptied_meanwhile_has_no_products(served: tuple[Path, Path]) -> None:
    recommender = Recommender.from_checkpoint(*served)
    asked = recommender.prepare(photo_of("RGB"), None, 3, None)
    del recommender.catalogue._slices[HATS]  # type: ignore[attr-defined]
    (look,) = recommender.search(recommender.embed([asked._replace(categories=[HATS, SHOES])]))
    assert [(one.category, len(one.products), one.candidates) for one in look.answers] == [(HATS, 0, 0), (SHOES, 3, 6)]
    (look,) = recommender.search(recommender.embed([asked._replace(categories=[HATS])]))
    assert [(one.category, len(one.products), one.candidates) for one in look.answers] == [(HATS, 0, 0)]


def test_a_catalogue_of_photos_resized_in_another_way_is_refused_in_one_line(served: tuple[Path, Path]) -> None:
    run, folder = served
    encoder = Encoder(run)
    encoder._options["interpolation"] = "bicubic"
    with pytest.raises(InputError) as refused:
        open_catalogue(folder, encoder, None)
    assert str(refused.value).startswith(
        f"catalogue={folder}: its photos were cut with interpolation=bilinear (ckpt_path: bicubic); give the checkpoint"
    )
    encoder._options |= {"interpolation": "bilinear", "aspect": "pad", "stored_size": 40}
    with pytest.raises(
        InputError, match=r"with aspect=stretch \(ckpt_path: pad\), stored_size=36 \(ckpt_path: 40\); give"
    ):
        open_catalogue(folder, encoder, None)


def test_photos_of_any_size_and_orientation(served: tuple[Path, Path], tmp_path: Path) -> None:
    recommender = Recommender.from_checkpoint(*served)
    for aspect in ("pad", "crop", "stretch"):
        recommender.encoder._options["aspect"] = aspect
        for size in ((1, 1), (1, 700), (6000, 3000)):
            Image.new("RGB", size, (200, 30, 40)).save(tmp_path / "a.png")
            assert len(recommender.recommend(tmp_path / "a.png", "Shoes", 2)) == 2
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:-400])
    halves: tuple[Photo, ...] = (tmp_path / "half.png", Image.open(tmp_path / "half.png"))
    for photo in halves:
        with pytest.raises(InputError, match="truncated"):
            recommender.recommend(photo, "Shoes")
    with pytest.raises(InputError, match=r"k=2\.5"):
        recommender.recommend(tmp_path / "a.png", "Shoes", 2.5)  # type: ignore[arg-type]
    upright = photo_of("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    expected = recommender.recommend(upright, "Shoes", 6)
    turned = Image.open(tmp_path / "turned.png")
    photos: tuple[Photo, ...] = (str(tmp_path / "turned.png"), turned)
    for photo in photos:
        found = recommender.recommend(photo, "Shoes", 6)
        assert [one.product for one in found] == [one.product for one in expected]
        assert [one.distance for one in found] == pytest.approx([one.distance for one in expected], abs=1e-6)
    assert recommender.look(turned).photo.size == upright.size


def test_what_is_transparent_is_white(served: tuple[Path, Path]) -> None:
    recommender = Recommender.from_checkpoint(*served)
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    white = Image.new("RGB", (40, 40), (255, 255, 255))
    distances = [[one.distance for one in recommender.recommend(photo, "Shoes")] for photo in (clear, white)]
    assert distances[0] == distances[1]


def test_the_box_is_cut_away_and_nothing_in_it_matters(served: tuple[Path, Path]) -> None:
    recommender = Recommender.from_checkpoint(*served)
    photo, box = photo_of("RGB", (100, 100)), (0.2, 0.7, 0.8, 1.0)
    painted = photo.copy()
    painted.paste((255, 0, 0), (20, 70, 80, 100))
    with_box = [[one.distance for one in recommender.recommend(one, "Hats", 3, box)] for one in (photo, painted)]
    whole = [[one.distance for one in recommender.recommend(one, "Hats", 3)] for one in (photo, painted)]
    assert with_box[0] == with_box[1]
    assert whole[0] != whole[1]
    assert recommender.look(photo, box=box).crop == pytest.approx((0.0, 0.0, 1.0, 0.65))


def test_the_attention_covers_what_the_network_sees(served: tuple[Path, Path]) -> None:
    encoder = Encoder(served[0])  # of 36 pixels it sees the central 32
    edge = 2 / 36
    assert encoder.seen(200, 100, (0.0, 0.0, 1.0, 1.0)) == pytest.approx((edge, edge, 1 - edge, 1 - edge))
    assert encoder.seen(200, 100, (0.0, 0.5, 1.0, 1.0)) == pytest.approx((edge, 0.5 + edge / 2, 1 - edge, 1 - edge / 2))
    encoder._options["aspect"] = "crop"  # the central square of a wide photo
    assert encoder.seen(200, 100, (0.0, 0.0, 1.0, 1.0)) == pytest.approx(
        (0.25 + edge / 2, edge, 0.75 - edge / 2, 1 - edge)
    )
    encoder._options["aspect"] = "pad"  # above and below it is white
    left, top, right, bottom = encoder.seen(200, 100, (0.0, 0.0, 1.0, 1.0))
    assert (left, right) == pytest.approx((edge, 1 - edge))
    assert top < 0 < 1 < bottom


def test_a_checkpoint_and_a_catalogue_recommend_in_three_lines(served: tuple[Path, Path], looks: Path) -> None:
    photo = next((looks / "images").rglob("*.jpg"))
    recommender = Recommender.from_checkpoint(str(served[0]), str(served[1]))
    found = recommender.recommend(str(photo), "Shoes", k=10)
    assert [one.rank for one in found] == [1, 2, 3, 4, 5, 6]
    assert all(one.image.exists() and 0 < (one.probability or 0) < 1 for one in found)
    assert recommender.classifier is not None
    expected = recommender.classifier.probability(np.array([one.distance for one in found]))
    assert [one.probability for one in found] == pytest.approx(expected.tolist())


@pytest.fixture
def words(served: tuple[Path, Path], tmp_path: Path) -> list[str]:
    save_image(tmp_path / "photos" / "one.jpg", 1, (80, 60))
    return [f"ckpt_path={served[0]}", f"catalogue={served[1]}"]


def run_recommend(tmp_path: Path, *words: str) -> None:
    recommend(composed("recommend", tmp_path / "out", *words))


@pytest.mark.parametrize("drawings", [True, False])
def test_a_model_of_drawings_says_so_before_a_photo(
    words: list[str],
    looks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    drawings: bool,
) -> None:
    monkeypatch.setattr(Trained, "learned_from_drawings", drawings)
    photo, scene = tmp_path / "photos" / "one.jpg", next((looks / "images").rglob("*.jpg"))
    for place, told in ((photo, drawings), (photo.parent, drawings), (scene, False), (scene.stem, False)):
        run_recommend(tmp_path, *words, f"scene={place}", f"output={tmp_path / 'looks' / 'look.json'}")
        assert ("drawn looks" in capsys.readouterr().out) == told


def test_a_picture_a_page_and_data_say_the_same(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = f"scene={tmp_path / 'photos' / 'one.jpg'}"
    run_recommend(tmp_path, *words, scene, "k=2")
    printed = capsys.readouterr().out
    with Image.open(tmp_path / "out" / "look.png") as picture:
        assert min(picture.size) > 300
    run_recommend(tmp_path, *words, scene, "k=2", "box=[0.1,0.6,0.5,0.9]", f"output={tmp_path / 'new' / 'look.json'}")
    run_recommend(tmp_path, *words, scene, "k=2", f"output={tmp_path / 'plain.json'}")
    run_recommend(tmp_path, *words, scene, "k=2", f"output={tmp_path / 'look.html'}")
    boxed, plain = (json.loads((tmp_path / name).read_text()) for name in ("new/look.json", "plain.json"))
    page = (tmp_path / "look.html").read_text()
    assert boxed["box"] == [0.1, 0.6, 0.5, 0.9]
    assert "http" not in re.sub(r"base64,[^']*", "", page)  # everything is in it
    for answer in plain["categories"]:
        assert answer["category"].replace("&", "&amp;") in page
        for one in answer["products"]:
            assert one["distance"] == pytest.approx((one["distance_global"] + one["distance_local"]) / 2, abs=1e-6)
            assert one["product"] in printed
            assert f"{one['distance']:.4f}" in printed
            assert f"<span class='rank'>{one['rank']}</span> <b>{one['probability']:.0%}</b> match" in page
            assert f"<dd class='product'>{one['product']}</dd>" in page
            for part in ("distance", "distance_global", "distance_local"):
                assert f">{one[part]:.3f}</dd>" in page
    assert page.count("class='card'") == 4
    assert page.count("<details class='why'") == 2


def test_another_process_that_writes_to_the_same_place_is_waited_for_by_name(
    served: tuple[Path, Path], tmp_path: Path
) -> None:
    save_image(tmp_path / "photos" / "a.jpg")
    output = tmp_path / "looks" / "look.json"
    output.parent.mkdir()
    words = [f"ckpt_path={served[0]}", f"catalogue={served[1]}", f"scene={tmp_path / 'photos'}", f"output={output}"]
    busy = alone(output.with_name(".look.json.lock"), "")
    with busy, pytest.raises(InputError, match=rf"output={output}: another process writes there; wait for it"):
        recommend(composed("recommend", tmp_path / "run", *words))
    assert not list(output.parent.glob("*.json"))


def test_a_photo_with_the_longest_name_has_a_look_of_its_own(served: tuple[Path, Path], tmp_path: Path) -> None:
    for letter in "ab":
        save_image(tmp_path / "photos" / f"{'n' * 250}{letter}.jpg"[-255:])
    words = [f"ckpt_path={served[0]}", f"catalogue={served[1]}", f"scene={tmp_path / 'photos'}"]
    recommend(composed("recommend", tmp_path / "run", *words, f"output={tmp_path / 'looks' / 'look.json'}"))
    scenes = {json.loads(path.read_text())["scene"] for path in (tmp_path / "looks").glob("*.json")}
    assert scenes == {str(path) for path in (tmp_path / "photos").iterdir()}


def test_a_sheet_shows_the_categories_with_the_most_products_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = Recommended(1, "p", tmp_path / "p.jpg", 1.0, {"global": 1.0}, 0.5)
    answers = [Answer(f"Kind {number}", [shown], None, number % 50) for number in range(100)]
    look = Look(photo_of("RGB"), None, (0.0, 0.0, 1.0, 1.0), [(0.0, 0.0, 1.0, 1.0)], (0.0, 0.0, 1.0, 1.0), answers)
    write_look(tmp_path / "look.png", "scene", look)
    write_look(tmp_path / "few.png", "scene", replace(look, answers=answers[:10]))
    with Image.open(tmp_path / "look.png") as many, Image.open(tmp_path / "few.png") as few:
        assert many.height / few.height == pytest.approx(3, rel=0.05)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "the 30 categories with the most products of 100 are drawn" in said
    write_look(tmp_path / "look.json", "scene", look)
    assert len(json.loads((tmp_path / "look.json").read_text())["categories"]) == 100


def test_a_look_opens_its_photo_once_and_sees_what_training_sees(
    served: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = Recommender.from_checkpoint(*served)
    encoder, photo = recommender.encoder, tmp_path / "large.jpg"
    save_image(photo, 3, (900, 700))
    opened: list[object] = []
    real = opening.read

    def counted(source: Any, use: Any) -> Any:
        opened.append(source)
        return real(source, use)

    monkeypatch.setattr(images, "read", counted)
    for box in (None, (0.1, 0.6, 0.9, 1.0)):
        opened.clear()
        look = recommender.look(photo, box=box)
        assert opened == [photo]
        crop = encoder.crop(box)
        assert look.photo.width < 900  # enough for the square, and to be looked at
        item = images.ImageItem("", photo, None if box is None else crop)
        options = encoder.trained.config["data"]
        stored = images.decode(item, options["stored_size"], options["aspect"], options["interpolation"])
        start = (options["stored_size"] - encoder.size) // 2
        seen = encoder.square(look.photo, crop)
        np.testing.assert_array_equal(seen, stored[start : start + encoder.size, start : start + encoder.size])


def test_looks_at_several_photos_are_those_at_each_alone(
    served: tuple[Path, Path], looks: Path, tmp_path: Path
) -> None:
    recommender = Recommender.from_checkpoint(*served)
    photos = [*sorted((looks / "images").rglob("*.jpg"))[:3], tmp_path / "missing.jpg"]
    photos.insert(1, photos.pop())
    found = recommender.looks(photos, k=4)
    for photo, look in zip(photos, found, strict=True):
        if photo.name == "missing.jpg":
            assert isinstance(look, InputError)
            assert str(photo) in str(look)
            continue
        assert not isinstance(look, InputError)
        alone = recommender.look(photo, k=4)
        assert [answer.category for answer in look.answers] == recommender.categories
        for one, other in zip(look.answers, alone.answers, strict=True):
            assert one.products == other.products
            np.testing.assert_array_equal(one.attention, other.attention)
    (only,) = recommender.looks([tmp_path / "missing.jpg"])
    assert isinstance(only, InputError)


def test_a_folder_of_photos_goes_on_where_it_was(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    save_image(folder / "two.jpg", 2)
    (folder / "bad.png").write_text("no picture")
    (folder / "notes.txt").write_text("no photo")
    out = [f"scene={folder}", "k=1", f"output={tmp_path / 'looks' / 'look.json'}"]
    with pytest.raises(InputError, match=r"1 of 3 photos in .* cannot be read; the others are done"):
        run_recommend(tmp_path, *words, *out)
    assert "bad.png: not an image" in capsys.readouterr().err
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "looks").glob("*.json")}
    assert made.keys() == {"one.jpg-look.json", "two.jpg-look.json"}
    (folder / "bad.png").unlink()
    save_image(folder / "three.jpg", 3)
    run_recommend(tmp_path, *words, *out)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "looks").glob("*.json")}
    assert {name: after[name] for name in made} == made
    assert "three.jpg-look.json" in after
    shutil.copytree(folder, tmp_path / "others")
    for name in ("one.jpg", "two.jpg", "three.jpg"):
        save_image(tmp_path / "others" / name, 77)
    run_recommend(tmp_path, *words, f"scene={tmp_path / 'others'}", *out[1:])  # other photos of the same names
    assert json.loads((tmp_path / "looks" / "one.jpg-look.json").read_text())["scene"] == str(
        tmp_path / "others" / "one.jpg"
    )
    run_recommend(tmp_path, *words, *out)  # the first ones again
    assert json.loads((tmp_path / "looks" / "one.jpg-look.json").read_text())["scene"] == str(folder / "one.jpg")
    run_recommend(tmp_path, *words, *out, "category=Hats")  # other options: all are made again
    for name in after:
        (answer,) = json.loads((tmp_path / "looks" / name).read_text())["categories"]
        assert answer["category"] == HATS


def test_wrong_options_are_one_line(words: list[str], tmp_path: Path) -> None:
    scene = f"scene={tmp_path / 'photos' / 'one.jpg'}"
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "file").write_text("")
    for wrong, says in (
        ([f"scene={tmp_path / 'text.jpg'}"], r"text\.jpg: not an image; give an image file"),
        ([f"scene={tmp_path / 'nowhere.jpg'}"], r"scene: .*nowhere\.jpg is no image file, nor an id of"),
        ([scene, "category=Shoos"], "category=Shoos: unknown to this checkpoint; did you mean 'Shoes'"),
        ([scene, "category=[Shoes,Bags]"], "category=Bags: unknown"),
        ([scene, "category=[]"], "name at least one"),
        (
            [scene, "catalogue.url=5"],
            "catalogue is not in Qdrant or PostgreSQL; leave it out",
        ),  # a text, as all addresses are
        ([scene, "catalogue.url=http://x"], "is not in Qdrant or PostgreSQL; leave it out"),
        ([scene, "output="], r"output=\.: the ending says what is written"),
        ([scene, f"output={tmp_path / 'photos' / 'one.jpg'}"], "the ending says what is written"),
        ([f"scene={tmp_path / 'photos'}", f"output={tmp_path / 'photos' / 'x.png'}"], "it lies where the scenes are"),
        ([scene, "k=0"], "k=0: give a whole number above 0"),
        ([scene, "k=many"], "k='many': input should be a valid integer"),
        ([scene, "box=[0.5,0.5,0.1,0.9]"], "give .left, top, right, bottom., from 0 to 1, not empty"),
        ([scene, "box=[0,0,1,1]"], "0% of the scene are left"),
        ([scene, "box=3"], "box=3: give"),
        ([scene, "output=look.pgn"], r"output=look\.pgn: the ending says what is written; did you mean '\.png'"),
        ([scene, "device=nonsense"], "device=nonsense"),
    ):
        with pytest.raises(InputError, match=says):
            run_recommend(tmp_path, *words, *wrong)
    with pytest.raises(FileExistsError):  # the program makes one line of it
        run_recommend(tmp_path, *words, scene, f"output={tmp_path / 'file' / 'look.png'}")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="there is no photo in it"):
        run_recommend(tmp_path, *words, f"scene={tmp_path / 'nothing'}")


def test_a_category_without_products_and_a_photo_that_is_gone(
    served: tuple[Path, Path], tmp_path: Path, looks: Path
) -> None:
    save_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "products.json").write_text('{"a": "Shoes"}')
    folder = make_catalogue(served[0], tmp_path / "catalogue", f"products={tmp_path / 'products.json'}")
    recommender = Recommender.from_checkpoint(served[0], folder)
    photo = next((looks / "images").rglob("*.jpg"))
    with pytest.raises(InputError, match="category=Hats: the catalogue has no product of it; it has '"):
        recommender.recommend(photo, "Hats")
    assert recommender.categories == [SHOES]
    (tmp_path / "images" / "a.jpg").unlink()  # it is recommended still, without its picture
    words = [f"ckpt_path={served[0]}", f"catalogue={folder}", f"scene={photo}"]
    for name in ("look.html", "look.png"):
        run_recommend(tmp_path, *words, f"output={tmp_path / name}")
    page = (tmp_path / "look.html").read_text()
    assert "a.jpg: No such file" in page
    assert str(tmp_path) not in page.partition("</h1>")[2]  # it may be shown to anybody


def test_names_with_signs_of_mathematics_and_markup_are_shown_as_they_are(
    served: tuple[Path, Path], tmp_path: Path, looks: Path
) -> None:
    name = "a$_$ {x^} <b> & 'q'"
    save_image(tmp_path / "images $a_$ {x^}" / "$p_$ {x^}.jpg")
    answer = Answer(
        f"{name}|$c_$ {{x^}}",
        [
            Recommended(
                1, name, tmp_path / "images $a_$ {x^}" / "gone $a_$ {x^}.jpg", 1.0, {"global": 1.0, "local": 1.0}, 0.5
            )
        ],
        None,
        1,
    )
    look = Look(photo_of("RGB"), None, (0.0, 0.0, 1.0, 1.0), [(0.0, 0.0, 1.0, 1.0)], (0.0, 0.0, 1.0, 1.0), [answer])
    for ending in ("png", "html", "json"):
        write_look(tmp_path / f"look.{ending}", name, look)
    page = (tmp_path / "look.html").read_text()
    assert page.count("<b>") == 1  # of the probability
    assert "a$_$ {x^} &lt;b&gt; &amp; &#x27;q&#x27;" in page


def test_a_category_that_ends_as_others_do_is_to_be_named_whole(served: tuple[Path, Path]) -> None:
    encoder = Encoder(served[0])
    encoder.categories = ["Hats|For him", "Shoes|For him", "Shoes|For her"]
    assert encoder.category("For her") == "Shoes|For her"
    with pytest.raises(
        InputError, match=r"several categories end so; give the whole name, of 'Hats\|For him', 'Shoes\|For him'"
    ):
        encoder.category("For him")


def test_links_that_lead_to_each_other_are_one_line_wherever_they_are_given(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"scene: nobody is no image file"):
        run_recommend(tmp_path, *words, f"data.root={tmp_path / 'loop'}", "scene=nobody")
    with pytest.raises(OSError, match=r"File exists"):
        run_recommend(
            tmp_path, *words, f"scene={tmp_path / 'photos' / 'one.jpg'}", f"output={tmp_path / 'loop' / 'x.png'}"
        )
