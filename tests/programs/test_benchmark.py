import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from factories import BACKBONE, MakeData, module, trainer

from ctl_lightning.benchmark import benchmark
from ctl_lightning.benchmarks import exact_search, look, measure, pace, search, service, startup
from ctl_lightning.benchmarks import index as indexing
from ctl_lightning.benchmarks.cached import CACHED, CACHED_STEP, COMPUTED, PRODUCTS, UNCACHED, Products
from ctl_lightning.benchmarks.load import Load
from ctl_lightning.benchmarks.loader import FILES, STORE, USUAL, UsualTriplets
from ctl_lightning.benchmarks.naive import NaiveScore
from ctl_lightning.benchmarks.packing import BEFORE, NOW, pack_before, packing_plan
from ctl_lightning.benchmarks.scoring import (
    ONE_QUERY,
    REGION_LOOP,
    largest_difference,
    random_embeddings,
    scoring_ratios,
    scoring_rows,
)
from ctl_lightning.benchmarks.step import BACKBONE as ALONE
from ctl_lightning.benchmarks.step import END_TO_END, FORWARD, LOGGING, NAIVE, STEP, Step, _operations, fit_rate
from ctl_lightning.benchmarks.timing import Row, rates, ratio
from ctl_lightning.data.images import decode
from ctl_lightning.data.store.packing import pack
from ctl_lightning.data.triplets import TripletDataset
from ctl_lightning.models.components.distance import query, query_distance
from ctl_lightning.models.components.preprocessing import IMAGENET
from ctl_lightning.models.components.style_network import StyleNetwork
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.recommender import Recommender
from ctl_lightning.training.feature_cache import cache_features


def run(tmp_path: Path, looks: Path, cache: Path, *overrides: str) -> Any:
    small = [
        "data.stored_size=36",
        "data.image_size=32",
        "data.batch_size=4",
        "trainer=cpu",
        "seconds=0.05",
        "rounds=1",
        "workers=1",
        "cache_batch_size=8",
    ]
    paths = [f"data.root={looks}", f"paths.run_dir={tmp_path / 'run'}", f"paths.cache_dir={cache}"]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        benchmark(hydra.compose("benchmark", ["data=stl_fashion", *small, *paths, *overrides]))
    return json.loads((tmp_path / "run" / "benchmark.json").read_text())


def test_the_loader_is_measured_in_three_ways(tmp_path: Path, looks: Path, cache: Path) -> None:
    found = run(tmp_path, looks, cache, "what=loader")
    value = {row["name"]: row["value"] for row in found["rows"]}
    for name in (STORE, FILES, USUAL):
        for where in ("in the main process", "1 worker"):
            assert value[f"{name}, {where}"] > 0
    expected = value[f"{STORE}, in the main process"] / value[f"{USUAL}, in the main process"]
    assert found["ratios"]["store_over_pil"] == pytest.approx(expected)
    assert found["machine"]["cores"] >= 1
    assert value["a worker's own, 1 worker"] > 1


@pytest.mark.long
def test_a_service_is_visited_in_batches_and_one_by_one(
    tmp_path: Path, looks: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "engines", lambda: ["torch"])
    found = run(tmp_path, looks, cache, "what=service", "clients=3", "seconds=0.5", "backbone.grid=4")
    value = {row["name"]: row["value"] for row in found["rows"]}
    ways = ("torch, in batches", "torch, one by one")
    assert value.keys() == {f"{way}{end}" for way in ways for end in ("", ", p50", ", p95", ", p99")}
    for way in ways:
        assert value[way] > 0
        assert 0 < value[f"{way}, p50"] <= value[f"{way}, p95"] <= value[f"{way}, p99"]
    assert found["ratios"] == {"batches_over_single_torch": pytest.approx(value[ways[0]] / value[ways[1]])}


@pytest.mark.long
def test_a_service_that_does_not_open_says_why(tmp_path: Path) -> None:
    opening = service.serving(tmp_path / "none.ckpt", tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"the service did not open: serve: .*none\.ckpt"), opening:
        pass


