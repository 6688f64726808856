"""The cache of a frozen backbone's features: what is in it, whose it is, and what happens when it is disturbed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import REPOSITORY, MakeData
from torch import Tensor
from torch.nn import functional as F

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.store import features as module
from ctl_lightning.data.store.features import CachedFeatures, FeaturePlan, FeatureType, open_features
from ctl_lightning.data.triplets import Triplet
from ctl_lightning.runtime import large_files as making
from ctl_lightning.runtime.errors import InputError

IDENTITY = {"name": "means", "weights": "0", "grid": 2}
SIZE = 4


def means(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Colour means of the whole and of its quarters, which can be told from pixels by hand."""
    pixels = pictures.float() / 256
    return pixels.mean((2, 3)), F.avg_pool2d(pixels, SIZE // 2).flatten(2).transpose(1, 2)


class Encoder:
    """`means`, and how many pictures it was asked for; optionally one that stops."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.pictures = 0
        self._stop_after = stop_after

    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        self.pictures += len(pictures)
        if self._stop_after is not None and self.pictures > self._stop_after:
            raise KeyboardInterrupt
        return means(pictures)


def picture(key: str, view: int) -> Tensor:
    generator = torch.Generator().manual_seed(int(key[1:]) * 100 + view)
    return torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def pictures(keys: Sequence[str], views: int) -> Tensor:
    return torch.stack([picture(key, view) for key in keys for view in range(1 + views)])


def plan(**options: Any) -> FeaturePlan:
    crops, products = [f"c{n}" for n in range(10)], [f"p{n}" for n in range(50, 63)]
    return FeaturePlan("store", SIZE, IDENTITY, crops, products, 0, "float16")._replace(**options)


def opened(folder: Path, encode: Any, batch_size: int = 4, **options: Any) -> Any:
    return open_features(plan(**options), folder, pictures, encode, batch_size, 0, seed=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("views", [0, 3])
def test_what_is_read_is_what_the_backbone_says_of_each_picture(tmp_path: Path, dtype: FeatureType, views: int) -> None:
    found = opened(tmp_path, means, dtype=dtype, views=views)
    for keys in (["c3", "c0", "c3"], ["p62", "p50"]):
        pooled, regions = found.evaluation(keys)
        expected = means(pictures(keys, 0))
        assert pooled.dtype == getattr(torch, dtype)
        assert torch.equal(pooled, expected[0].to(pooled.dtype))
        if keys[0][0] == "c":
            assert torch.equal(regions, expected[1].to(regions.dtype))
        else:
            assert regions.shape == (2, 0, 3)


def test_training_uses_each_of_the_random_views_and_never_the_centre(tmp_path: Path) -> None:
    found = opened(tmp_path, means, views=3)
    seen = []
    for epoch in range(40):
        (pooled,) = found.training(["c3"], [("scene", epoch, 0)]).pooled
        of = [view for view in range(4) if torch.equal(pooled, means(picture("c3", view)[None])[0][0].half())]
        assert len(of) == 1
        seen += of
    assert set(seen) == {1, 2, 3}
    again = opened(tmp_path, means, views=3)
    assert torch.equal(
        again.training(["c3"], [("scene", 7, 0)]).pooled, found.training(["c3"], [("scene", 7, 0)]).pooled
    )


def test_without_random_views_training_sees_the_centre(tmp_path: Path) -> None:
    found = opened(tmp_path, means)
    assert torch.equal(found.training(["p51"], [("positive", 1, 2)]).pooled, found.evaluation(["p51"]).pooled)


def test_nothing_is_computed_twice_and_everything_anew_for_another_plan(tmp_path: Path) -> None:
    first, again = Encoder(), Encoder()
    opened(tmp_path, first)
    assert first.pictures == 23 + 1  # one to learn the shapes
    opened(tmp_path, again)
    assert again.pictures == 0
    others: list[dict[str, Any]] = [
        {"store": "other"},
        {"image_size": 5},
        {"backbone": IDENTITY | {"weights": "1"}},
        {"backbone": IDENTITY | {"grid": 1}},
        {"crops": [f"c{n}" for n in range(9)]},
        {"views": 1},
        {"dtype": "bfloat16"},
    ]
    for options in others:
        encoder = Encoder()
        opened(tmp_path, encoder, **options)
        assert encoder.pictures > 0, options


@pytest.mark.parametrize("stop_after", [1, 3, 9, 10, 17, 22])
def test_an_interrupted_computation_goes_on_where_it_was(
    tmp_path: Path, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_A_NOTE", 0.0)
    whole, rest = Encoder(), Encoder()
    opened(tmp_path / "whole", whole)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "stopped", Encoder(stop_after))
    opened(tmp_path / "stopped", rest)
    assert rest.pictures <= whole.pictures - stop_after + 5  # the batch that was stopped, and one to learn the shapes
    files = [sorted((tmp_path / name / "features").glob("*.npy")) for name in ("whole", "stopped")]
    ((one,), (other,)) = files
    assert one.read_bytes() == other.read_bytes()
    assert not list((tmp_path / "stopped" / "features").glob("*.partial"))


KILLED = """
import os, sys
sys.path[:0] = {tests!r}
import test_features as t
from ctl_lightning.data.store import features
features.SECONDS_A_NOTE = 0.0
writes = 0
def write_at(file, content, offset, real=features.write_at):
    global writes
    writes += 1
    if writes == {at}:
        real(file, content[: len(content) // 2], offset)
        os._exit(9)
    real(file, content, offset)
features.write_at = write_at
t.opened(__import__("pathlib").Path({folder!r}), t.means)
"""


@pytest.mark.long
@pytest.mark.parametrize("at", [4, 6, 8])
def test_a_killed_computation_leaves_no_half_written_numbers(tmp_path: Path, at: int) -> None:
    script = KILLED.format(
        tests=[str(Path(__file__).parent), str(REPOSITORY / "tests")], at=at, folder=str(tmp_path / "killed")
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    rest = Encoder()
    opened(tmp_path / "killed", rest)
    opened(tmp_path / "whole", means)
    (one,), (other,) = (list((tmp_path / name / "features").glob("*.npy")) for name in ("killed", "whole"))
    assert one.read_bytes() == other.read_bytes()
    assert rest.pictures < 24


def test_a_disk_that_is_too_small_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 100))
    encoder = Encoder()
    with pytest.raises(InputError, match=r"features need 0\.00 GB, 0\.00 GB are free.*paths\.cache_dir=DIR"):
        opened(tmp_path, encoder)
    assert encoder.pictures == 1
    monkeypatch.undo()
    # The prediction is the size of the file, to the byte, apart from its header.
    needed: list[int] = []
    monkeypatch.setattr(module, "check_room", lambda _path, _what, size, _ways: needed.append(size))
    opened(tmp_path, means, views=2)
    (file,) = (tmp_path / "features").glob("*.npy")
    assert file.stat().st_size - needed[0] == 128


def test_a_disk_that_fills_up_is_one_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_A_NOTE", 0.0)
    real, room = making.write_at, [5]

    def write_at(file: int, content: bytes, offset: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        real(file, content, offset)

    monkeypatch.setattr(module, "write_at", write_at)
    with pytest.raises(InputError, match=r"the disk is full; what is computed is kept.*backbone\.cache=never"):
        opened(tmp_path, means)
    room[0], rest = 99, Encoder()
    opened(tmp_path, rest)
    assert rest.pictures < 24


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    def large(images: Tensor) -> tuple[Tensor, Tensor]:
        pooled, regions = means(images)
        return pooled * 1e6, regions

    with pytest.raises(InputError, match=r"cache_dtype=float16: .*take backbone\.cache_dtype=bfloat16"):
        opened(tmp_path, large)
    found = opened(tmp_path, large, dtype="bfloat16")
    assert torch.isfinite(found.evaluation(["c0"]).pooled).all()


@pytest.mark.parametrize("harm", ["cut off", "no index", "broken index"])
def test_a_broken_file_is_named_and_not_read(tmp_path: Path, harm: str) -> None:
    opened(tmp_path, means)
    (file,) = (tmp_path / "features").glob("*.npy")
    if harm == "cut off":
        file.write_bytes(file.read_bytes()[:-10])
    elif harm == "broken index":
        file.with_suffix(".json").write_text("{}")
    else:
        encoder = Encoder()
        file.with_suffix(".json").unlink()
        opened(tmp_path, encoder)
        assert encoder.pictures == 24  # a file without an index is made anew
        return
    with pytest.raises(InputError, match=r"features/.*\.npy: it or its index is broken.*Delete both"):
        opened(tmp_path, means)


def featured(make_data: MakeData, folder: Path, **options: Any) -> TripletDataModule:
    data = make_data(**options)
    data.cache_dir = folder
    plan = data.feature_plan(IDENTITY, 2 if data.augment == "crop" else 0, "float16")
    data.use_features(plan, lambda images: means(images[:, :, :4, :4]), lambda scenes: torch.zeros(len(scenes), 3))
    return data


def corner(stored: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(stored[:4, :4])).permute(2, 0, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_hold_the_features_of_the_pictures_that_they_would_hold(
    make_data: MakeData, tmp_path: Path, workers: int
) -> None:
    options = {"augment": "none", "num_workers": workers}
    cached, plain = featured(make_data, tmp_path, **options), make_data(**options)
    batches = list(zip(cached.train_dataloader(), plain.train_dataloader(), strict=True))
    assert len(batches) > 3
    for ours, theirs in batches:
        assert isinstance(ours, Triplet)
        assert torch.equal(ours.category, theirs.category)
        for name in ("scene", "positive", "negative"):
            found: CachedFeatures = getattr(ours, name)
            pooled, regions = means(getattr(theirs, name)[:, :, :4, :4])
            assert torch.equal(found.pooled, pooled.half())
            assert torch.equal(found.regions, regions.half() if name == "scene" else regions[:, :0].half())
    for ours, theirs in zip(cached.test_dataloader(), plain.test_dataloader(), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.image.pooled, means(other.image[:, :, :4, :4])[0].half())


def test_the_random_views_are_parts_of_the_picture_and_the_same_in_every_run(
    make_data: MakeData, tmp_path: Path
) -> None:
    data = make_data()
    product = data.pairs["train"][0].product
    fixed = data.pictures.fixed([product], 6)
    assert torch.equal(fixed, make_data(seed=5).pictures.fixed([product], 6))
    assert torch.equal(fixed[0], data.pictures.evaluation([product])[0])
    stored = torch.from_numpy(data.store[product].copy()).permute(2, 0, 1)
    places = set()
    for view in fixed[1:]:
        (place,) = [
            (top, left, flip)
            for flip, whole in enumerate((stored, stored.flip(-1)))
            for top in range(5)
            for left in range(5)
            if torch.equal(view, whole[:, top : top + 32, left : left + 32])
        ]
        places.add(place)
    assert len(places) > 3


def test_features_do_not_depend_on_seed_salt_and_what_else_a_run_may_change(
    make_data: MakeData, tmp_path: Path
) -> None:
    featured(make_data, tmp_path)
    for options in ({"seed": 3}, {"salt": "b"}, {"batch_size": 8}, {"store": "none"}, {"negatives": "in_batch"}):
        featured(make_data, tmp_path, **options)
    assert len(list((tmp_path / "features").glob("*.npy"))) == 1
    index = json.loads(next((tmp_path / "features").glob("*.json")).read_text())
    assert index["backbone"] == IDENTITY  # a person can see whose they are
    featured(make_data, tmp_path, image_size=30)
    featured(make_data, tmp_path, margin=0.1)
    assert len(list((tmp_path / "features").glob("*.npy"))) == 3
