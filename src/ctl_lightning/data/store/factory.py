"""How the image store of scene crops and products is opened: a memory-mapped file, chunks, or decoding every time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ctl_lightning.data.crop import crop_key, scene_crop
from ctl_lightning.data.images import Aspect, ImageItem, Interpolation
from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.sources.source import Source
from ctl_lightning.data.store.packed import DecodedImages, ImageStore, PackedStore
from ctl_lightning.data.store.packing import Plan, check, listing_of, pack, read_index, version_of
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.large_files import make_once
from ctl_lightning.runtime.locks import in_turn

StoreKind = Literal["packed", "litdata", "none"]


def open_store(
    items: Sequence[ImageItem],
    size: int,
    aspect: Aspect,
    interpolation: Interpolation,
    cache_dir: Path,
    kind: StoreKind,
    max_bad: float,
    chunks_dir: Path | None = None,
) -> ImageStore:
    """Opens the store of exactly these items; makes it first if the cache does not have it.

    The name of the store's file is a hash of the items, the sizes and times of their files, size, aspect and interpolation,
    so that a change is seen without reading all images. The index has a hash of the images themselves, so that nothing is packed
    again only because file times differ. A process that finds another one at work on the same store waits; a killed one
    loses little.

    Args:
        items: pictures to store; their keys are unique.
        size: side of the stored squares, in pixels.
        aspect: how a picture becomes a square.
        interpolation: filter that resizes it.
        cache_dir: folder in which stores are kept.
        kind: "packed": one memory-mapped file; "litdata": chunks, which can be streamed; "none": the images are checked once
            and decoded every time.
        max_bad: largest share of images that may be missing or unreadable, such as 0.01.
        chunks_dir: folder for LitData's chunks; None: the cache.

    Raises:
        InputError: too many images are missing or unreadable; no room on the disk; litdata is not installed.
    """
    plan = Plan(items, size, aspect, interpolation, [version_of(item.path) for item in items])
    missing = [item.path for item, version in zip(items, plan.versions, strict=True) if version is None]
    if len(missing) > max_bad * len(items):
        raise InputError(
            f"{len(missing)} of {len(items)} images ({len(missing) / len(items):.2%}) are missing, first {missing[0]}; fetch them with "
            f"`python -m ctl_lightning.prepare`, or allow a larger share than data.max_bad_images={max_bad}"
        )
    store = _open(plan, cache_dir / "stores" / f"{plan.fingerprint()}.npy", kind, chunks_dir)
    if len(store.bad) > max_bad * len(items):
        raise InputError(
            f"{len(store.bad)} of {len(items)} images ({len(store.bad) / len(items):.2%}) cannot be read, first "
            f"{next(iter(store.bad.values()))}; all of them are listed in {store.listing}; mend them, or delete them and fetch them again, "
            f"or allow a larger share than data.max_bad_images={max_bad}"
        )
    return store


def picture_items(
    source: Source, root: Path, table: PairTable, pairs: Sequence[Pair], margin: float
) -> list[ImageItem]:
    """The pictures to store: the scene crops of `pairs`, and all products of the catalogue.

    Args:
        source: format of the data.
        root: folder of the data.
        table: table with the catalogue.
        pairs: pairs whose scene crops are stored.
        margin: distance that a box grows on each side before it is cut away, as a share of the image side.
    """
    crops = {
        key: ImageItem(key, source.image_path(root, pair.scene), scene_crop(pair.box, margin))
        for pair in pairs
        for key in [crop_key(pair.scene, pair.box)]
    }
    return [
        *crops.values(),
        *(ImageItem(product, source.image_path(root, product), None) for product in sorted(table.catalogue)),
    ]


def _open(plan: Plan, path: Path, kind: StoreKind, chunks_dir: Path | None) -> ImageStore:
    if kind == "packed":
        make_once(path, lambda: pack(plan, path))
        return PackedStore(path)
    checked = path.with_suffix(".checked.json")
    make_once(checked, lambda: check(plan, checked))
    index = read_index(checked)
    if kind == "litdata":
        from ctl_lightning.data.store.litdata import open_chunks  # an optional dependency: imported only for this kind

        chunks = (chunks_dir or path.parent) / f"{path.stem}.chunks"
        with in_turn(path.with_suffix(".chunks.lock"), f"another process is making {chunks}; waiting for it"):
            return open_chunks(plan, index, listing_of(checked), chunks)
    return DecodedImages(plan, index, listing_of(checked))