def test_percentiles_and_rates_of_a_load() -> None:
    load = Load(seconds=2.0, waited=[0.004, 0.001, 0.003, 0.002])
    assert (load.rate, load.percentile(0.5), load.percentile(0.99)) == (2.0, 2.0, 4.0)
    assert Load(seconds=1.0).percentile(0.5) == float("inf")


def test_packing_is_measured_beside_the_way_of_version_0_1(tmp_path: Path, looks: Path, cache: Path) -> None:
    found = run(tmp_path, looks, cache, "what=packing")
    value = {row["name"]: row["value"] for row in found["rows"]}
    assert value.keys() == {BEFORE, NOW}
    assert found["ratios"] == {"before_over_packing": pytest.approx(value[NOW] / value[BEFORE])}


def test_both_ways_of_packing_give_the_same_pictures(make_data: MakeData, tmp_path: Path) -> None:
    plan = packing_plan(make_data())
    assert {item.crop is None for item in plan.items} == {True, False}
    for name, way in (("before", pack_before), ("now", pack)):
        (tmp_path / name).mkdir()
        way(plan, tmp_path / name / "store.npy")
    old, new = (np.load(tmp_path / name / "store.npy").astype(int) for name in ("before", "now"))
    assert old.std() > 20
    apart = np.abs(old - new)  # of noise, the worst case: of photos it is one level, in a thousandth of the values
    assert apart.max() <= 2
    assert (apart > 1).mean() < 1e-3
    assert (apart > 0).mean() < 0.1


def test_a_step_is_measured_beside_its_backbone_and_the_naive_way(tmp_path: Path, looks: Path, cache: Path) -> None:
    found = run(tmp_path, looks, cache, "what=step", "backbone.grid=4")
    value = {(row["group"], row["name"]): row["value"] for row in found["rows"]}
    rates = {name: rate for (group, name), rate in value.items() if group == "step"}
    assert rates.keys() == {FORWARD, ALONE, STEP, END_TO_END, NAIVE}
    assert min(rates.values()) > 0
    assert rates[FORWARD] > rates[ALONE]
    ratios = found["ratios"]
    assert ratios["step_over_backbone"] == pytest.approx(rates[ALONE] / rates[STEP])
    assert ratios["end_to_end_over_step"] == pytest.approx(rates[STEP] / rates[END_TO_END])
    assert ratios["naive_over_end_to_end"] == pytest.approx(rates[END_TO_END] / rates[NAIVE])
    assert 0 < ratios["step_over_matrix_rate"] < 1
    assert 0 < value["logging", LOGGING] < 100


def test_an_epoch_on_features_is_measured_beside_one_on_pictures(tmp_path: Path, looks: Path, cache: Path) -> None:
    found = run(tmp_path, looks, cache, "what=cache", "backbone.grid=4")
    value = {row["name"]: row["value"] for row in found["rows"]}
    assert value.keys() == {CACHED, UNCACHED, CACHED_STEP, PRODUCTS, COMPUTED}
    assert min(value.values()) > 0
    assert found["ratios"] == {
        "uncached_over_cached_epoch": pytest.approx(value[UNCACHED] / value[CACHED]),
        "cached_step_over_products": pytest.approx(value[CACHED_STEP] / value[PRODUCTS]),
    }


def test_the_products_of_a_step_on_features_are_those_of_its_layers(make_data: MakeData) -> None:
    data = make_data(augment="none")
    model = module(backbone=BACKBONE | {"frozen": True}, categories=data.categories).train()
    cache_features(model, data, torch.device("cpu"))
    products = Products(Step(model, nullcontext), next(iter(data.train_dataloader())))
    found = Counter((*left.shape, right.shape[1]) for left, right in (operands[-2:] for _, operands in products.calls))
    # By hand: 4 scenes, 8 products, 4 x 16 regions, in two heads; features, hidden width and dimensions.
    expected: Counter[tuple[int, ...]] = Counter()
    for rows, features, hidden, dim in (4, 128, 8, 8), (8, 128, 8, 8), (64, 96, 8, 8), (64, 96, 8, 8):
        forward = (rows, features, hidden), (rows, hidden, dim)
        # No gradient of the features: nothing learns from it.
        backward = (hidden, rows, features), (rows, dim, hidden), (dim, rows, hidden)
        expected.update([*forward, *backward])
    assert found == expected


