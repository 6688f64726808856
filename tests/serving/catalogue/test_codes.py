"""Search by codes: every answer is that of the vectors themselves, whatever the vectors are."""

import json
import logging
import math
import mmap
import shutil
from pathlib import Path

import numpy as np
import pytest
from factories import make_catalogue
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctl_lightning.benchmarks.search import vectors_of
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue import codes as module
from ctl_lightning.serving.catalogue.codes import Codes, encode, scale_of, write_codes
from ctl_lightning.serving.catalogue.exact import ExactCatalogue, nearest
from ctl_lightning.serving.catalogue.files import Hit, Listed, Manifest, write_products
from ctl_lightning.serving.recommender import Recommender

pytest.importorskip("numkong", reason="pip install 'ctl_lightning[int8]'")

Floats = NDArray[np.float32]


def codes_of(vectors: Floats) -> Codes:
    scale = scale_of(vectors)
    return Codes(encode(vectors, scale.step), scale)


def slow_best(vectors: Floats, query: Floats, k: int, bonus: NDArray[np.float64] | None = None) -> list[int]:
    """Rows of the k largest inner products, each one the correctly rounded sum; equal ones by row."""
    exact = [
        math.fsum(float(x) * float(y) for x, y in zip(row, query, strict=True))
        + (0 if bonus is None else bonus[number])
        for number, row in enumerate(vectors)
    ]
    return sorted(range(len(exact)), key=lambda row: (-exact[row], row))[:k]


