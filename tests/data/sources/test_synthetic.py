from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.sources import synthetic
from ctl_lightning.data.sources.drawing import DECIDERS, PATTERNS, SEASONS, category_name, kind_and_decider
from ctl_lightning.data.sources.synthetic import SyntheticLooks
from ctl_lightning.data.sources.truth import Truth

LOYALTY = 0.9


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("synthetic")


@pytest.fixture(scope="module")
def source(root: Path) -> SyntheticLooks:
    source = SyntheticLooks(scenes=500, variants=1, loyalty=LOYALTY, seed=0)
    source.prepare(root)
    return source


@pytest.fixture(scope="module")
def truth(source: SyntheticLooks, root: Path) -> Truth:
    return source.truth(root)


def test_equal_parameters_render_equal_bytes(source: SyntheticLooks, root: Path, tmp_path: Path) -> None:
    few = SyntheticLooks(scenes=3, variants=1, loyalty=LOYALTY, seed=0)
    for folder in (tmp_path / "a", tmp_path / "b"):
        few.prepare(folder)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 3 + len(few.read(tmp_path / "a").catalogue) + 3
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_rendering_happens_once(root: Path, source: SyntheticLooks) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    source.prepare(root)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_an_interrupted_rendering_is_finished_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SyntheticLooks(scenes=3, variants=1, loyalty=LOYALTY, seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "draw_scene", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            few.prepare(tmp_path)
    few.prepare(tmp_path)
    assert len(few.read(tmp_path).pairs) == 6


def test_catalogue_is_complete_and_balanced(source: SyntheticLooks, root: Path, truth: Truth) -> None:
    catalogue = source.read(root).catalogue
    counts = Counter((catalogue[name], *shown) for name, shown in truth.products.items())
    assert len(counts) == 8 * PATTERNS * PATTERNS * SEASONS
    assert set(counts.values()) == {1}


def test_the_share_of_noise_is_the_known_one(source: SyntheticLooks, root: Path, truth: Truth) -> None:
    pairs = source.read(root).pairs
    seasons = [truth.products[pair.product].season == truth.looks[pair.scene].season for pair in pairs]
    patterns = [
        truth.products[pair.product].pattern == truth.looks[pair.scene].colours[kind_and_decider(pair.category)[1]]
        for pair in pairs
    ]
    # Three standard deviations of a binomial share of 0.9 at n = 1000.
    assert np.mean(seasons) == pytest.approx(LOYALTY, abs=0.029)
    assert np.mean(patterns) == pytest.approx(LOYALTY, abs=0.029)
    both = np.mean(np.array(seasons) & np.array(patterns))
    assert both == pytest.approx(LOYALTY**2, abs=0.038)


def test_one_wall_alone_says_nothing_about_the_season(source: SyntheticLooks, root: Path, truth: Truth) -> None:
    walls, seasons = [], []
    for scene, look in truth.looks.items():
        with Image.open(source.image_path(root, scene)) as image:
            pixels = np.asarray(image).reshape(160, 128, 3).astype(float)
        left, right = pixels[:, 5:20].mean((0, 1)), pixels[:, -20:-5].mean((0, 1))
        walls.append((left[0] > left[2], right[0] > right[2]))  # terracotta or slate
        seasons.append(look.season)
    one, other = np.array(walls).T
    np.testing.assert_array_equal(one ^ other, np.array(seasons, bool))
    for wall in (one, other):
        # Three standard deviations of a share of one half at about 250 scenes.
        assert np.mean(np.array(seasons)[wall]) == pytest.approx(0.5, abs=0.1)


def test_the_garment_that_decides_is_whole_in_the_crop(source: SyntheticLooks, root: Path, truth: Truth) -> None:
    for pair in source.read(root).pairs:
        left, top, right, bottom = scene_crop(pair.box, 0.05)
        inner = truth.deciding_box(pair)
        assert left <= inner[0]
        assert top <= inner[1]
        assert inner[2] <= right
        assert inner[3] <= bottom


def test_the_oracle_is_the_likelihood_ratio_by_counting(truth: Truth, source: SyntheticLooks, root: Path) -> None:
    table = source.read(root)
    pair = table.pairs[0]
    products = table.products_of_category[pair.category]
    look, (_, decider) = truth.looks[pair.scene], kind_and_decider(pair.category)

    def probability(product: str) -> float:
        shown = truth.products[product]
        season = 0.9 if shown.season == look.season else 0.1
        pattern = 0.9 if shown.pattern == look.colours[decider] else 0.1 / 3
        return season * pattern / 4  # four colours, free

    assert sum(probability(product) for product in products) == pytest.approx(1)
    expected = [-np.log(probability(product) * len(products)) for product in products]
    np.testing.assert_allclose(truth.distance(pair, products, "oracle"), expected)


def test_without_the_category_the_best_is_the_mean_over_the_lines(
    truth: Truth, source: SyntheticLooks, root: Path
) -> None:
    table = source.read(root)
    pair = table.pairs[0]
    kind, _ = kind_and_decider(pair.category)
    products = table.products_of_category[pair.category]
    ratios = [
        np.exp(-truth.distance(pair._replace(category=category_name(kind, decider)), products, "oracle"))
        for decider in DECIDERS[kind]
    ]
    np.testing.assert_allclose(np.exp(-truth.distance(pair, products, "global")), np.mean(ratios, axis=0))


def test_photos_of_two_lines_differ_no_more_than_two_renderings_of_one(tmp_path: Path) -> None:
    def mean_picture(seed: int, category: str) -> np.ndarray:
        source = SyntheticLooks(scenes=1, variants=1, loyalty=LOYALTY, seed=seed)
        source.prepare(tmp_path)
        names = [name for name, line in source.read(tmp_path).catalogue.items() if line == category]
        pictures = [np.asarray(Image.open(source.image_path(tmp_path, name)), dtype=float) for name in names]
        return np.mean(pictures, axis=0)

    def difference(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(one - other).mean())

    line, again = (mean_picture(seed, category_name("Hats", "Tops")) for seed in (0, 1))
    other = mean_picture(0, category_name("Hats", "Bags"))
    shoes = mean_picture(0, category_name("Shoes", "Tops"))
    assert difference(line, other) < 1.5 * difference(line, again)
    assert difference(line, shoes) > 3 * difference(line, again)


@pytest.mark.parametrize("options", [{"loyalty": 0.4}, {"loyalty": 1.0}, {"scenes": 0}, {"variants": 0}])
def test_parameters_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        SyntheticLooks(**({"scenes": 1, "variants": 1, "loyalty": 0.9, "seed": 0} | options))  # type: ignore[arg-type]
