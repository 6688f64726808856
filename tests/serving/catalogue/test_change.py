"""A catalogue holds the vectors of the products' photos, finds the nearest exactly, and changes without starting again."""

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import make_catalogue, save_image, train_on
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ctl_lightning.catalogue import CATALOGUE, OPTIONS
from ctl_lightning.data.images import ImageItem, decode
from ctl_lightning.models.components.style_network import StyleNetwork, region_distance
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.change import Change
from ctl_lightning.serving.catalogue.exact import ExactCatalogue, nearest
from ctl_lightning.serving.catalogue.files import (
    MANIFEST,
    BackendName,
    Listed,
    Manifest,
    all_products,
    open_files,
    open_products,
    write_products,
)
from ctl_lightning.serving.catalogue.pending import PendingVectors
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.recommender import Recommender

SHOES, HATS = "Apparel & Accessories|Shoes", "Apparel & Accessories|Hats"


def contents(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Product -> category and vector."""
    manifest = Manifest.read(folder)
    assert manifest is not None
    vectors, products = open_files(folder, manifest)
    listed = all_products(products)
    products.close()
    assert len(listed) == len(vectors)
    for category, (start, end) in manifest.slices.items():
        assert {one.category for one in listed[start:end]} == {category}
    return {one.product: (one.category, vector.tobytes()) for one, vector in zip(listed, vectors, strict=True)}


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Writes photos and a list of products; gives the options that name them."""

    def make(names: dict[str, str], bad: str | None = None, missing: str | None = None) -> tuple[str, str]:
        for name in names:
            if name != missing and not (tmp_path / "images" / f"{name}.png").exists():
                save_image(tmp_path / "images" / f"{name}.png", seed=sum(map(ord, name)))
        if bad is not None:
            (tmp_path / "images" / f"{bad}.png").write_text("no picture")
        (tmp_path / "products.json").write_text(json.dumps(names))
        return f"products={tmp_path / 'products.json'}", f"images={tmp_path / 'images'}"

    return make


def test_a_version_without_postgresql_can_read_the_other_backends(served: tuple[Path, Path]) -> None:
    keys = "format metric counts identity dim slices vectors products backend codes scales graphs hnsw qdrant"  # all that it knows
    assert " ".join(json.loads((served[1] / MANIFEST).read_text())) == keys


def test_every_vector_is_the_networks_for_the_photo(served: tuple[Path, Path], looks: Path) -> None:
    run, folder = served
    encoder, found = Encoder(run), contents(folder)
    catalogue = json.loads((looks / "fashion-cat.json").read_text())
    assert {product: category for product, (category, _) in found.items()} == catalogue
    for product in sorted(catalogue)[::3]:
        path = looks / "images" / product[:2] / f"{product}.jpg"
        pixels = decode(ImageItem(product, path, None), 36, "stretch", "bilinear")[2:34, 2:34]
        with torch.no_grad():
            vector = encoder.network.embed_product(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0].numpy()
        np.testing.assert_allclose(np.frombuffer(found[product][1], np.float32), vector, atol=1e-6)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 4), st.integers(0, 2**32))
