import subprocess
from pathlib import Path

import numpy as np
import pytest
from factories import REPOSITORY
from sklearn.metrics import roc_auc_score

from ctl_lightning.data.evaluation_set import EvaluationSet, evaluation_set
from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.sources.drawing import DECIDERS, kind_and_decider
from ctl_lightning.data.sources.synthetic import SyntheticLooks
from ctl_lightning.data.splits import EvaluationTriplet
from ctl_lightning.metrics.ground_truth import attention_results, truth_results
from ctl_lightning.runtime.environment import environment

WHOLE = (0.0, 0.0, 1.0, 1.0)


def evaluated(table: PairTable, pairs: tuple[Pair, ...]) -> EvaluationSet:
    triplets = [EvaluationTriplet(pair.scene, pair.box, pair.product, pair.product) for pair in pairs]
    return evaluation_set(table, list(table.products_of_category), sorted(table.catalogue), pairs, triplets, {})


def test_the_commit_of_the_code_is_told_where_it_is_known() -> None:
    repository = REPOSITORY
    asked = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if asked.returncode:  # an unpacked archive, or another owner's repository
        pytest.skip(f"git does not tell: {asked.stderr.strip()}")
    found = environment()
    assert found["git_commit"] == asked.stdout.strip()
    assert isinstance(found["git_changes"], bool)


def test_oracle_and_ceilings_are_scikit_learns_of_scores_by_hand(tmp_path: Path) -> None:
    source = SyntheticLooks(scenes=60, variants=1, loyalty=0.9, seed=0)
    source.prepare(tmp_path)
    table, truth = source.read(tmp_path), source.truth(tmp_path)
    expected: dict[str, list[float]] = {"oracle": [], "global": [], "local": []}
    for pair in table.pairs:
        look, (kind, decider) = truth.looks[pair.scene], kind_and_decider(pair.category)
        products = table.products_of_category[pair.category]

        def pattern(product: str, garment: str, scene: str = pair.scene) -> float:
            return 0.9 if truth.products[product].pattern == truth.looks[scene].colours[garment] else 0.1 / 3

        season = [0.9 if truth.products[product].season == look.season else 0.1 for product in products]
        named = [pattern(product, decider) for product in products]
        any_line = [sum(pattern(product, garment) for garment in DECIDERS[kind]) for product in products]
        labels = [product == pair.product for product in products]
        for knowledge, scores in (
            ("oracle", np.multiply(season, named)),
            ("global", np.multiply(season, any_line)),
            ("local", np.array(named)),
        ):
            expected[knowledge].append(float(roc_auc_score(labels, np.round(scores, 9))))
    found = truth_results(evaluated(table, table.pairs), truth)
    assert found["oracle"]["auc"]["value"] == pytest.approx(np.mean(expected["oracle"]))
    assert found["ceilings"]["global"]["value"] == pytest.approx(np.mean(expected["global"]))
    assert found["ceilings"]["local"]["value"] == pytest.approx(np.mean(expected["local"]))


def test_pointing_and_energy_by_hand() -> None:
    # The product sits at the bottom, so the crop is the upper four fifths; 2 x 2 regions, centres at x 1/4, 3/4, y 0.2, 0.6.
    shoe, hat = "a" * 32, "b" * 32
    pairs = tuple(Pair(scene * 32, (0.0, 0.8, 1.0, 1.0), shoe, "Shoes") for scene in "01")
    task = evaluated(PairTable(pairs, {shoe: "Shoes", hat: "Shoes"}), pairs)
    assert task.query.tolist() == [0, 1]
    task = EvaluationSet(**{**task.__dict__, "query": np.array([1, 0]), "queries": task.queries[::-1]})
    of_second, of_first = [0.1, 0.2, 0.3, 0.4], [0.2, 0.5, 0.2, 0.1]
    boxes = [(0.0, 0.0, 0.5, 0.4), (0.5, 0.4, 1.0, 0.8)]  # region 0 decides for the first pair, region 3 for the second
    found = attention_results(task, np.array([of_second, of_first]), boxes, [WHOLE, WHOLE], 32, 32, 0.0)["attention"]
    assert found["pointing"]["value"] == pytest.approx(0.5)  # region 1 is the first's heaviest, region 3 the second's
    assert found["energy"]["value"] == pytest.approx((0.2 + 0.4) / 2)
    assert found["pointing_uniform"]["value"] == found["energy_uniform"]["value"] == pytest.approx(1 / 4)
