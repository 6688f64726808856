"""Finds the products of each category that complete a photo, and says why: distances, their parts, and the attention."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ctl_lightning.data.pairs import Box
from ctl_lightning.metrics.classification import Classifier
from ctl_lightning.models.components.network import Network, SceneStyle
from ctl_lightning.runtime.config import Config, check_options
from ctl_lightning.runtime.errors import InputError, listed
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import BackendName, Catalogue, Hit, Manifest, check_identity
from ctl_lightning.serving.catalogue.hnsw import GraphCatalogue
from ctl_lightning.serving.catalogue.popularity import favouring
from ctl_lightning.serving.catalogue.qdrant import QdrantCatalogue
from ctl_lightning.serving.encoder import Encoder, Photo
from ctl_lightning.serving.engines import EngineName

BACKENDS: dict[BackendName, type[ExactCatalogue] | type[QdrantCatalogue]] = {
    "exact": ExactCatalogue,
    "faiss": GraphCatalogue,
    "qdrant": QdrantCatalogue,
}


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


class _Scene(NamedTuple):
    """What is to be completed.

    Attributes:
        picture: picture of the scene, as in `Look`.
        queries: query q of each of n categories, (n, D).
        parts: name -> query of each category for a part of the distance, (n, D); see `Recommended.parts`.
        attention: attention of each category, as in `Answer`.
    """

    picture: Image.Image
    queries: NDArray[np.float32]
    parts: Mapping[str, NDArray[np.float32]]
    attention: Sequence[NDArray[np.float64] | None]


class Recommender:
    """Recommends products of a catalogue for photos.

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
            url: address of the Qdrant server, if it has moved since the catalogue was made.
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
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k={k}: give a whole number above 0")
        if categories is not None and not categories:
            raise InputError("category=[]: name at least one, or leave it out for all")
        names = self.categories if categories is None else [self._with_products(name) for name in categories]
        crop = self.encoder.crop(box)
        scenes = [self._scene(photo, box, names) for photo in photos]
        read = [scene for scene in scenes if isinstance(scene, _Scene)]
        hits = [
            self.catalogue.search(np.stack([scene.queries[row] for scene in read]), name, k)
            for row, name in enumerate(names)
            if read
        ]
        of_scene = iter(zip(*hits, strict=True))  # the hits of each category, scene by scene
        looks: list[Look | InputError] = []
        for scene in scenes:
            if isinstance(scene, InputError):
                looks.append(scene)
                continue
            seen = self.encoder.seen(*scene.picture.size, crop)
            answers = self._answers(scene, names, next(of_scene))
            looks.append(Look(scene.picture, box, crop, self.encoder.kept(box), seen, answers, self.popularity))
        return looks

    def _scene(self, photo: Photo, box: Box | None, categories: Sequence[str]) -> "_Scene | InputError":
        try:
            picture = self.encoder.picture(photo, self.encoder.crop(box))
        except InputError as error:
            return error
        style = self.encoder.scene(picture, box, categories)
        with torch.inference_mode():
            query, parts = self._network.query(style), self._network.queries(style)
        assert query is not None
        return _Scene(
            picture, _array(query), {name: _array(part) for name, part in parts.items()}, self._attention(style)
        )

    def _answers(self, scene: "_Scene", names: Sequence[str], hits: Sequence[Sequence[Hit]]) -> list[Answer]:
        found, counts = self._recommended(hits, scene.parts), self.catalogue.counts
        return [Answer(name, found[row], scene.attention[row], counts[name]) for row, name in enumerate(names)]

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


def open_catalogue(folder: Path, encoder: Encoder, url: str | None) -> Catalogue:
    """Opens a catalogue of an encoder's vectors.

    Args:
        folder: folder of the catalogue.
        encoder: encoder of the checkpoint.
        url: address of the Qdrant server, if it has moved since the catalogue was made.

    Raises:
        InputError: there is no catalogue, it is broken, or of another checkpoint.
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        raise InputError(
            f"catalogue={folder}: there is no catalogue; make one with python -m ctl_lightning.catalogue "
            f"ckpt_path={encoder.trained.path} catalogue={folder}"
        )
    check_identity(folder, manifest, encoder.identity())
    if url is not None and manifest.backend != "qdrant":
        raise InputError(f"catalogue.url={url}: catalogue={folder} is not in Qdrant; leave it out")
    try:
        where = manifest.qdrant | {"url": url} if url is not None else manifest.qdrant
        return BACKENDS[manifest.backend](folder, replace(manifest, qdrant=where))
    except InputError:
        if Manifest.read(folder) == manifest:
            raise
        return open_catalogue(folder, encoder, url)  # it was replaced while it was opened


def require_query(encoder: Encoder) -> Network:
    """The encoder's network. Raises InputError: its distance is not 2 - q·f_p of one vector q per scene and category."""
    if not encoder.network.has_query():
        plain = " with plain distances" if encoder.trained.options.get("squared") is False else ""
        raise InputError(
            f"ckpt_path={encoder.trained.path}: {encoder.trained.method}{plain} has no distance of the form 2 - query · vector, "
            "which a catalogue is searched by; give a checkpoint of hybrid, global or local with model.squared=true, or of imagenet"
        )
    return encoder.network


def _array(vectors: Tensor) -> NDArray[np.float32]:
    return vectors.float().cpu().numpy()