def test_the_k_nearest_are_those_of_a_slow_loop(count: int, k: int, distinct: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((distinct, 6), np.float32)[random.integers(distinct, size=count)]  # with ties
    query = random.standard_normal(6, np.float32)
    exact = vectors.astype(np.float64) @ query.astype(np.float64)
    expected = sorted(range(count), key=lambda row: (-exact[row], row))[:k]
    candidates = nearest(vectors, query, k)
    assert (np.diff(candidates) > 0).all()
    assert set(expected) <= set(candidates.tolist())
    assert candidates[np.argsort(-exact[candidates], kind="stable")][:k].tolist() == expected


def test_distances_are_those_of_the_paper_region_by_region(served: tuple[Path, Path], looks: Path) -> None:
    run, folder = served
    recommender = Recommender.from_checkpoint(run, folder)
    photo = next((looks / "images").rglob("*.jpg"))
    network = recommender.encoder.network
    assert isinstance(network, StyleNetwork)
    style = recommender.encoder.scene(photo, None, [SHOES])
    for one in recommender.recommend(photo, "Shoes", 4):
        vector = torch.from_numpy(np.frombuffer(contents(folder)[one.product][1], np.float32).copy())[None]
        for name, distance in {"hybrid": one.distance, **one.parts}.items():
            assert float(region_distance(name, style, vector)) == pytest.approx(distance, abs=1e-5)  # type: ignore[arg-type]
        assert one.distance == pytest.approx((one.parts["global"] + one.parts["local"]) / 2, abs=1e-6)


def test_products_come_and_go_without_embedding_the_others(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = served
    embedded: list[int] = []
    real = Encoder.products

    def counted(self: Encoder, squares: Any) -> Any:
        squares = list(squares)
        embedded.append(len(squares))
        return real(self, squares)

    monkeypatch.setattr(Encoder, "products", counted)
    folder = tmp_path / "catalogue"
    words = shop({"a": "Shoes", "b": "Shoes", "c": "Hats", "d": HATS})
    make_catalogue(run, folder, *words)
    first = contents(folder)
    assert {name: category for name, (category, _) in first.items()} == {"a": SHOES, "b": SHOES, "c": HATS, "d": HATS}

    def anew(*words: str) -> int:
        embedded.clear()
        make_catalogue(run, folder, *words)
        return sum(embedded) - 1  # one asks how long a vector is

    assert anew(*shop({"e": "Shoes"}), "change=add") == 1
    assert contents(folder).keys() == {*"abcde"}
    (tmp_path / "gone.txt").write_text("a\n\nd\n")
    assert anew(f"products={tmp_path / 'gone.txt'}", "change=remove") == 0
    left = contents(folder)
    assert left.keys() == {*"bce"}
    assert anew(*shop({"d": "Shoes"}), "change=add") == 1
    (tmp_path / "gone.json").write_text('{"d": "Shoes"}')
    assert anew(f"products={tmp_path / 'gone.json'}", "change=remove") == 0
    assert contents(folder).keys() == {*"bce"}
    assert all(left[name] == first[name] for name in "bc")
    save_image(tmp_path / "images" / "b.png", seed=99)  # another photo of the same product
    assert anew(*shop({"b": "Hats", "c": "Hats"})) == 1  # and in another category now
    now = contents(folder)
    assert now.keys() == {*"bc"}
    assert now["b"][0] == HATS
    assert now["b"][1] != first["b"][1]
    assert now["c"] == first["c"]
    assert len(list(folder.glob("vectors-*"))) == len(list(folder.glob("products-*"))) == 1
    at_once = contents(make_catalogue(run, tmp_path / "other", *shop({"b": "Hats", "c": "Hats"})))
    for name, (_, vector) in at_once.items():  # batches of other sizes round otherwise
        np.testing.assert_allclose(
            np.frombuffer(vector, np.float32), np.frombuffer(now[name][1], np.float32), atol=1e-6
        )


def test_who_has_a_catalogue_open_keeps_it(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]]
) -> None:
    folder = make_catalogue(served[0], tmp_path / "catalogue", *shop({"a": "Shoes", "b": "Shoes"}))
    open_one = Recommender.from_checkpoint(served[0], folder)
    before = open_one.recommend(tmp_path / "images" / "a.png", "Shoes")
    make_catalogue(served[0], folder, *shop({"c": "Hats"}))
    assert [one.product for one in open_one.recommend(tmp_path / "images" / "a.png", "Shoes")] == [
        one.product for one in before
    ]
    assert Recommender.from_checkpoint(served[0], folder).categories == [HATS]


def test_the_program_knows_the_changes_and_backends_that_there_are() -> None:
    assert OPTIONS["change"] == Change
    assert CATALOGUE["backend"] == BackendName | None


