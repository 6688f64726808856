import itertools
import math
from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from factories import MakeData, image_id

from ctl_lightning.data.crop import crop_key
from ctl_lightning.data.negatives import NegativeSampler
from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.samplers import EpochSampler
from ctl_lightning.data.seeding import random_integers
from ctl_lightning.data.splits import read_triplets, write_triplets
from ctl_lightning.data.triplets import PairBatch, TripletDataset
from ctl_lightning.metrics.ground_truth import region_centre
from ctl_lightning.runtime.errors import InputError

BOX = (0.0, 0.0, 0.5, 0.5)
PRODUCTS = [image_id(f"p{n}") for n in range(5)]
ITEMS = ["a", "b"] * 25
CATALOGUE = dict.fromkeys(PRODUCTS, "c") | {image_id("other"): "d"}


def test_random_integers_are_uniform_and_depend_on_the_key_alone() -> None:
    draws = [random_integers([4, 10], "a", n) for n in range(4000)]
    assert draws[7] == random_integers([4, 10], "a", 7)
    for column, bound in enumerate((4, 10)):
        counts = np.bincount([draw[column] for draw in draws], minlength=bound)
        expected = 4000 / bound
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi square: 99.9 % of 9 degrees is below 27.9
    assert draws != [random_integers([4, 10], "b", n) for n in range(4000)]


def test_a_negative_is_never_named_by_any_pair_of_the_scene() -> None:
    pairs = [
        Pair("s", BOX, PRODUCTS[0], "c"),
        Pair("s", (0.5, 0.5, 1, 1), PRODUCTS[1], "c"),
        Pair("t", BOX, PRODUCTS[2], "c"),
    ]
    table = PairTable(tuple(pairs), CATALOGUE)
    sampler = NegativeSampler(table, frozenset(CATALOGUE), (), "uniform")
    drawn = Counter(sampler.draw(pairs[0], n) for n in range(3000))
    assert drawn.keys() == set(PRODUCTS[2:])
    # Three standard deviations of a share of a third.
    assert all(count == pytest.approx(1000, abs=78) for count in drawn.values())


def test_negatives_from_pairs_follow_the_training_frequency() -> None:
    pairs = [Pair(f"s{n}", BOX, PRODUCTS[0 if n < 9 else 1], "c") for n in range(12)] + [
        Pair("t", BOX, PRODUCTS[2], "c")
    ]
    table = PairTable(tuple(pairs), CATALOGUE)
    sampler = NegativeSampler(table, frozenset(CATALOGUE), pairs, "pairs")
    drawn = Counter(sampler.draw(pairs[-1], n) for n in range(3000))
    assert drawn.keys() == set(PRODUCTS[:2])
    assert drawn[PRODUCTS[0]] / 3000 == pytest.approx(9 / 12, abs=0.024)  # three standard deviations


def test_an_unreadable_product_is_no_negative_and_changes_no_other_draw() -> None:
    pair = Pair("s", BOX, PRODUCTS[0], "c")
    table = PairTable((pair,), CATALOGUE)
    whole = NegativeSampler(table, frozenset(CATALOGUE), (), "uniform")
    partial = NegativeSampler(table, frozenset(CATALOGUE) - {PRODUCTS[4]}, (), "uniform")
    for n in range(200):
        before, after = whole.draw(pair, n), partial.draw(pair, n)
        assert after != PRODUCTS[4]
        assert after == before or before == PRODUCTS[4]


def test_a_single_negative_among_very_many_is_found() -> None:
    products = [image_id(f"x{n}") for n in range(3000)]
    pairs = [Pair("s", BOX, product, "c") for product in products[:-1]]
    table = PairTable(tuple(pairs), dict.fromkeys(products, "c"))
    sampler = NegativeSampler(table, frozenset(products), (), "uniform")
    assert {sampler.draw(pairs[0], n) for n in range(3)} == {products[-1]}


def test_without_any_negative_there_is_none() -> None:
    pairs = (Pair("s", BOX, PRODUCTS[0], "c"), Pair("s", BOX, PRODUCTS[1], "c"))
    table = PairTable(pairs, dict.fromkeys(PRODUCTS[:2], "c"))
    assert not NegativeSampler(table, frozenset(PRODUCTS), (), "uniform").exists(pairs[0])


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    epoch = 0
    sampler = EpochSampler(ITEMS, 3, lambda: (epoch, 0), 1)
    first = list(sampler)
    assert first == list(EpochSampler(ITEMS, 3, lambda: (0, 0), 1))
    assert sorted(index for _, index in first) == list(range(50))
    epoch = 1
    assert [index for _, index in sampler] != [index for _, index in first]
    assert list(EpochSampler(ITEMS, 4, lambda: (0, 0), 1)) != first


@pytest.mark.parametrize("size", [2, 5, 16])
def test_items_of_a_category_stand_together_in_groups(size: int) -> None:
    categories = ["a"] * 33 + ["b"] * 7 + ["c"] * 60
    sampler = EpochSampler(categories, 3, lambda: (0, 0), 1, size)
    order = [index for _, index in sampler]
    assert order == [index for _, index in sampler]
    assert sorted(order) == list(range(100))
    runs = [(name, len(list(run))) for name, run in itertools.groupby(categories[index] for index in order)]
    # Groups of one category can meet; so what is counted is how many there are at least.
    for name in "abc":
        groups = math.ceil(categories.count(name) / size)
        lengths = [length for other, length in runs if other == name]
        assert len(lengths) <= groups
        assert sum(lengths) == categories.count(name)
        assert min(lengths) >= categories.count(name) // groups
    assert len({name for name, _ in runs[:3]}) > 1 or size == 16
    assert order != [index for _, index in EpochSampler(categories, 3, lambda: (1, 0), 1, size)]


