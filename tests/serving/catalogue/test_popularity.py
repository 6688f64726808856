"""Popularity in the ranks: exactly the sum, off by default, and refused where it cannot be counted."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import composed, save_image
from numpy.typing import NDArray

from ctl_lightning.recommend import recommend
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import replacing
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import Listed, Manifest, write_products
from ctl_lightning.serving.catalogue.popularity import FavouringCatalogue
from ctl_lightning.serving.recommender import Recommender
from ctl_lightning.serving.trained import Trained

SLICES = {"Hats": (0, 300), "Shoes": (300, 340)}


def catalogue_of(folder: Path, vectors: NDArray[np.float32]) -> ExactCatalogue:
    np.save(folder / "vectors.npy", vectors)
    rows = [(number, name) for name, (start, end) in SLICES.items() for number in range(start, end)]
    write_products(
        folder / "products.sqlite", [Listed(f"p{number}", name, f"{number}.jpg", "") for number, name in rows]
    )
    return ExactCatalogue(folder, Manifest({}, vectors.shape[1], SLICES, "vectors.npy", "products.sqlite"))


def brute_force(
    vectors: NDArray[np.float32], query: NDArray[np.float32], category: str, weight: float, counts: Mapping[str, int]
) -> list[tuple[float, int]]:
    """(d', row), the best first, equal ones by row."""
    start, end = SLICES[category]
    found = []
    for row in range(start, end):
        distance = 2 - sum(float(x) * float(y) for x, y in zip(vectors[row], query, strict=True))
        found.append((distance - weight * math.log(1 + counts.get(f"p{row}", 0)), row))
    return sorted(found)


@pytest.mark.parametrize("weight", [0.01, 0.1, 1000.0])
@pytest.mark.parametrize("tied", [False, True])
def test_the_best_are_those_of_a_slow_loop_over_the_sum(tmp_path: Path, tied: bool, weight: float) -> None:
    draw = np.random.default_rng(0)
    count = SLICES["Shoes"][1]
    # Tied: halves, whose products and sums are exact, so that equal distances are equal to the last bit.
    raw = draw.integers(-1, 2, (count, 6)) / 2 if tied else draw.normal(size=(count, 16))
    vectors = (raw if tied else raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    # A third of the products was in no training pair.
    counts = {f"p{row}": int(draw.integers(1, 4 if tied else 90)) for row in range(count) if row % 3}
    plain = catalogue_of(tmp_path, vectors)
    favouring = FavouringCatalogue(plain, weight, counts)
    assert favouring.counts == plain.counts
    differ = 0
    for query in vectors[draw.choice(count, 12)]:
        for category, k in (("Hats", 1), ("Hats", 10), ("Hats", 300), ("Shoes", 5), ("Shoes", 99)):
            expected = brute_force(vectors, query, category, weight, counts)[:k]
            (hits,) = favouring.search(query[None], category, k)
            assert [hit.product for hit in hits] == [f"p{row}" for _, row in expected]
            for hit, (total, row) in zip(hits, expected, strict=True):
                assert hit.distance == pytest.approx(2 - float(vectors[row].astype(float) @ query.astype(float)))
                assert hit.distance - hit.bonus == pytest.approx(total)
                assert (hit.bonus > 0) == (f"p{row}" in counts)
            differ += [hit.product for hit in plain.search(query[None], category, k)[0]] != [
                hit.product for hit in hits
            ]
    assert differ > 5


def test_zero_is_off_to_the_last_bit(served: tuple[Path, Path], looks: Path) -> None:
    photo = min((looks / "images").rglob("*.jpg"))
    plain, off = Recommender.from_checkpoint(*served), Recommender.from_checkpoint(*served, popularity=0)
    assert type(off.catalogue) is ExactCatalogue
    first, second = (one.look(photo, k=6) for one in (plain, off))
    assert [answer.products for answer in first.answers] == [answer.products for answer in second.answers]
    zeros = [hit.bonus for answer in second.answers for hit in answer.products]
    assert zeros == [0.0] * len(zeros)
    assert off.look(photo).popularity == 0


def test_a_checkpoint_has_the_number_of_training_pairs_of_each_product(served: tuple[Path, Path]) -> None:
    trained = Trained(served[0])
    data = trained.data({})
    data.prepare_data()
    data.setup()
    task = data.evaluation("test")
    counts = dict(zip(task.products, task.train_count.tolist(), strict=True))
    assert trained.train_counts == {product: count for product, count in counts.items() if count}
    assert trained.train_counts == Counter(pair.product for pair in data.pairs["train"])
    assert 0 in counts.values()


def test_data_name_the_popularity_and_rank_by_it(served: tuple[Path, Path], tmp_path: Path) -> None:
    save_image(tmp_path / "one.jpg", 1, (80, 60))
    words = [f"ckpt_path={served[0]}", f"catalogue={served[1]}", f"scene={tmp_path / 'one.jpg'}", "k=6"]
    found = {}
    for weight in ("0", "0.5"):
        output = tmp_path / f"{weight}.json"
        recommend(composed("recommend", tmp_path / "out", *words, f"popularity={weight}", f"output={output}"))
        found[weight] = json.loads(output.read_text())
    assert (found["0"]["popularity"], found["0.5"]["popularity"]) == (0, 0.5)
    counts = Trained(served[0]).train_counts
    assert counts is not None
    for plain, favoured in zip(found["0"]["categories"], found["0.5"]["categories"], strict=True):
        distance = {one["product"]: one["distance"] for one in plain["products"]}
        assert [one["distance"] for one in plain["products"]] == sorted(distance.values())
        totals = []
        for one in favoured["products"]:
            assert one["distance"] == distance[one["product"]]  # it stays the plain distance
            assert one["bonus"] == pytest.approx(0.5 * math.log(1 + counts.get(one["product"], 0)))
            totals.append(one["distance"] - one["bonus"])
        assert totals == sorted(totals)


def test_the_page_and_the_table_say_so(
    served: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(tmp_path / "one.jpg", 1, (80, 60))
    words = [f"ckpt_path={served[0]}", f"catalogue={served[1]}", f"scene={tmp_path / 'one.jpg'}", "popularity=0.1"]
    recommend(composed("recommend", tmp_path / "out", *words, f"output={tmp_path / 'look.html'}"))
    assert "minus 0.1 · log(1 + training pairs)" in (tmp_path / "look.html").read_text()
    assert "bonus" in capsys.readouterr().out


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, True])
def test_a_weight_that_is_none_is_refused(served: tuple[Path, Path], weight: float) -> None:
    with pytest.raises(InputError, match=r"^popularity=.*give a number from 0 on"):
        Recommender.from_checkpoint(*served, popularity=weight)


def test_an_old_checkpoint_is_refused_in_one_line(served: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    old = dict(Trained(served[0]).checkpoint)
    del old["train_counts"]
    with replacing(path) as temporary:
        torch.save(old, temporary)
    assert Recommender.from_checkpoint(path, served[1]).categories
    with pytest.raises(
        InputError, match=r"^popularity=0\.1: ckpt_path=.*old\.ckpt does not say in how many.*train again"
    ):
        Recommender.from_checkpoint(path, served[1], popularity=0.1)


def test_other_searches_are_refused_in_one_line(served: tuple[Path, Path]) -> None:
    plain = Recommender.from_checkpoint(*served)

    class Other(ExactCatalogue):
        """As FAISS's."""

    with pytest.raises(
        InputError, match=r"^popularity=0\.1: the catalogue is searched by FAISS, Qdrant or PostgreSQL.*backend=exact"
    ):
        Recommender(plain.encoder, Other(served[1], _manifest(served[1])), 0.1)


def _manifest(folder: Path) -> Manifest:
    found = Manifest.read(folder)
    assert found is not None
    return found