def test_an_interrupted_one_goes_on(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = served
    words = [*shop({name: "Shoes" for name in "abcdefgh"}), "batch_size=2"]
    real, calls = Encoder.products, 0

    def stops(self: Encoder, squares: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:  # one for the length, two batches
            raise KeyboardInterrupt
        return real(self, squares)

    folder = tmp_path / "catalogue"
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "products", stops)
        with pytest.raises(KeyboardInterrupt):
            make_catalogue(run, folder, *words)
    (partial,) = folder.glob("embedded-*.partial")
    with partial.open("ab") as file:
        file.write(b"half a vector")
    (lines,) = folder.glob("embedded-*.jsonl")
    with lines.open("ab") as file:
        file.write(b'["half a li')
    assert not (folder / MANIFEST).exists()
    calls = -100
    made = 0

    def counts(self: Encoder, squares: Any) -> Any:
        nonlocal made
        squares = list(squares)
        made += len(squares)
        return real(self, squares)

    monkeypatch.setattr(Encoder, "products", counts)
    make_catalogue(run, folder, *words)
    assert made - 1 == 4
    monkeypatch.undo()
    assert contents(folder) == contents(make_catalogue(run, tmp_path / "other", *words))
    assert not list(folder.glob("embedded-*"))


def test_unreadable_photos_are_one_line_each_and_what_is_embedded_is_kept(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]]
) -> None:
    run, folder = served[0], tmp_path / "catalogue"
    names = {name: "Shoes" for name in "abcd"}
    with pytest.raises(InputError, match=r"product b: .*b\.png: not an image; 1 of 4 products .* max_bad_images=0\.25"):
        make_catalogue(run, folder, *shop(names, bad="b"))
    assert "b.png" in (folder / "bad_images.txt").read_text()
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(InputError, match=r"product b has no image: .*b\.jpg is missing; 1 of 4"):
        make_catalogue(run, folder, *shop(names, missing="b"))
    make_catalogue(run, folder, *shop(names, missing="b"), "max_bad_images=0.25")
    assert contents(folder).keys() == {*"acd"}
    make_catalogue(run, folder, *shop(names))
    assert contents(folder).keys() == {*"abcd"}
    assert not (folder / "bad_images.txt").exists()


def test_wrong_options_are_one_line(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]]
) -> None:
    run, folder = served[0], tmp_path / "catalogue"
    words = shop({"a": "Shoes"})
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "wrong.json").write_text('{"a": "Shoos"}')
    (tmp_path / "gone.txt").write_text("z")
    (tmp_path / "file").write_text("")
    for wrong, says in (
        (
            [f"products={tmp_path / 'wrong.json'}", words[1]],
            r"product a: category=Shoos: unknown to this checkpoint; did you mean 'Shoes'",
        ),
        ([f"products={tmp_path / 'nowhere.json'}"], "there is no such file"),
        ([f"products={tmp_path / 'empty.json'}"], "there is no product in it"),
        (["images=x"], "images=x: give the products with products=FILE"),
        (
            [*words, "catalogue.url=http://x"],
            r"catalogue\.url is an option of catalogue\.backend=qdrant or pgvector, and this one is exact",
        ),
        ([*words, "catalogue.hnsw_search=1"], r"catalogue\.hnsw_search=1: must be at least 2"),
        ([*words, "catalogue.collection=a/b"], r"catalogue\.collection='a/b': give a name"),
        ([*words, "device=meta"], "device=meta"),
        ([words[0], f"images={tmp_path / 'nowhere'}"], "images=.*there is no such folder"),
        (["change=add"], "give the products with products=FILE"),
        ([*words, "change=append"], "change='append': input should be"),
        ([*words, "catalogue.backend=fais"], r"catalogue\.backend='fais': .*did you mean 'faiss'"),
        ([*words, "batch_size=0"], "batch_size must be at least 1"),
    ):
        with pytest.raises(InputError, match=says):
            make_catalogue(run, folder, *wrong)
    with pytest.raises(InputError, match=r"file/below: cannot be written \(Not a directory\); choose another folder"):
        make_catalogue(run, tmp_path / "file" / "below", *shop({"a": "Shoes"}))
    make_catalogue(run, folder, *words)
    with pytest.raises(InputError, match="product z is not in it; nothing was removed"):
        make_catalogue(run, folder, f"products={tmp_path / 'gone.txt'}", "change=remove")
    (tmp_path / "gone.txt").write_text("\n")
    with pytest.raises(InputError, match=r"products=.*gone\.txt: there is no product in it; write one a line"):
        make_catalogue(run, folder, f"products={tmp_path / 'gone.txt'}", "change=remove")
    (tmp_path / "gone.txt").write_text("a")
    with pytest.raises(InputError, match="there is no product to put into it"):
        make_catalogue(run, folder, f"products={tmp_path / 'gone.txt'}", "change=remove")
    with FileLock(folder / ".lock"), pytest.raises(InputError, match="another process is changing it"):
        make_catalogue(run, folder, *words)
    assert contents(folder).keys() == {"a"}