@pytest.mark.parametrize("frozen", [True, False])
def test_the_naive_way_computes_the_same_distances(make_data: MakeData, frozen: bool) -> None:
    data = make_data(augment="none")
    model = module(backbone=BACKBONE | {"frozen": frozen}, categories=data.categories).eval()
    assert isinstance(model.network, StyleNetwork)
    naive = NaiveScore(model.network).eval()
    batch = next(iter(data.train_dataloader()))
    backbone = model.network.backbone
    scene, product = ((part / 255 - backbone.mean) / backbone.std for part in (batch.scene, batch.positive))
    passes = []
    naive.backbone.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    with torch.no_grad():
        style, (f_p,), _ = model.network(batch.scene, (batch.positive,), batch.category)
        expected = model.network.distance(style, f_p)
        torch.testing.assert_close(naive(scene, product, batch.category), expected, rtol=1e-4, atol=1e-5)
    assert passes == [4, 4, 4, 4]  # four passes a score


def test_the_operations_of_a_step_are_counted(make_data: MakeData) -> None:
    data = make_data()
    batch = next(iter(data.train_dataloader()))
    count = {}
    for frozen in (True, False):
        model = module(backbone=BACKBONE | {"frozen": frozen}, categories=data.categories)
        count[frozen] = _operations(model.network, batch)  # type: ignore[arg-type]
    # By hand: output places x kernel x channels in x channels out, of a 32 x 32 picture.
    maps = 64 * 16 * 3 * 48 + 16 * 9 * 48 * 96 + 16 * 9 * 96 * 96 + 4 * 9 * 96 * 128 + 4 * 9 * 128 * 128
    pooled, regions = 12 * (128 * 8 + 8 * 8), 2 * 4 * 16 * (96 * 8 + 8 * 8)
    attention = 4 * 16 * 8
    assert count[True] == 2 * 12 * maps + 3 * 2 * (pooled + regions + attention)
    assert count[False] - count[True] == 2 * 2 * 12 * maps


def test_a_measurement_of_cached_features_leaves_one_file(tmp_path: Path, looks: Path) -> None:
    for _ in range(2):
        found = run(tmp_path, looks, tmp_path / "cache", "what=cache", "backbone.grid=4")
    assert len(list((tmp_path / "cache" / "features").glob("*.npy"))) == 1
    assert found["config"]["backbone"]["name"] == "small"


def test_a_fit_is_measured_from_its_second_step_on(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data()
    found = fit_rate(data, module(), lambda **options: trainer(tmp_path, **options), 0.2, log_every_n_steps=1)
    assert found.images > 0
    assert 0 < found.logging < 0.1


def test_both_ways_of_scoring_give_the_same_distances_and_are_measured() -> None:
    style, catalogue = random_embeddings(5, 300)
    fast = query_distance(query("hybrid", *style), catalogue)
    for row in range(5):
        for product in (0, 7, 299):
            regions = sum(
                float(weight) * float((region - catalogue[product]).square().sum())
                for weight, region in zip(style.attention[row], style.regions[row], strict=True)
            )
            expected = (float((style.scene[row] - catalogue[product]).square().sum()) + regions) / 2
            assert float(fast[row, product]) == pytest.approx(expected, abs=1e-5)
    assert largest_difference(style, catalogue) < 1e-5
    rows = scoring_rows(0.05, 1, products=2000, queries=3)
    value = {row.name: row.value for row in rows}
    assert scoring_ratios(rows)["region_loop_over_query"] == value[ONE_QUERY] / value[REGION_LOOP]  # of the one round
    assert 0 < value["largest difference"] < 1e-5


def test_only_what_is_asked_for_is_measured(
    tmp_path: Path, looks: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "scoring_rows", lambda seconds, rounds: scoring_rows(seconds, rounds, 500, 2))
    for rows in ("search_rows", "exact_rows", "look_rows", "index_rows"):
        monkeypatch.setattr(measure, rows, lambda *_: [])
    quick = {startup.HYDRA, "an unknown experiment"}
    monkeypatch.setattr(startup, "COMMANDS", {name: words for name, words in startup.COMMANDS.items() if name in quick})
    monkeypatch.setattr(pace, "_step", lambda seconds, load, threads, wait: {"ACTIVE": 4.0, "PASSIVE": 1.0}[wait])
    found = run(tmp_path, looks, cache, "what=scoring")
    assert found["ratios"].keys() == {"region_loop_over_query"}
    assert {row["group"] for row in found["rows"]} == {"scoring"}
    everything = run(tmp_path, looks, cache, "what=all", "backbone.grid=4")
    assert everything["ratios"].keys() == {
        "store_over_pil",
        "files_over_pil",
        "before_over_packing",
        "step_over_backbone",
        "end_to_end_over_step",
        "naive_over_end_to_end",
        "step_over_matrix_rate",
        "uncached_over_cached_epoch",
        "cached_step_over_products",
        "region_loop_over_query",
        "an_unknown_experiment_over_import_hydra",
        "passive_over_active_idle",
        "passive_over_active_busy",
    }
    assert everything["ratios"]["passive_over_active_busy"] == 0.25


@pytest.mark.long
def test_a_step_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "allowed_cores", lambda: 1)
    assert pace._step(0, "busy", 1, "PASSIVE") > 0


