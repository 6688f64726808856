import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from conftest import MakeData

from ctl_lightning.benchmark import benchmark
from ctl_lightning.benchmarks.loader import FILES, STORE, USUAL, UsualTriplets
from ctl_lightning.benchmarks.rows import rates
from ctl_lightning.benchmarks.scoring import (
    ONE_QUERY,
    REGION_LOOP,
    largest_difference,
    random_embeddings,
    scoring_ratios,
    scoring_rows,
)
from ctl_lightning.conf import config_dir
from ctl_lightning.data.triplets import TripletDataset
from ctl_lightning.errors import InputError
from ctl_lightning.style.backbone import IMAGENET_MEAN, IMAGENET_STD
from ctl_lightning.style.distance import query, query_distance


def run(tmp_path: Path, looks: Path, cache: Path, *overrides: str) -> Any:
    small = ["data.stored_size=36", "data.image_size=32", "data.batch_size=4", "seconds=0.05", "rounds=1", "workers=1"]
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
    assert scoring_ratios(rows)["region_loop_over_query"] == value[ONE_QUERY] / value[REGION_LOOP]
    assert 0 < value["largest difference"] < 1e-5


def test_only_what_is_asked_for_is_measured(
    tmp_path: Path, looks: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ctl_lightning.benchmark.scoring_rows", lambda seconds, rounds: scoring_rows(seconds, rounds, 500, 2)
    )
    found = run(tmp_path, looks, cache, "what=scoring")
    assert found["ratios"].keys() == {"region_loop_over_query"}
    assert {row["group"] for row in found["rows"]} == {"scoring"}
    everything = run(tmp_path, looks, cache, "what=all")
    assert everything["ratios"].keys() == {"store_over_pil", "files_over_pil", "region_loop_over_query"}


@pytest.mark.parametrize("override", ["what=laoder", "seconds=0", "workers=-1", "workers=1.5", "rounds=x"])
def test_options_that_make_no_sense_are_refused(tmp_path: Path, looks: Path, cache: Path, override: str) -> None:
    with pytest.raises(InputError, match=override.split("=")[0]):
        run(tmp_path, looks, cache, override)


def test_the_usual_way_loads_the_same_pictures(make_data: MakeData) -> None:
    data = make_data(stored_size=32, image_size=32)
    triplets = data.train_dataloader().dataset
    assert isinstance(triplets, TripletDataset)
    usual = UsualTriplets(data, triplets)
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    for index in (0, 7):
        *theirs, category = usual[index]
        ours = triplets[0, index]
        assert category == int(ours.category)
        for their, our in zip(theirs, ours[:3], strict=True):
            expected = (our[0] / 255 - mean) / std
            nearest = min(float((their - one).abs().mean()) for one in (expected, expected.flip(-1)))
            assert nearest < 0.05


def test_a_rate_is_the_work_over_the_time_without_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("ctl_lightning.benchmarks.rows.time.perf_counter", lambda: clock[0])

    def steps(amount: int, seconds: float) -> Iterator[int]:
        clock[0] += 100
        yield 10**6
        for _ in range(1000):
            clock[0] += seconds
            yield amount

    found = rates({"one": lambda: steps(1, 0.25), "two": lambda: steps(6, 0.5)}, 10, 3)
    assert found == {"one": (4, 4, 4), "two": (12, 12, 12)}