def test_a_catalogue_of_another_checkpoint_is_refused(
    served: tuple[Path, Path], tmp_path: Path, looks: Path, cache: Path
) -> None:
    run, folder = served
    other = train_on(looks, cache, tmp_path / "run", "seed=1")
    for use in (lambda: Recommender.from_checkpoint(other, folder), lambda: make_catalogue(other, folder)):
        with pytest.raises(InputError, match=r"its vectors are of another checkpoint \(hybrid, weights [0-9a-f]{12}"):
            use()
    # The same weights in another file are the same.
    shutil.copytree(run, tmp_path / "copy")
    assert Recommender.from_checkpoint(tmp_path / "copy", folder).categories == [HATS, SHOES]


def test_a_broken_catalogue_is_one_line(served: tuple[Path, Path], tmp_path: Path) -> None:
    run, folder = served
    with pytest.raises(InputError, match=r"there is no catalogue; make one with python -m ctl_lightning\.catalogue"):
        Recommender.from_checkpoint(run, tmp_path / "nowhere")
    manifest = Manifest.read(folder)
    assert manifest is not None
    for name, content in (
        (MANIFEST, b"{"),
        (MANIFEST, b'{"format": 99}'),
        (MANIFEST, (folder / MANIFEST).read_bytes().replace(b'"identity": {', b'"identity": 5, "other": {')),
        (manifest.vectors, b"no numbers"),
        (manifest.products, b"no database"),
        (manifest.vectors, (folder / manifest.vectors).read_bytes()[:-4]),
        (manifest.vectors, None),
        (manifest.products, None),
    ):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "copy")
        if content is None:
            (tmp_path / "copy" / name).unlink()
        else:
            (tmp_path / "copy" / name).write_bytes(content)
        for use in (
            lambda: Recommender.from_checkpoint(run, tmp_path / "copy"),
            lambda: make_catalogue(run, tmp_path / "copy"),
        ):
            with pytest.raises(InputError, match="make the catalogue anew in another folder"):
                use()


def test_a_catalogue_that_cannot_be_written_to_is_searched(served: tuple[Path, Path], looks: Path) -> None:
    run, folder = served
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    Recommender.from_checkpoint(run, folder).look(next((looks / "images").rglob("*.jpg")))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        open_products(next(folder.glob("products-*"))).execute("DELETE FROM products")


def test_vectors_are_mapped_and_not_read(tmp_path: Path) -> None:
    count = 1000
    vectors = np.random.default_rng(0).standard_normal((count, 8), np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    write_products(tmp_path / "products.sqlite", [Listed(f"p{row}", "c", "x", "1") for row in range(count)])
    catalogue = ExactCatalogue(tmp_path, Manifest({}, 8, {"c": (0, count)}, "vectors.npy", "products.sqlite"))
    assert isinstance(catalogue._vectors, np.memmap)
    (hits,) = catalogue.search(vectors[7:8], "c", 3)
    best = np.argsort(-(vectors.astype(float) @ vectors[7].astype(float)), kind="stable")[:3]
    assert [hit.product for hit in hits] == [f"p{row}" for row in best]


def test_other_peoples_files_in_the_folder_stay(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]]
) -> None:
    folder = tmp_path / "catalogue"
    theirs = [
        folder / name for name in ("products-2026.json", "vectors-mine.npy", "embedded-notes.txt", "graph-x.faiss")
    ]
    (folder / "products-photos").mkdir(parents=True)
    for path in theirs:
        path.write_text("mine")
    killed = folder / ".vectors-0123456789ab.77.npy"  # what a killed run leaves
    killed.write_text("half")
    make_catalogue(served[0], folder, *shop({"a": "Shoes"}))
    make_catalogue(served[0], folder, *shop({"b": "Shoes"}))
    assert all(path.read_text() == "mine" for path in theirs)
    assert not killed.exists()
    assert contents(folder).keys() == {"b"}