def test_searching_is_measured_and_graphs_find_99_of_100(
    tmp_path: Path, looks: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        search, "_searched", search._search
    )  # not in processes of their own, which take seconds to start
    monkeypatch.setattr(search, "QUERIES", 44)
    # Not on one core alone: the other tests of this process would be.
    monkeypatch.setattr(exact_search, "_measured", exact_search.measure_here)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    found = run(tmp_path, looks, cache, "what=search", "search_products=3300", "seconds=0.01", "rounds=1")
    assert found["ratios"].keys() == {
        "graphs_over_exact",
        "int8_query_over_reading",
        *(f"float_over_int8_{one}" for one in ("query", "batch")),
        *(f"faiss_{one}_over_{other}" for one in ("flat", "sq8") for other in ("query", "batch")),
    }
    value = {(row["group"], row["name"]): row["value"] for row in found["rows"]}
    for kind in ("search learned", "search random"):
        assert value[kind, f"{search.EXACT}: recall@10"] == 1
        assert value[kind, f"{search.GRAPHS}: recall@10"] >= 0.99
        assert value[kind, f"{search.EXACT}: files"] == pytest.approx(3300 * 128 * 5 / 1e6)
        assert value[kind, f"{search.GRAPHS}: efSearch"] in search.EFFORTS
        for name in (search.EXACT, search.GRAPHS):
            assert value[kind, f"{name}: queries"] > 1