def adversarial(kind: str, count: int, random: np.random.Generator) -> Floats:
    vectors = random.standard_normal((count, 16), np.float32)
    if kind == "equal rows":
        return np.repeat(vectors[:3], count // 3 + 1, 0)[:count]
    if kind == "ties":
        vectors = random.integers(-1, 2, (count, 16)).astype(np.float32) / np.float32(2)
    if kind == "outlier":
        vectors[count // 2] *= 1e6
    if kind == "zeros":
        vectors[:: 2 if count > 1 else 1] = 0
    if kind == "all zero":
        vectors[:] = 0
    if kind == "tiny":
        vectors *= 1e-30
    if kind == "nearly equal":
        vectors = vectors[:1] + 1e-7 * vectors
    found: Floats = vectors.astype(np.float32)
    return found


KINDS = ["plain", "equal rows", "ties", "outlier", "zeros", "all zero", "tiny", "nearly equal"]


@settings(max_examples=80)
@given(st.sampled_from(KINDS), st.integers(1, 150), st.integers(1, 40), st.integers(0, 3), st.integers(0, 2**32))
def test_candidates_include_the_k_nearest_of_a_slow_loop(kind: str, count: int, k: int, many: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = adversarial(kind, count, random)
    queries = random.standard_normal((1 + many, 16), np.float32)
    if many:
        queries[0] = 0
    k = min(k, count)
    bonus = random.integers(0, 3, count).astype(np.float64) * float(random.choice([0.01, 1.0, 1000.0]))
    for given_bonus in (None, bonus):
        for query, rows in zip(queries, codes_of(vectors).candidates(queries, k, given_bonus), strict=True):
            assert (np.diff(rows) > 0).all()
            assert set(slow_best(vectors, query, k, given_bonus)) <= set(rows.tolist())


def test_the_bound_holds_for_every_vector_and_is_reached_by_one_that_is_built_for_it() -> None:
    # v = (1, 0.5 / 127) has a step of 1 / 127, so the second number lies half a step from any code.
    vectors = np.array([[1, 0.5 / 127], [0, 0]], np.float32)
    scale = scale_of(vectors)
    assert scale.step == pytest.approx(1 / 127)
    assert scale.rest == pytest.approx(0.5 / 127, rel=1e-6)
    random = np.random.default_rng(0)
    some = random.standard_normal((500, 8), np.float32)
    codes = codes_of(some)
    rounded = codes.scale.step * codes.rows.astype(float)
    assert codes.scale.rest == pytest.approx(max(math.dist(a, b) for a, b in zip(some, rounded, strict=True)))
    assert codes.scale.norm == pytest.approx(max(math.hypot(*row) for row in rounded))


@pytest.mark.parametrize("kind", ["learned", "random"])
def test_few_of_many_vectors_are_candidates(kind: str) -> None:
    vectors, queries = vectors_of(kind, 20_000, 1), vectors_of(kind, 64, 2)
    found = codes_of(vectors).candidates(queries, 10)
    assert max(map(len, found)) < 500
    for query, rows in zip(queries, found, strict=True):
        best = np.argsort(-(vectors.astype(float) @ query.astype(float)), kind="stable")[:10]
        assert {*best.tolist()} <= {*rows.tolist()}


def test_a_query_alone_has_the_candidates_that_it_has_among_others() -> None:
    vectors, queries = vectors_of("learned", 5000, 1), vectors_of("learned", 70, 2)  # more than go together
    codes = codes_of(vectors)
    together = codes.candidates(queries, 7)
    for query, rows in zip(queries, together, strict=True):
        assert codes.candidates(query[None], 7)[0].tolist() == rows.tolist()


def catalogue_of(folder: Path, vectors: Floats, slices: dict[str, tuple[int, int]], coded: bool) -> ExactCatalogue:
    np.save(folder / "vectors-1.npy", vectors)
    listed = [
        Listed(f"p{row}", name, f"{row}.jpg", "") for name, (start, end) in slices.items() for row in range(start, end)
    ]
    write_products(folder / "products.sqlite", listed)
    manifest = Manifest({}, vectors.shape[1], slices, "vectors-1.npy", "products.sqlite")
    return ExactCatalogue(folder, write_codes(folder, manifest) if coded else manifest)


def plain(hits: list[Hit]) -> list[tuple[str, float, float]]:
    return [(hit.product, hit.distance, hit.bonus) for hit in hits]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_bit_equal_to_those_of_the_vectors(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)  # several chunks
    random = np.random.default_rng(3)
    vectors = np.concatenate([adversarial(kind, 400, random), adversarial("plain", 40, random)])
    slices = {"Hats": (0, 400), "Shoes": (400, 440)}
    (tmp_path / "coded").mkdir()
    (tmp_path / "floats").mkdir()
    coded = catalogue_of(tmp_path / "coded", vectors, slices, coded=True)
    floats = catalogue_of(tmp_path / "floats", vectors, slices, coded=False)
    queries = random.standard_normal((4, 16), np.float32)
    for category, (start, end) in slices.items():
        bonus = random.integers(0, 4, end - start).astype(np.float64) * 0.3
        for k in (1, 2, 10, 25, 26, 399, 400, 900):
            for less in (None, bonus):
                found = coded.search(queries, category, k, less)
                assert [plain(hits) for hits in found] == [
                    plain(hits) for hits in floats.search(queries, category, k, less)
                ]
                if k <= 26:
                    rows = slow_best(vectors[start:end], queries[0], k, less)
                    if kind not in ("outlier", "nearly equal", "tiny"):  # their sums are equal or not by rounding
                        assert [hit.product for hit in found[0]] == [f"p{start + row}" for row in rows]


def test_codes_are_used_where_there_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = vectors_of("learned", 3000, 1)
    catalogue = catalogue_of(tmp_path, vectors, {"Hats": (0, 3000)}, coded=True)

    def refused(*_: object) -> None:
        raise AssertionError("the floats were searched")

    monkeypatch.setattr("ctl_lightning.serving.catalogue.exact.nearest", refused)
    (hits,) = catalogue.search(vectors[7:8], "Hats", 3)
    assert hits[0].product == "p7"
    base: object = catalogue._codes["Hats"].rows
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


def test_without_numkong_the_vectors_are_searched_and_large_catalogues_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = vectors_of("learned", 300, 1)
    monkeypatch.setattr(module, "kernel", lambda: None)
    monkeypatch.setattr(module, "MANY", 300)
    with caplog.at_level(logging.INFO, module.__name__):
        catalogue = catalogue_of(tmp_path, vectors, {"Hats": (0, 300)}, coded=True)
    assert "pip install 'ctl_lightning[int8]'" in caplog.text
    (hits,) = catalogue.search(vectors[7:8], "Hats", 3)
    assert [hit.product for hit in hits] == [f"p{row}" for row in slow_best(vectors, vectors[7], 3)]


def test_a_catalogue_of_an_earlier_version_is_searched_and_gets_codes_when_it_is_changed(
    served: tuple[Path, Path], tmp_path: Path
) -> None:
    run, folder = served[0], shutil.copytree(served[1], tmp_path / "catalogue")
    new = json.loads((folder / "catalogue.json").read_text())
    codes = (folder / new["codes"]).read_bytes()
    old = {key: value for key, value in new.items() if key not in ("codes", "scales")} | {"format": 1}
    (folder / "catalogue.json").write_text(json.dumps(old))
    (folder / new["codes"]).unlink()
    assert Recommender.from_checkpoint(run, folder).catalogue.counts == new["counts"]
    make_catalogue(run, folder)
    assert json.loads((folder / "catalogue.json").read_text()) == new
    assert (folder / new["codes"]).read_bytes() == codes


@pytest.mark.parametrize("broken", ["missing", "other shape", "no array"])
def test_broken_codes_are_told_in_a_line(served: tuple[Path, Path], tmp_path: Path, broken: str) -> None:
    folder = shutil.copytree(served[1], tmp_path / "catalogue")
    path = folder / json.loads((folder / "catalogue.json").read_text())["codes"]
    if broken == "missing":
        path.unlink()
    elif broken == "other shape":
        np.save(path, np.zeros((2, 3), np.int8))
    else:
        path.write_text("nothing")
    with pytest.raises(InputError, match=r"catalogue=.*missing or broken .*; make the catalogue anew"):
        Recommender.from_checkpoint(served[0], folder)


def test_nearest_of_the_vectors_is_what_it_was() -> None:
    """The reference of version 0.1, which searches where there are no codes."""
    vectors = vectors_of("random", 1000, 1)
    for query in vectors_of("random", 5, 2):
        assert {*slow_best(vectors, query, 10)} <= {*nearest(vectors, query, 10).tolist()}
