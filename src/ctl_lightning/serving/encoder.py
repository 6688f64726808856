"""Reads the photos and boxes that a user names, and applies a checkpoint's network to them as in training."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctl_lightning.data.category_names import last_part
from ctl_lightning.data.crop import WHOLE, area, scene_crop, strips, to_pixels
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.images import (
    UNNAMED,
    Pixels,
    open_upright,
    placed,
    reason,
    to_rgb,
    to_square,
    upright,
    whole_of,
)
from ctl_lightning.data.pairs import NO_BOX, Box
from ctl_lightning.data.pictures.folder import pictures_in
from ctl_lightning.data.pictures.opening import ENDINGS
from ctl_lightning.data.splits import Split, read_split
from ctl_lightning.data.store.scene_pictures import Cut, Strip, strips_of
from ctl_lightning.data.store.views import centre
from ctl_lightning.models.components.backbone import Features, hash_of_weights
from ctl_lightning.models.components.network import Network, SceneStyle
from ctl_lightning.models.components.strips import pooled_strips
from ctl_lightning.runtime.errors import InputError, listed, suggestion
from ctl_lightning.serving.engines import EngineName, engine_of
from ctl_lightning.serving.trained import Trained

Photo = Path | str | Image.Image | BinaryIO
"""An image file, by its path or opened, or a picture that is decoded already."""

Shown = Pixels | list[Strip]
"""What a network is shown of a scene: a square, uint8 (S, S, 3), or its strips."""

log = logging.getLogger(__name__)


class Encoder:
    """Embeds photos of scenes and products with a trained network.

    Args:
        path: checkpoint file, or its run directory.
        device: torch device, such as "cuda:0".
        engine: what runs the backbone: "torch", or "onnx", see `engines`. Strips of scenes, which are of many sizes, always go through
            torch.

    Attributes:
        trained: the checkpoint, with what it was trained with.
        categories: names of the categories, in the order of their indices.
        network: network of the checkpoint, on the device, in eval mode.
        device: torch device of the network.

    Raises:
        InputError: unreadable or foreign checkpoint; a method that sees no pictures; a device that is not there; an engine that
            cannot run this backbone.
    """

    def __init__(self, path: Path, device: str = "cpu", engine: EngineName = "torch") -> None:
        self.trained = Trained(path)
        network = self.trained.network()
        if not network.sees:
            raise InputError(
                f"ckpt_path={self.trained.path}: {self.trained.method} sees no pictures; give a checkpoint of another method"
            )
        self.trained.check_serves()
        try:
            network.to(device)
            torch.zeros(1, device=device).cpu()  # refuses a device that holds no numbers, such as meta
        # What torch raises differs from build to build.
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device={device}: {' '.join(str(error).split())[:200]}") from None
        self.network = network
        self.device = device
        self.categories = self.trained.categories
        self._options: dict[str, Any] = self.trained.config["data"]
        self._features = engine_of(engine, network.backbone, self.size, device)

    @property
    def shows_strips(self) -> bool:
        """Whether the network is shown all strips beside a box, and not the scene crop alone."""
        return self._options["scene"] == "strips"

    @property
    def _cut(self) -> Cut:
        options = self._options
        sizes = options["stored_size"], options["image_size"]
        return Cut(options["margin"], *sizes, options["aspect"], options["interpolation"])

    @property
    def size(self) -> int:
        """Side S in pixels of the square picture that the network is given."""
        return int(self._options["image_size"])

    def identity(self) -> dict[str, Any]:
        """What a product's vector depends on, as plain values: method, hash of the weights, and how photos are cut.

        Not the engine: its vectors differ in the last digits alone, as those of two processors do.
        """
        photos = {option: self._options[option] for option in ("stored_size", "image_size", "aspect")}
        if self._options["interpolation"] != UNNAMED:
            photos["interpolation"] = self._options["interpolation"]
        return {"method": self.trained.method, "weights": hash_of_weights(self.network), "photos": photos}

    def category(self, name: str) -> str:
        """The whole name of a category, given whole or by its last part. Raises InputError: unknown, or ambiguous."""
        if name in self.categories:
            return name
        ends = [last_part(category) for category in self.categories]
        if ends.count(name) == 1:
            return self.categories[ends.index(name)]
        if name in ends:
            several = listed(one for one, end in zip(self.categories, ends, strict=True) if end == name)
            raise InputError(f"category={name}: several categories end so; give the whole name, of {several}")
        raise InputError(
            f"category={name}: unknown to this checkpoint{suggestion(name, [*self.categories, *ends])}; "
            f"it knows {listed(self.categories)}"
        )

    def crop(self, box: Box | None) -> Box:
        """The scene crop: what is left of a scene when the box is cut away, as in training; all of it without a box.

        Raises:
            InputError: a box that is no box, or leaves less than the network was trained with.
        """
        if box is None:
            return WHOLE
        left, top, right, bottom = box
        said = [round(side, 3) for side in box]
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise InputError(f"box={said}: give [left, top, right, bottom], from 0 to 1, not empty")
        crop = scene_crop(box, self._options["margin"])
        if area(crop) < self._options["min_area"]:
            raise InputError(
                f"box={said}: beside it {max(0.0, area(crop)):.0%} of the scene are left, and it was trained with "
                f"{self._options['min_area']:.0%} at least; give a smaller box, or none"
            )
        return crop

    def kept(self, box: Box | None) -> list[Box]:
        """The parts of a scene that the network is shown, beside a box that is cut away; all of it without a box."""
        return strips(box or NO_BOX, self._options["margin"]) if self.shows_strips else [self.crop(box)]

    @torch.inference_mode()
    def scene(self, photo: Photo, box: Box | None, categories: Sequence[str]) -> SceneStyle:
        """The style of one scene for n categories: one backbone pass, or one for each strip.

        Args:
            photo: photo of the scene.
            box: box that is cut away, normalised; None: nothing is.
            categories: names of n categories.

        Raises:
            InputError: an unreadable picture, an unknown category, a box that is no box or leaves nothing.
        """
        categories = [self.category(name) for name in categories]
        return self.style(self.features([self.shown(photo, box)]), categories)

    def shown(self, photo: Photo, box: Box | None) -> Shown:
        """What the network is shown of a scene beside a box. Arguments and errors as of `scene`."""
        if self.shows_strips:
            return strips_of(opened(photo), box or NO_BOX, self._cut)
        return self.square(photo, self.crop(box))

    @torch.inference_mode()
    def features(self, scenes: Sequence[Shown]) -> Features:
        """What n scenes show, all as squares or all as strips, -> features: pooled (n, F), regions (n, R, C); strips have none."""
        if self.shows_strips:
            pooled = pooled_strips(self.network.backbone, [one for one in scenes if isinstance(one, list)], self.device)
            return Features(pooled, pooled.new_empty(len(scenes), 0, 0))
        return self._features(self._batch(one for one in scenes if isinstance(one, np.ndarray)))

    @torch.inference_mode()
    def style(self, features: Features, categories: Sequence[str]) -> SceneStyle:
        """The style of one scene, whose features are (1, ...), for n categories. Raises InputError: an unknown category."""
        indices = torch.tensor([self.categories.index(self.category(name)) for name in categories], device=self.device)
        return self.network.embed_scene(features, indices)

    @torch.inference_mode()
    def products(self, squares: Iterable[Pixels]) -> Tensor:
        """n product photos, each as `square` returns it, -> f_p, (n, D)."""
        return self.network.embed_product(self._features(self._batch(squares)))

    def picture(self, photo: Photo, crop: Box = WHOLE) -> Image.Image:
        """A photo, upright, RGB, as it is decoded to show its crop to the network: of a large JPEG file not every pixel.

        Raises:
            InputError: an unreadable picture.
        """
        if isinstance(photo, Image.Image) or self.shows_strips:
            return to_rgb(opened(photo))
        part = None if crop == WHOLE else crop
        with _told(photo):
            return Image.fromarray(whole_of(_source(photo), part, self._options["stored_size"]))

    def square(self, photo: Photo, crop: Box = WHOLE) -> Pixels:
        """The square of a photo that the network is given, uint8 (S, S, 3). Raises InputError: an unreadable picture."""
        options = self._options
        start, end = centre(options["stored_size"], options["image_size"])
        part = None if crop == WHOLE else crop
        picture = self.picture(photo, crop)
        square = to_square(picture, part, options["stored_size"], options["aspect"], options["interpolation"])
        return square[start:end, start:end]

    def seen(self, width: int, height: int, crop: Box) -> Box:
        """The part of a scene of `width` × `height` pixels that the network sees, normalised; it can reach beyond it."""
        options = self._options
        left, top, right, bottom = to_pixels(crop, width, height)
        inside = placed((right - left) / (bottom - top), options["aspect"])
        start, end = (edge / options["stored_size"] for edge in centre(options["stored_size"], options["image_size"]))
        across = [(edge - inside[0]) / (inside[2] - inside[0]) * (right - left) + left for edge in (start, end)]
        down = [(edge - inside[1]) / (inside[3] - inside[1]) * (bottom - top) + top for edge in (start, end)]
        return across[0] / width, down[0] / height, across[1] / width, down[1] / height

    def _batch(self, squares: Iterable[Pixels]) -> Tensor:
        """n squares, (S, S, 3) each, -> uint8 (n, 3, S, S) on the device."""
        pictures = torch.stack([torch.from_numpy(square.copy()) for square in squares])
        return pictures.permute(0, 3, 1, 2).to(self.device)


def opened(photo: Photo) -> Image.Image:
    """Opens a photo, upright. Raises InputError: it cannot be read."""
    with _told(photo):
        return upright(photo) if isinstance(photo, Image.Image) else open_upright(_source(photo))


def _source(photo: Path | str | BinaryIO) -> Path | BinaryIO:
    if isinstance(photo, str | Path):
        return Path(photo)
    photo.seek(0)
    return photo


@contextmanager
def _told(photo: Photo) -> Iterator[None]:
    """Raises InputError where a photo cannot be read in this block."""
    try:
        yield
    except OSError as error:
        name = photo if isinstance(photo, str | Path) else "the photo"
        why = reason(error)
        raise InputError(f"{name}: {why}{'' if ';' in why else '; give an image file'}") from None


def require_query(encoder: Encoder) -> Network:
    """The encoder's network. Raises InputError: its distance is not 2 - q·f_p of one vector q per scene and category."""
    if not encoder.network.has_query():
        plain = " with plain distances" if encoder.trained.options.get("squared") is False else ""
        raise InputError(
            f"ckpt_path={encoder.trained.path}: {encoder.trained.method}{plain} has no distance of the form 2 - query · vector, "
            "which a catalogue is searched by; give a checkpoint of hybrid, global or local with model.squared=true, or of imagenet"
        )
    return encoder.network