def test_a_command_without_products_keeps_what_a_catalogue_holds(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]], looks: Path
) -> None:
    folder = make_catalogue(served[0], tmp_path / "catalogue", *shop({"a": "Shoes", "b": "Hats"}))
    before = contents(folder)
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != MANIFEST}
    make_catalogue(served[0], folder, "catalogue.backend=faiss")
    assert contents(folder) == before
    assert {
        path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != MANIFEST
    } == files  # not rewritten
    make_catalogue(served[0], folder, "products=data")
    assert contents(folder).keys() == json.loads((looks / "fashion-cat.json").read_text()).keys()


def test_a_bad_photo_of_a_product_that_is_added_takes_nothing_away(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]]
) -> None:
    folder = make_catalogue(served[0], tmp_path / "catalogue", *shop({"a": "Shoes", "b": "Hats"}))
    before = contents(folder)
    make_catalogue(served[0], folder, *shop({"a": "Shoes", "c": "Hats"}, bad="a"), "change=add", "max_bad_images=0.5")
    after = contents(folder)
    assert after.keys() == {*"abc"}
    assert after["a"] == before["a"]


def test_another_file_is_another_photo_whatever_its_size_and_time(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]]
) -> None:
    folder = tmp_path / "catalogue"
    words = shop({"a": "Shoes"})
    for name, colour in (("images", (255, 0, 0)), ("others", (0, 255, 0))):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), colour).save(tmp_path / name / "a.png", compress_level=0)
        os.utime(tmp_path / name / "a.png", (1_000_000_000, 1_000_000_000))
    sizes = {(tmp_path / name / "a.png").stat().st_size for name in ("images", "others")}
    assert len(sizes) == 1
    make_catalogue(served[0], folder, *words)
    first = contents(folder)["a"]
    make_catalogue(served[0], folder, words[0], f"images={tmp_path / 'others'}")
    assert contents(folder)["a"] != first


def test_what_was_embedded_with_other_cuts_is_not_taken(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]]
) -> None:
    encoder = Encoder(served[0])
    listed = [Listed("a", SHOES, str(tmp_path / "images" / "a.png"), "1")]
    shop({"a": "Shoes"})
    names = set()
    for aspect in ("stretch", "pad"):
        encoder._options["aspect"] = aspect
        PendingVectors(tmp_path, encoder, sha256(repr(encoder.identity()).encode()).hexdigest()).add(listed, 2)
        names = {path.name for path in tmp_path.glob("embedded-*.partial")}
    assert len(names) == 1  # of the first nothing is used
    assert len({repr(Encoder(served[0]).identity()), repr(encoder.identity())}) == 2


def test_a_reader_that_opens_while_it_is_replaced_opens_the_new_one(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_catalogue(served[0], tmp_path / "catalogue", *shop({"a": "Shoes", "b": "Shoes"}))
    real, reads = Manifest.read, 0

    def replaced_after_the_first(where: Path) -> Manifest | None:
        nonlocal reads
        found, reads = real(where), reads + 1
        if reads == 1:
            with monkeypatch.context() as patch:
                patch.setattr(Manifest, "read", real)
                make_catalogue(served[0], folder, *shop({"c": "Hats"}))
        return found

    monkeypatch.setattr(Manifest, "read", replaced_after_the_first)
    assert Recommender.from_checkpoint(served[0], folder).categories == [HATS]
    assert reads >= 3


def test_missing_photos_are_named_even_if_all_are(served: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "products.json").write_text('{"a": "Shoes"}')
    words = [f"products={tmp_path / 'products.json'}", f"images={tmp_path / 'photos'}"]
    with pytest.raises(InputError, match=r"product a has no image: .*a\.jpg is missing; 1 of 1 products"):
        make_catalogue(served[0], tmp_path / "catalogue", *words)
    with pytest.raises(InputError, match="there is no product to put into it"):
        make_catalogue(served[0], tmp_path / "catalogue", *words, "max_bad_images=1")
    for name in ("a.jpg", "a.png"):
        save_image(tmp_path / "photos" / name)
    with pytest.raises(InputError, match=r"product a has several: .*a\.jpg, .*a\.png; leave one"):
        make_catalogue(served[0], tmp_path / "catalogue", *words)


def test_a_disk_that_is_read_only_is_one_line(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Path, *_: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    words = shop({"a": "Shoes"})
    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\); choose another folder"):
        make_catalogue(served[0], tmp_path / "catalogue", *words)
