"""Finds the products of each category that complete a photo, and says why: distances, their parts, and the attention."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ctl_lightning.data.pairs import Box
from ctl_lightning.metrics.classification import Classifier
from ctl_lightning.models.components.backbone import Features
from ctl_lightning.models.components.network import SceneStyle
from ctl_lightning.runtime.config import Config, check_options
from ctl_lightning.runtime.errors import InputError, listed
from ctl_lightning.serving.catalogue.files import Catalogue, Hit
from ctl_lightning.serving.catalogue.opening import open_catalogue
from ctl_lightning.serving.catalogue.popularity import favouring
from ctl_lightning.serving.encoder import Encoder, Photo, Shown, require_query
from ctl_lightning.serving.engines import EngineName


@dataclass(frozen=True)
class Recommended:
    """One recommended product.

    Attributes:
        rank: rank in its category by `distance` minus `bonus`; 1 is the best.
        product: id of the product.
        image: file of its catalogue photo.
        distance: distance to the scene; the smaller, the better it completes the scene.
        parts: name -> distance: for hybrid "global" and "local", whose mean `distance` is; for another method the only
            one it has.
        probability: probability that it goes with the scene, if one product in two does; None: the checkpoint has no
            classifier.
        bonus: what its popularity takes off its distance for the rank; 0 unless the recommender counts popularity.
    """

    rank: int
    product: str
    image: Path
    distance: float
    parts: Mapping[str, float]
    probability: float | None
    bonus: float = 0.0


@dataclass(frozen=True)
class Answer:
    """The products of one category for a scene.

    Attributes:
        category: name of the category.
        products: recommended products, the best first.
        attention: weights a_i of the regions for this category, (grid, grid), rows from top to bottom; None: the method
            has no regions, or gives all of them the same weight.
        candidates: number of products of the category in the catalogue.
    """

    category: str
    products: Sequence[Recommended]
    attention: NDArray[np.float64] | None
    candidates: int


@dataclass(frozen=True)
class Look:
    """A scene and what completes it.

    Attributes:
        photo: picture of the scene, upright, RGB; of a large JPEG file not every pixel.
        box: box that was cut away, normalised; None: nothing was.
        crop: the scene crop, normalised.
        kept: parts of the scene that the network was shown, normalised: the scene crop, or all strips beside the box.
        seen: part of the scene that the attention's regions cover, normalised; it can reach beyond the scene.
        answers: one answer per category.
        popularity: weight of the popularity in the ranks; 0: it does not count.
    """

    photo: Image.Image
    box: Box | None
    crop: Box
    kept: Sequence[Box]
    seen: Box
    answers: Sequence[Answer]
    popularity: float = 0.0


class Prepared(NamedTuple):
    """A photo that is ready for the network, and what is asked of it.

    Attributes:
        picture: picture of the scene, as in `Look`.
        seen: part of the scene that the attention's regions cover, as in `Look`.
        shown: what the network is shown of it.
        box: box that is cut away, normalised; None: nothing is.
        categories: names of n categories.
        k: number of products of each category.
    """

    picture: Image.Image
    seen: Box
    shown: Shown
    box: Box | None
    categories: Sequence[str]
    k: int


class Scene(NamedTuple):
    """What is to be completed, embedded.

    Attributes:
        prepared: the photo, and what is asked of it.
        queries: query q of each of the n categories that are asked for, (n, D).
        parts: name -> query of each category for a part of the distance, (n, D); see `Recommended.parts`.
        attention: attention of each category, as in `Answer`.
    """

    prepared: Prepared
    queries: NDArray[np.float32]
    parts: Mapping[str, NDArray[np.float32]]
    attention: Sequence[NDArray[np.float64] | None]


class Recommender:
    """Recommends products of a catalogue for photos.

    Examples:
        >>> recommender = Recommender.from_checkpoint("runs/...", "my_catalogue")
        >>> recommender.recommend("room.jpg", "Lamps", k=5)

    It can be used from several threads.

    Args:
        encoder: encoder of the checkpoint.
        catalogue: catalogue with vectors of that checkpoint.
        popularity: weight w of a rank by distance - w · log(1 + training pairs of the product); 0: by distance alone.

    Raises:
        InputError: a method whose distance has no one-query form; a popularity that cannot be counted, as in `favouring`.
    """

    def __init__(self, encoder: Encoder, catalogue: Catalogue, popularity: float = 0.0) -> None:
        self._network = require_query(encoder)
        self.encoder = encoder
        self.catalogue = favouring(catalogue, popularity, encoder.trained)
        self.popularity = popularity
        self.classifier: Classifier | None = encoder.trained.classifier

    @classmethod
    def from_checkpoint(
        cls,
        ckpt_path: Path | str,
        catalogue: Path | str,
        device: str = "cpu",
        url: str | None = None,
        popularity: float = 0.0,
        engine: EngineName = "torch",
    ) -> "Recommender":
        """Opens a checkpoint and a catalogue.

        Args:
            ckpt_path: checkpoint file, or its run directory.
            catalogue: folder of the catalogue.
            device: torch device, such as "cuda:0".
            url: address of the Qdrant server or PostgreSQL database, if it is another one than when the catalogue was made.
            popularity: weight of the popularity in the ranks; see `Recommender`.
            engine: what runs the backbone: "torch", or "onnx", which is faster on a CPU and opens some seconds later.

        Raises:
            InputError: unreadable checkpoint or catalogue; a catalogue of another checkpoint; a popularity that cannot be
                counted; an engine that cannot run this backbone.
        """
        folder = Path(catalogue).expanduser()
        encoder = Encoder(Path(ckpt_path).expanduser(), device, engine)
        require_query(encoder)
        return cls(encoder, open_catalogue(folder, encoder, url), popularity)

    @classmethod
    def of(cls, options: Config) -> "Recommender":
        """Opens what the options `ckpt_path`, `catalogue`, `device`, `popularity` and `engine` of a program name. Raises InputError."""
        where = options["catalogue"]
        check_options(where, {"dir": str, "url": str | None}, "catalogue.")
        return cls.from_checkpoint(
            str(options["ckpt_path"]),
            where["dir"],
            options["device"],
            where["url"],
            options["popularity"],
            options["engine"],
        )

    @property
    def categories(self) -> list[str]:
        """Names of the categories that have products, in the checkpoint's order."""
        return [name for name in self.encoder.categories if name in self.catalogue.counts]

    def recommend(self, photo: Photo, category: str, k: int = 10, box: Box | None = None) -> Sequence[Recommended]:
        """The k products of a category that complete a photo best.

        Args:
            photo: image file, or a picture that is open already.
            category: name of the category, or the last part of it.
            k: number of products, at least 1; fewer are found if the category has fewer.
            box: box to cut away as in training, because its product is to be replaced; normalised (left, top, right,
                bottom). None: nothing is cut away.

        Raises:
            InputError: an unreadable picture, an unknown category or one without products, a box that is no box or leaves nothing.
        """
        return self.look(photo, [category], k, box).answers[0].products

    def look(self, photo: Photo, categories: Sequence[str] | None = None, k: int = 3, box: Box | None = None) -> Look:
        """The k best products of each category; `categories` None: of all that have products. Otherwise as `recommend`."""
        (found,) = self.looks([photo], categories, k, box)
        if isinstance(found, InputError):
            raise found
        return found

    def looks(
        self, photos: Sequence[Photo], categories: Sequence[str] | None = None, k: int = 3, box: Box | None = None
    ) -> list[Look | InputError]:
        """`look` at several photos, which are searched for together; of a photo that cannot be read, the error.

        All of them are held in memory at once.

        Raises:
            InputError: as `look`, but for unreadable pictures.
        """
        categories = self._check(categories, k, box)  # what is wrong with all of them is told once
        prepared: list[Prepared | InputError] = []
        for photo in photos:
            try:
                prepared.append(self.prepare(photo, categories, k, box))
            except InputError as error:
                prepared.append(error)
        scenes = [self.embed([one])[0] for one in prepared if not isinstance(one, InputError)]
        looks = iter(self.search(scenes))
        return [one if isinstance(one, InputError) else next(looks) for one in prepared]

    def prepare(self, photo: Photo, categories: Sequence[str] | None, k: int, box: Box | None) -> Prepared:
        """Makes a photo ready for `embed`: decodes and cuts it, without the network. Arguments and errors as of `look`."""
        names = self._check(categories, k, box)
        crop = self.encoder.crop(box)
        picture = self.encoder.picture(photo, crop)
        return Prepared(
            picture, self.encoder.seen(*picture.size, crop), self.encoder.shown(picture, box), box, names, k
        )

    def embed(self, prepared: Sequence[Prepared]) -> list[Scene]:
        """Embeds n > 0 photos in one backbone pass; equal to n passes but for rounding."""
        features = self.encoder.features([one.shown for one in prepared])
        rows = [Features(*(part[row : row + 1] for part in features)) for row in range(len(prepared))]
        return [self._scene(one, row) for one, row in zip(prepared, rows, strict=True)]

    def _check(self, categories: Sequence[str] | None, k: int, box: Box | None) -> list[str]:
        """The whole names of the categories. Raises InputError: as `look`, but for the picture."""
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k={k}: give a whole number above 0")
        if categories is not None and not categories:
            raise InputError("category=[]: name at least one, or leave it out for all")
        if categories is None or any(self.encoder.category(name) not in self.catalogue.counts for name in categories):
            with self.catalogue.snapshot():
                pass  # counts are of the last time that anything was read, and a category may have come since
        names = self.categories if categories is None else [self._with_products(name) for name in categories]
        self.encoder.crop(box)
        return names

    def _scene(self, prepared: Prepared, features: Features) -> Scene:
        style = self.encoder.style(features, prepared.categories)
        with torch.inference_mode():
            query, parts = self._network.query(style), self._network.queries(style)
        assert query is not None
        of_parts = {name: _array(part) for name, part in parts.items()}
        return Scene(prepared, _array(query), of_parts, self._attention(style))

    def search(self, scenes: Sequence[Scene]) -> list[Look]:
        """Completes scenes as `look` does: searches for all of them in one state of the catalogue, those that ask for the same of a category together."""
        wanted: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for number, scene in enumerate(scenes):
            for row, name in enumerate(scene.prepared.categories):
                wanted.setdefault((name, scene.prepared.k), []).append((number, row))
        hits: dict[tuple[int, int], Sequence[Hit]] = {}
        with self.catalogue.snapshot() as catalogue:
            counts = catalogue.counts
            for (name, k), places in wanted.items():
                queries = np.stack([scenes[number].queries[row] for number, row in places])
                # A category can have lost its last product since the photo was prepared.
                found = catalogue.search(queries, name, k) if name in counts else [[] for _ in places]
                hits |= dict(zip(places, found, strict=True))
        return [
            self._look(scene, [hits[number, row] for row in range(len(scene.queries))], counts)
            for number, scene in enumerate(scenes)
        ]

    def _look(self, scene: Scene, hits: Sequence[Sequence[Hit]], counts: Mapping[str, int]) -> Look:
        prepared, found = scene.prepared, self._recommended(hits, scene.parts)
        answers = [
            Answer(name, found[row], scene.attention[row], counts.get(name, 0))
            for row, name in enumerate(prepared.categories)
        ]
        crop, kept = self.encoder.crop(prepared.box), self.encoder.kept(prepared.box)
        return Look(prepared.picture, prepared.box, crop, kept, prepared.seen, answers, self.popularity)

    def _with_products(self, name: str) -> str:
        category = self.encoder.category(name)
        if category not in self.catalogue.counts:
            raise InputError(f"category={name}: the catalogue has no product of it; it has {listed(self.categories)}")
        return category

    def _recommended(
        self, hits: Sequence[Sequence[Hit]], queries: Mapping[str, NDArray[np.float32]]
    ) -> list[list[Recommended]]:
        """What was found in each of n categories, for the queries (n, D) of each part of the distance."""
        every = [(row, rank, hit) for row, some in enumerate(hits) for rank, hit in enumerate(some, start=1)]
        if not every:
            return [[] for _ in hits]
        rows, vectors = [row for row, _, _ in every], np.array([hit.vector for _, _, hit in every])
        parts = {name: (2 - (vectors * query[rows]).sum(1)).tolist() for name, query in queries.items()}
        chances: list[float | None] = [None] * len(every)
        if self.classifier is not None:
            chances = self.classifier.probability(np.array([hit.distance for _, _, hit in every])).tolist()
        found: list[list[Recommended]] = [[] for _ in hits]
        for place, (row, rank, hit) in enumerate(every):
            of_hit = {name: part[place] for name, part in parts.items()}
            found[row].append(
                Recommended(rank, hit.product, hit.image, hit.distance, of_hit, chances[place], hit.bonus)
            )
        return found

    def _attention(self, style: SceneStyle) -> Sequence[NDArray[np.float64] | None]:
        """The attention of each of n categories, (grid, grid)."""
        count, regions = style.attention.shape
        if not self._network.attends:
            return [None] * count
        grid = math.isqrt(regions)
        return list(style.attention.double().cpu().numpy().reshape(count, grid, grid))


def _array(vectors: Tensor) -> NDArray[np.float32]:
    return vectors.float().cpu().numpy()
