"""Pictures that are one photo are found, whatever was done to the copy; pictures of one series are not taken for one."""

import json
from collections.abc import Callable
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import data_module, image_id, write_look_files
from PIL import Image, ImageDraw, ImageOps

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.splits import SPLITS, read_split, split_of
from ctl_lightning.data.twins import thumbnails
from ctl_lightning.data.twins.details import FINE, correlations
from ctl_lightning.data.twins.groups import Twins, connected, same_photos
from ctl_lightning.data.twins.search import ALIKE, COARSE, aligned, candidates
from ctl_lightning.data.twins.thumbnails import SIDE, Thumbnails, content, views_of

Change = Callable[[Image.Image], Image.Image]


def drawn(seed: int, size: tuple[int, int] = (200, 280), clothes: int | None = None) -> Image.Image:
    """A wall with a few things in front of it, and a figure; `clothes`: seed of the figure's, the rest stays."""
    random = np.random.default_rng(seed)
    width, height = size

    def colour(of: np.random.Generator) -> tuple[int, ...]:
        return tuple(int(part) for part in of.integers(0, 255, 3))

    ramp = np.linspace(colour(random), colour(random), height)[:, None].repeat(width, 1)
    image = Image.fromarray(ramp.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y, w, h = (int(part) for part in random.integers(0, (width, height, width // 3, height // 3)))
        (draw.rectangle if random.random() < 0.5 else draw.ellipse)((x, y, x + w + 8, y + h + 8), colour(random))
    worn = np.random.default_rng(seed if clothes is None else clothes)
    middle = width // 2
    draw.ellipse((middle - 15, 40, middle + 15, 75), (222, 180, 150))
    draw.rectangle((middle - 32, 75, middle + 32, 165), colour(worn))
    for line in range(int(worn.integers(78, 90)), 165, int(worn.integers(7, 19))):
        draw.line((middle - 32, line, middle + 32, line), colour(worn), 3)
    draw.rectangle((middle - 28, 165, middle + 28, 262), colour(worn))
    return image


def on_white(shape: int, colour: tuple[int, int, int]) -> Image.Image:
    """A bag of a shape and a colour, with a dark handle, on white."""
    image = Image.new("RGB", (220, 220), "white")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((40, 90, 180, 190), 10 + shape, colour)
    draw.arc((70, 40 + shape, 150, 140), 180, 360, (60, 40, 30), 8)
    draw.ellipse((100, 130, 120, 150), (200, 170, 60))
    return image


def encoded(image: Image.Image, quality: int) -> Image.Image:
    """What a JPEG of it shows."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), width - round(right * width), height - round(bottom * height))
    )


COPIES: dict[str, Change] = {
    "encoded": lambda image: encoded(image, 50),
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "double": lambda image: image.resize((image.width * 2, image.height * 2)),
    "crop": lambda image: cropped(image, 0.03, 0.03, 0.03, 0.03),
    "crop of one side": lambda image: cropped(image, 0.03, 0, 0, 0),
    "crop of two sides": lambda image: cropped(image, 0, 0.03, 0.015, 0),
    "white border": lambda image: ImageOps.expand(image, round(0.04 * max(image.size)), "white"),
    "black border": lambda image: ImageOps.expand(image, round(0.04 * max(image.size)), "black"),
    "mirrored": ImageOps.mirror,
    "all": lambda image: ImageOps.mirror(encoded(ImageOps.scale(cropped(image, 0.015, 0.015, 0.015, 0.015), 0.75), 60)),
}


def found(folder: Path, *images: Image.Image) -> set[tuple[int, int]]:
    """Which pictures are found to be one photo."""
    paths = [folder / f"{number}.jpg" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path, quality=90)
    return {(one, two) for one, two in same_photos(paths, folder / "kept").tolist()}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_nothing_else(kind: str, tmp_path: Path) -> None:
    originals = [*(drawn(seed) for seed in range(4)), *(on_white(shape, (150, 60, 50)) for shape in (0, 30))]
    copies = [COPIES[kind](image) for image in originals]
    assert found(tmp_path, *originals, *copies) == {(n, n + len(originals)) for n in range(len(originals))}


def test_pictures_of_a_series_are_not_one_photo(tmp_path: Path) -> None:
    clothes = [drawn(7, clothes=seed) for seed in range(5)]
    # Two shades that are hardly further apart than what an encoder does.
    colours = [
        on_white(0, colour) for colour in ((150, 60, 50), (60, 60, 160), (30, 30, 30), (235, 225, 210), (210, 200, 190))
    ]
    shapes = [on_white(shape, (40, 40, 45)) for shape in (0, 14, 28, 42)]
    assert not found(tmp_path, *clothes, *colours[:2], *colours[3:], *shapes)


def test_without_twins_it_says_so() -> None:
    assert str(Twins([], {})) == "twins: none, no photo has two ids"


def test_flat_pictures_and_unreadable_ones_have_no_twin(tmp_path: Path) -> None:
    flat = [Image.new("RGB", (60, 90), colour) for colour in ("white", "black", "navy", "navy")]
    assert not found(tmp_path, *flat)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    paths = [tmp_path / "broken.jpg", tmp_path / "missing.jpg"]
    assert same_photos(paths, tmp_path / "again").tolist() == []


def test_equal_pictures_are_linked_to_the_first_and_not_compared_with_each_other(tmp_path: Path) -> None:
    image = drawn(1)
    assert found(tmp_path, *[image] * 5) == {(0, other) for other in range(1, 5)}  # no pairs among the others


def test_borders_within_borders_are_cut_away_and_content_is_not() -> None:
    inner = np.asarray(drawn(3))
    framed = ImageOps.expand(ImageOps.expand(Image.fromarray(inner), 9, "white"), 6, "black")
    left, top, right, bottom = content(inner)
    assert 0 < top < 80  # above is sky, of one colour in each row
    assert not inner[: top - 1].std(axis=1).any()
    assert (left, right, bottom) == (0, inner.shape[1], inner.shape[0])
    # Two borders take the row or column with them in which they end.
    assert content(np.asarray(framed)) == pytest.approx((left + 15, top + 15, right + 15, bottom + 15), abs=2)
    assert content(np.full((50, 40, 3), 200, np.uint8)) == (0, 0, 40, 50)


def test_candidates_are_those_of_a_loop_over_all_pairs() -> None:
    images = [
        *(drawn(seed) for seed in range(6)),
        *(COPIES[kind](drawn(0)) for kind in ("encoded", "mirrored", "crop")),
    ]
    made = [views_of(image, SIDE) for image in images]
    some = Thumbnails(np.stack([pixels for pixels, _ in made]), np.array([sides for _, sides in made], np.float32))
    wanted = set()
    side = SIDE // COARSE
    for one, two in combinations(range(len(images)), 2):
        for view in (0, 1):
            first, second = (
                some.pixels[index, view].reshape(COARSE, side, COARSE, side, 3).mean((1, 3), dtype=float)
                for index in (one, two)
            )
            for flipped, other in enumerate((second, second[:, ::-1])):
                if np.corrcoef(first.ravel(), other.ravel())[0, 1] > ALIKE:
                    wanted.add((one, two, view, flipped))
    assert {tuple(row) for rows in candidates(some) for row in rows.tolist()} == wanted
    assert {(0, 6, 0, 0), (0, 7, 0, 1), (0, 8, 0, 0)} <= wanted


def test_alignment_finds_the_crop_that_was_made() -> None:
    side = 64
    image = drawn(5, (800, 800))
    whole = torch.from_numpy(np.array(image.resize((side, side)))).float().permute(2, 0, 1)[None]
    part = image.crop((40, 24, 800, 800)).resize((side, side))
    *_, move = aligned(torch.from_numpy(np.array(part)).float().permute(2, 0, 1)[None], whole)
    # Of the whole, in halves of the side: what the crop shows is 0.95 wide from -0.9 on, and 0.97 high from -0.94 on.
    assert move[0].tolist() == pytest.approx([-0.05, 0.05, -0.03, 0.03], abs=0.006)


def test_details_of_the_same_picture_are_the_same_and_of_noise_are_not() -> None:
    random = torch.Generator().manual_seed(0)
    grey = torch.rand(1, 1, FINE, FINE, generator=random).mul(200).expand(-1, 3, -1, -1)
    other = torch.rand(1, 1, FINE, FINE, generator=random).mul(200).expand(-1, 3, -1, -1)
    assert correlations(grey, grey).item() == pytest.approx(1, abs=1e-3)
    assert abs(correlations(grey, other).item()) < 0.2
    flat = torch.full((1, 3, FINE, FINE), 90.0)
    assert correlations(flat, flat + 1).item() == pytest.approx(1)  # nothing tells them apart here: thumbnails did


def test_groups_are_what_pairs_connect() -> None:
    assert connected([(5, 9), (1, 2), (9, 11), (3, 2)]) == [[1, 2, 3], [5, 9, 11]]
    assert connected([]) == []
    chain = [(n, n + 1) for n in range(5000)]
    assert connected(reversed(chain)) == [list(range(5001))]


SCENES, PRODUCTS = 40, 6
"""Scenes of which each has a copy of some kind, and products of each of two categories."""


def planted(root: Path) -> dict[str, str]:
    """Looks in which every scene is there twice, and two hats are one photo. Returns scene -> its copy."""
    kinds = list(COPIES)
    catalogue = {image_id(f"{kind}{n}"): kind for kind in ("Hats", "Shoes") for n in range(PRODUCTS)}
    rows: list[dict[str, Any]] = []
    copy_of = {}
    for number in range(SCENES):
        scene, copy = image_id(f"scene{number}"), image_id(f"copy{number}")
        copy_of[scene] = copy
        for name, hat in ((scene, number), (copy, number + 1)):
            product = image_id(f"Hats{hat % PRODUCTS}")
            rows.append({"product": product, "scene": name, "bbox": [0.3, 0.1, 0.7, 0.3]})
            rows.append(
                {"product": image_id(f"Shoes{number % PRODUCTS}"), "scene": name, "bbox": [0.3, 0.8, 0.7, 0.95]}
            )
    write_look_files(root, rows, catalogue, images=False)

    def save(name: str, image: Image.Image) -> None:
        path = root / "images" / name[:2] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)

    for number, (scene, copy) in enumerate(copy_of.items()):
        save(scene, drawn(100 + number))
        save(copy, COPIES[kinds[number % len(kinds)]](drawn(100 + number)))
    for number, product in enumerate(catalogue):
        save(product, drawn(900 + number, (120, 120)))
    save(image_id("Hats1"), encoded(drawn(900, (120, 120)), 60))  # the photo of Hats0
    return copy_of


@pytest.fixture(scope="module")
def twin_looks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("twins") / "looks"
    return root, planted(root)


@pytest.fixture(scope="module")
def twin_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("twin_cache")


def set_up(root: Path, cache: Path, **options: Any) -> TripletDataModule:
    data = data_module(root, cache, **options)
    data.setup()
    return data


def splits_of(data: TripletDataModule) -> dict[str, str]:
    return {pair.scene: split for split in SPLITS for pair in data.pairs[split]}


@pytest.mark.parametrize(
    "options", [{}, {"salt": "7"}, {"folds": 3, "fold": 0}, {"folds": 3, "fold": 2}, {"train_share": 0.5}]
)
def test_no_photo_is_in_two_splits(
    twin_looks: tuple[Path, dict[str, str]], twin_cache: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    root, copy_of = twin_looks
    data = set_up(root, twin_cache, **options)
    split = splits_of(data)
    assert len({split[scene] for scene in copy_of if scene in split}) == 3
    for scene, copy in copy_of.items():
        assert split.get(scene) == split.get(copy)
    data.write_protocol_files(tmp_path)
    written = json.loads((tmp_path / "split.json").read_text())
    assert written["version"] == 2
    assert written["split_of_scene"] == split
    assert written["group_of_scene"] == {
        name: min(scene, copy) for scene, copy in copy_of.items() for name in (scene, copy) if name in split
    }
    for task in (data.evaluation("validation"), data.evaluation("test")):
        numbers = {pair.scene: number for pair, number in zip(task.pairs, task.scene.tolist(), strict=True)}
        assert all(numbers[scene] == numbers[copy_of[scene]] for scene in numbers if scene in copy_of)


def test_what_a_twin_names_is_positive_and_products_of_one_photo_are_one(
    twin_looks: tuple[Path, dict[str, str]], twin_cache: Path
) -> None:
    root, copy_of = twin_looks
    data = set_up(root, twin_cache)
    first, second = sorted((image_id("Hats0"), image_id("Hats1")))
    assert data.twins is not None
    assert data.twins.counts() == {
        "scene_groups": SCENES,
        "scenes_in_groups": 2 * SCENES,
        "sizes": {"2": SCENES},
        "product_groups": 1,
        "products_in_groups": 2,
        "scenes_that_are_products": 0,
    }
    assert first in data.products
    assert second not in data.products
    assert all(second not in (pair.product, pair.category) for pairs in data.pairs.values() for pair in pairs)
    for scene, copy in copy_of.items():
        assert data.table.products_of_scene[scene] == data.table.products_of_scene[copy]
    own = {(triplet.scene, triplet.negative) for triplets in data.triplets.values() for triplet in triplets}
    assert own
    assert all(negative not in data.table.products_of_scene[scene] for scene, negative in own)
    assert "40 photos are 80 scenes, 1 are 2 products" in data.summary()


def test_kept_twins_are_split_as_before_there_was_a_choice(
    twin_looks: tuple[Path, dict[str, str]], twin_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, copy_of = twin_looks
    data = set_up(root, twin_cache, twins="keep")
    split = splits_of(data)
    assert split == {name: split_of(name, "0") for pair in copy_of.items() for name in pair}
    assert data.table is data.as_read
    assert data.twins is None
    assert caplog.text.count("keeps twins") == 1
    apart = sum(split[scene] != split[copy] for scene, copy in copy_of.items())
    assert apart > 5

    data.write_protocol_files(tmp_path)
    caplog.clear()
    assert splits_of(set_up(root, twin_cache, split_file=str(tmp_path / "split.json"))) == split
    assert f"{apart} of 40 photos" in caplog.text
    (tmp_path / "old.json").write_text(json.dumps({"salt": "0", "split_of_scene": read_split(tmp_path / "split.json")}))
    caplog.clear()
    set_up(root, twin_cache, split_file=str(tmp_path / "old.json"))
    assert "was made without groups of twins" in caplog.text
    merged = set_up(root, twin_cache)
    merged.write_protocol_files(tmp_path / "merged")
    caplog.clear()
    assert splits_of(set_up(root, twin_cache, split_file=str(tmp_path / "merged" / "split.json"))) == splits_of(merged)
    assert "data.split_file" not in caplog.text


def test_every_scene_is_tested_in_one_fold(twin_looks: tuple[Path, dict[str, str]], twin_cache: Path) -> None:
    root, copy_of = twin_looks
    folds = [splits_of(set_up(root, twin_cache, folds=3, fold=fold)) for fold in range(3)]
    for name in (*copy_of, *copy_of.values()):
        assert [split[name] for split in folds].count("test") == 1


def test_a_share_of_the_training_scenes_leaves_the_rest_as_it_is(
    twin_looks: tuple[Path, dict[str, str]], twin_cache: Path
) -> None:
    root, _ = twin_looks
    whole, half, quarter = (set_up(root, twin_cache, train_share=share) for share in (1.0, 0.5, 0.25))
    for data in (half, quarter):
        assert [data.pairs[split] for split in SPLITS[1:]] == [whole.pairs[split] for split in SPLITS[1:]]
        assert data.triplets == whole.triplets
    assert set(quarter.pairs["train"]) < set(half.pairs["train"]) < set(whole.pairs["train"])
    assert half.dropped["not in train_share"] == len(whole.pairs["train"]) - len(half.pairs["train"])


def test_a_scene_that_is_a_products_photo_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "looks"
    planted(root)
    scene = image_id("scene0")  # and so its copy
    picture = (root / "images" / scene[:2] / f"{scene}.jpg").read_bytes()
    product = image_id("Shoes3")
    (root / "images" / product[:2] / f"{product}.jpg").write_bytes(picture)
    data = set_up(root, tmp_path / "cache")
    assert data.dropped["scene is a product's photo"] == 4
    assert not {scene, image_id("copy0")} & splits_of(data).keys()
    assert product in data.products


def test_pictures_are_looked_at_once_and_a_stopped_look_goes_on(
    twin_looks: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = twin_looks
    read: list[Path] = []
    real = thumbnails._thumbnails_of

    def counted(path: Path) -> Any:
        read.append(path)
        if len(read) == 70:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(thumbnails, "BLOCK", 32)
    monkeypatch.setattr(thumbnails, "_thumbnails_of", counted)
    with pytest.raises(KeyboardInterrupt):
        set_up(root, tmp_path)
    before = len(read)
    first = set_up(root, tmp_path)
    total = 2 * SCENES + 2 * PRODUCTS
    assert len(read) - before == total - 64  # two blocks were done
    assert not list((tmp_path / "twins").glob("*.thumbnails"))
    count = len(read)
    assert set_up(root, tmp_path).twins == first.twins
    assert len(read) == count


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"folds": 1}, "folds must be between 2 and 100"),
        ({"folds": 101}, "folds must be between 2 and 100"),
        ({"folds": 5, "fold": 5}, "fold must be at least 0 and less than the number of folds"),
        ({"fold": 1}, "no folds; give data.folds=5"),
        ({"folds": 3, "fold": -1}, "fold must be at least 0"),
        ({"folds": 3, "split_file": "split.json"}, "give one of them"),
        ({"train_share": 0.0}, "train_share must be more than 0"),
        ({"train_share": 1.5}, "train_share must be more than 0"),
    ],
)
def test_folds_and_shares_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        data_module(tmp_path, tmp_path, **options)
