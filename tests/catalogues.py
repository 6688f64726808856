"""Catalogues that are compared, and catalogues of made-up vectors in PostgreSQL, without photos or a network."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from ctl_lightning.serving.catalogue.backend import HNSW
from ctl_lightning.serving.catalogue.files import Listed, Manifest, Vectors, write_products
from ctl_lightning.serving.catalogue.pgvector_upload import upload
from ctl_lightning.serving.catalogue.postgres import prepare
from ctl_lightning.serving.recommender import Recommender


@dataclass(frozen=True)
class Shop:
    """A folder with the files of a catalogue.

    Attributes:
        folder: the folder.
        manifest: what its catalogue.json would say.
        listed: its products.
    """

    folder: Path
    manifest: Manifest
    listed: list[Listed]

    def upload(self, url: str | None = None) -> "Shop":
        """Brings it into the database."""
        address = url or self.manifest.database["url"]
        prepare(address)
        return replace(
            self, manifest=replace(self.manifest, graphs=upload(self.folder, self.manifest, address, self.listed))
        )

    def changed(
        self,
        vectors: Vectors,
        slices: dict[str, tuple[int, int]],
        version: str = "1",
        first: int = 0,
        listed: list[Listed] | None = None,
    ) -> "Shop":
        """Another catalogue of the folder and collection, not yet uploaded: some products, or "product `first`" and on."""
        listed = listed or [
            Listed(f"product {first + row}", category, f"{first + row}.jpg", version)
            for category, (start, end) in slices.items()
            for row in range(start, end)
        ]
        np.save(self.folder / "vectors-0.npy", vectors)
        write_products(self.folder / "products.sqlite", listed)
        return Shop(self.folder, replace(self.manifest, slices=slices, dim=vectors.shape[1]), listed)


def uploaded(
    folder: Path,
    url: str,
    vectors: Vectors,
    slices: dict[str, tuple[int, int]],
    hnsw: dict[str, int] | None = None,
    collection: str = "products",
) -> Shop:
    """A catalogue of vectors, (N, D), in the database."""
    manifest = Manifest(
        {"method": "made up"},
        vectors.shape[1],
        slices,
        "vectors-0.npy",
        "products.sqlite",
        "pgvector",
        hnsw={**HNSW["pgvector"], **(hnsw or {})},
        database={"url": url, "collection": collection},
    )
    return Shop(folder, manifest, []).changed(vectors, slices).upload()


def same_answers(run: Path, one: Path, other: Path, photos: list[Path], k: int = 10, url: str | None = None) -> None:
    """Asserts that two catalogues give the same products for photos; `url`: where the other one is searched."""
    first, second = Recommender.from_checkpoint(run, one), Recommender.from_checkpoint(run, other, url=url)
    assert dict(first.catalogue.counts) == dict(second.catalogue.counts)
    for photo in photos:
        for mine, theirs in zip(first.look(photo, k=k).answers, second.look(photo, k=k).answers, strict=True):
            assert [one.product for one in mine.products] == [one.product for one in theirs.products]
            assert [one.image for one in mine.products] == [one.image for one in theirs.products]
            for a, b in zip(mine.products, theirs.products, strict=True):
                assert a.distance == pytest.approx(b.distance, abs=1e-6)
                assert dict(a.parts) == pytest.approx(dict(b.parts), abs=1e-5)
    named = [hit.product for hit in first.recommend(photos[0], first.categories[0], 3)]
    found = [
        recommender.catalogue.find([*named, "unknown", "it's", f"{named[0]}\0"]) for recommender in (first, second)
    ]
    for catalogue_found in found:
        assert sorted(catalogue_found) == sorted(named)
    for product in named:
        mine_found, theirs_found = (of[product] for of in found)
        assert mine_found[:3] == theirs_found[:3] == (product, first.categories[0], theirs_found.image)
        np.testing.assert_allclose(mine_found.vector, theirs_found.vector, atol=1e-6)
    assert first.catalogue.find([]) == second.catalogue.find([]) == {}
    second.catalogue.check()
    second.catalogue.close()