def test_a_batch_of_pairs_says_what_each_scene_names(make_data: MakeData) -> None:
    data = make_data(negatives="in_batch", batch_size=8, augment="none")
    numbers = {product: number for number, product in enumerate(sorted(data.table.catalogue))}
    loader = data.train_dataloader()
    seen = []
    for batch in loader:
        assert isinstance(batch, PairBatch)
        for row in range(8):
            product = sorted(data.table.catalogue)[int(batch.identity[row])]
            assert torch.equal(batch.product[row], data.pictures.evaluation([product])[0])
            (pair,) = [
                pair
                for pair in data.pairs["train"]
                if pair.product == product
                and torch.equal(batch.scene[row], data.pictures.evaluation([crop_key(pair.scene, pair.box)])[0])
            ]
            assert data.categories[int(batch.category[row])] == pair.category
            named = {numbers[other.product] for other in data.table.pairs if other.scene == pair.scene}
            assert {int(number) for number in batch.named[row] if number >= 0} == named
            seen.append(pair)
    assert len(set(seen)) == len(seen) == len(data.pairs["train"]) // 8 * 8


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(make_data: MakeData, workers: int) -> None:
    alone, many = (iter(make_data(num_workers=number).train_dataloader()) for number in (0, workers))
    for ours, theirs in zip(alone, many, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("kind", ["none", pytest.param("litdata", marks=pytest.mark.long)])
@pytest.mark.parametrize("workers", [0, 1])
def test_every_store_gives_the_same_batches(make_data: MakeData, kind: str, workers: int) -> None:
    packed, other = (iter(make_data(store=store, num_workers=workers).train_dataloader()) for store in ("packed", kind))
    for ours, theirs in zip(packed, other, strict=True):
        for one, another in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.numpy(), another.numpy())


def test_an_epoch_draws_other_negatives_and_views_than_the_last(make_data: MakeData) -> None:
    dataset = make_data().train_dataloader().dataset
    first, again, second = dataset[0, 3], dataset[0, 3], dataset[1, 3]
    for one, other in zip(first[:3], again[:3], strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert any(not np.array_equal(dataset[0, n].scene.numpy(), dataset[1, n].scene.numpy()) for n in range(4))
    assert first.category.tolist() == second.category.tolist()


def test_negatives_depend_on_seed_and_epoch(make_data: MakeData) -> None:
    dataset, other = (cast(TripletDataset, make_data(seed=seed).train_dataloader().dataset) for seed in (0, 1))
    drawn = [dataset.negative(0, n) for n in range(40)]
    assert drawn == [dataset.negative(0, n) for n in range(40)]
    assert drawn != [dataset.negative(1, n) for n in range(40)]
    assert drawn != [other.negative(0, n) for n in range(40)]


def test_a_training_view_is_a_part_of_the_stored_picture_sometimes_mirrored(make_data: MakeData) -> None:
    data = make_data()
    dataset = data.train_dataloader().dataset
    pair = dataset.pairs[0]  # type: ignore[attr-defined]
    stored = data.store[pair.product].transpose(2, 0, 1)
    mirrored = 0
    for epoch in range(12):
        view = dataset[epoch, 0].positive[0].numpy()
        places = [
            (flip, top, left)
            for flip, picture in enumerate((stored, stored[:, :, ::-1]))
            for top in range(5)
            for left in range(5)
            if np.array_equal(view, picture[:, top : top + 32, left : left + 32])
        ]
        assert len(places) == 1
        mirrored += places[0][0]
    assert 0 < mirrored < 12


def test_written_triplets_are_read_back(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data()
    write_triplets(tmp_path / "t.jsonl", data.triplets)
    expected = {(t.scene, t.box, t.positive): t.negative for split in data.triplets.values() for t in split}
    assert read_triplets(tmp_path / "t.jsonl") == expected


def test_a_malformed_triplet_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"scene": 1}\n')
    with pytest.raises(InputError, match=r"t\.jsonl:1"):
        read_triplets(tmp_path / "t.jsonl")
    with pytest.raises(InputError, match="cannot read"):
        read_triplets(tmp_path / "absent.jsonl")


def test_the_centre_of_a_region_by_hand() -> None:
    # Shoes are cut away, the crop is the upper 0.55; 8 of 10 stored pixels are seen, in a grid of 2 x 2.
    x, y = region_centre(2, 2, 10, 8, (0.3, 0.6, 0.7, 0.9), 0.05, (0, 0, 1, 1))
    assert (x, y) == pytest.approx((0.1 + 0.25 * 0.8, 0.55 * (0.1 + 0.75 * 0.8)))
    # Padded to half the width: what is at 0.3 of the square is at 0.1 of the crop.
    x, _ = region_centre(2, 2, 10, 8, (0.3, 0.6, 0.7, 0.9), 0.05, (0.25, 0, 0.75, 1))
    assert x == pytest.approx(0.1)