def test_a_look_and_indexing_are_measured_beside_version_0_1_and_say_what_it_said(
    tmp_path: Path, looks: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_measured", lambda given, way: indexing.rate(given, way._replace(keep=False)))
    monkeypatch.setattr(look, "_measured", look.milliseconds)
    monkeypatch.setattr(look, "can_keep", lambda: False)  # the other tests of this process would keep memory, too
    # The same pixels, so that all distances can be the same.
    monkeypatch.setattr(look, "before", lambda item, size, how: decode(item, size, "stretch", how))
    monkeypatch.setattr(measure, "SERVED_PRODUCTS", 24)
    monkeypatch.setattr(measure, "SERVED_SCENES", 2)
    compared, before = [], look.look_before

    def both(recommender: Recommender, photo: Path) -> None:
        for old, now in zip(before(recommender, photo), recommender.look(photo, k=look.NEAREST).answers, strict=True):
            assert [one.product for one in old.products] == [one.product for one in now.products]
            for one, other in zip(old.products, now.products, strict=True):
                assert one.distance == pytest.approx(other.distance, abs=1e-6)
                assert one.parts == pytest.approx(other.parts, abs=1e-6)
            assert old.attention == pytest.approx(now.attention, abs=1e-6)
            compared.append(photo)

    monkeypatch.setattr(look, "look_before", both)
    found = run(tmp_path, looks, cache, "what=look", "backbone.grid=4")
    assert compared
    assert found["ratios"].keys() == {"torch_over_engine_look", "before_over_look"}
    assert {row["name"] for row in found["rows"]} == {look.BEFORE, "torch", "onnx"}
    found = run(tmp_path, looks, cache, "what=index", "backbone.grid=4")
    assert found["ratios"].keys() == {"before_over_index", "before_over_index_torch", "before_over_index_onnx"}
    assert all(row["value"] > 0 for row in found["rows"])


def test_without_faiss_exact_slices_are_measured_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_searched", search._search)
    monkeypatch.setattr(search, "QUERIES", 11)
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows = search.search_rows(220, 1)
    assert {row.name.partition(":")[0] for row in rows} == {search.EXACT}
    assert search.search_ratios(rows) == {}


def test_vectors_have_unit_length_and_fill_few_dimensions_or_all() -> None:
    dimensions = {}
    for kind in ("learned", "random"):
        vectors = search.vectors_of(kind, 5000, 1)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        variance = np.linalg.eigvalsh(np.cov(vectors.T))
        dimensions[kind] = variance.sum() ** 2 / (variance**2).sum()  # participation ratio
    assert dimensions["learned"] < 40 < 110 < dimensions["random"]


@pytest.mark.parametrize(
    "override", ["model=global", "model.attention=uniform", "model.attention_temperature=0.5", "model.squared=false"]
)
def test_steps_of_other_methods_are_not_measured(tmp_path: Path, looks: Path, cache: Path, override: str) -> None:
    with pytest.raises(InputError, match=r"what=step: steps are measured beside a naive way.*another what"):
        run(tmp_path, looks, cache, "what=step", override)


@pytest.mark.parametrize(
    "override",
    [
        "what=laoder",
        "data.negatives=in_batch",
        "loss=info_nce",
        "compile=no",
        "keep_memory=x",
        "seconds=0",
        "workers=-1",
        "workers=1.5",
        "rounds=x",
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, looks: Path, cache: Path, override: str) -> None:
    with pytest.raises(InputError, match=override.split("=")[0]):
        run(tmp_path, looks, cache, override)


def test_the_usual_way_loads_the_same_pictures(make_data: MakeData) -> None:
    data = make_data(stored_size=32, image_size=32)
    triplets = data.train_dataloader().dataset
    assert isinstance(triplets, TripletDataset)
    usual = UsualTriplets(data, triplets)
    mean, std = torch.tensor(IMAGENET.mean).view(3, 1, 1), torch.tensor(IMAGENET.std).view(3, 1, 1)
    for index in (0, 7):
        *theirs, category = usual[index]
        ours = triplets[0, index]
        assert category == int(ours.category)
        for their, our in zip(theirs, ours[:3], strict=True):
            expected = (our[0] / 255 - mean) / std
            nearest = min(float((their - one).abs().mean()) for one in (expected, expected.flip(-1)))
            assert nearest < 0.05


def test_a_ratio_is_taken_round_by_round() -> None:
    rows = [Row("g", "one", [10, 40, 30], ""), Row("g", "two", [5, 10, 10], ""), Row("other", "two", [1, 1, 1], "")]
    assert ratio(rows, "one", "two", "g") == 3  # of 2, 4, 3
    assert rows[0].as_dict() == {
        "group": "g",
        "name": "one",
        "value": 30,
        "unit": "",
        "low": 10,
        "high": 40,
        "rounds": [10, 40, 30],
    }


def test_a_rate_is_the_work_over_the_time_without_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def steps(amount: int, seconds: float) -> Iterator[int]:
        clock[0] += 100
        yield 10**6
        for _ in range(1000):
            clock[0] += seconds
            yield amount

    found = rates({"one": lambda: steps(1, 0.25), "two": lambda: steps(6, 0.5)}, 10, 3)
    assert found == {"one": [4, 4, 4], "two": [12, 12, 12]}