def read_box(given: object) -> Box | None:
    """Reads a box from the value of an option; None: no box. Raises InputError: not four numbers."""
    if given is None:
        return None
    try:
        left, top, right, bottom = (float(side) for side in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"box={given}: give [left, top, right, bottom], from 0 to 1") from None
    return left, top, right, bottom


def photos_in(folder: Path, option: str) -> list[Path]:
    """The photos in a folder, by name. Raises InputError, which names the option that gave the folder: it has none."""
    try:
        found = pictures_in(folder)
    except OSError as error:
        raise InputError(f"{option}={folder}: this folder cannot be read ({error.strerror})") from None
    if not found:
        raise InputError(f"{option}={folder}: there is no photo in it ({', '.join(sorted(ENDINGS))})")
    return found


def photo_named(data: TripletDataModule, name: str, option: str) -> Path:
    """The image file at a path, or of an id of the data. Raises InputError, which names the option: `name` is neither."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    of_id = data.source.image_path(data.root, name)
    if of_id.is_file():
        return of_id
    where = (
        f"an id of {data.root} (no {of_id})" if data.root.is_dir() else f"can it be an id, as there is no {data.root}"
    )
    raise InputError(f"{option}: {name} is no image file, nor {where}; give a path, or data.root=DIR")


def _split_of_run(checkpoint: Path, data: TripletDataModule) -> Mapping[str, Split]:
    """Scene -> split as it was in training, where a file tells: a scene may have been in the split of its twin."""
    path = Path(data.split_file) if data.split_file else checkpoint.absolute().parents[1] / "split.json"
    return read_split(path) if data.split_file or path.is_file() else {}


def example_scenes(encoder: Encoder, root: str | None, count: int) -> list[Path]:
    """Photos of at most `count` test scenes, which the checkpoint was not trained on; none if its data are not here."""
    try:
        data = encoder.trained.data({"root": root})
        data.read_table()
        split = _split_of_run(encoder.trained.path, data)
    except (InputError, OSError) as error:
        log.info("no examples: %s", error)
        return []
    scenes = sorted(
        scene for scene in data.table.products_of_scene if split.get(scene, data.rule.split_of(scene)) == "test"
    )
    every = max(1, len(scenes) // count)
    paths = [data.source.image_path(data.root, scene) for scene in scenes[::every]]
    return [path for path in paths if path.exists()][:count]
