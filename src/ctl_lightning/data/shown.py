"""What is shown of the prepared data: pictures, or a frozen backbone's features of them. No batches yet."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ctl_lightning.data.cached_inputs import CachedInputs
from ctl_lightning.data.crop import crop_key
from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.data.images import ImageItem
from ctl_lightning.data.pairs import NO_BOX, Box
from ctl_lightning.data.prepared import PreparedData
from ctl_lightning.data.scene_inputs import CONTROLS, UNSTORED, GeometryViews, SceneInput, pooled_blocks
from ctl_lightning.data.store.features import FeaturePlan, FeatureType
from ctl_lightning.data.store.scene_pictures import Cut, ScenePart, Strip
from ctl_lightning.data.store.views import Augment, PictureViews, Views
from ctl_lightning.data.triplets import EvaluationImages
from ctl_lightning.runtime.errors import InputError


class ShownData(PreparedData):
    """Prepared data as a network is shown them. `TripletDataModule` sets the attributes, and says what they mean."""

    image_size: int
    augment: Augment
    scene: SceneInput
    boxes: bool
    eval_batch_size: int
    num_workers: int
    seed: int
    _cached: CachedInputs | None = None
    _whole: Views | None = None

    @property
    def pictures(self) -> PictureViews:
        """The part of every stored picture that the backbone sees."""
        return PictureViews(self.store, self.image_size, self.augment, self.seed)

    @property
    def product_views(self) -> Views:
        """What is shown of products; of scenes, too, if it is their crops."""
        return self.pictures if self._cached is None else self._cached.squares

    @property
    def scene_views(self) -> Views:
        """What is shown of scenes, by the keys of their crops."""
        if self.scene == "geometry":
            return GeometryViews(self._boxes, self.margin)
        if self.scene == "crop":
            return self.product_views
        assert self._cached is not None  # training.options has seen to it
        return self._cached.parts[self.scene]

    @property
    def box_views(self) -> Views | None:
        """The features of boxes, by the keys of the scene crops; None: the box loss is not asked for."""
        return self._cached.parts["box"] if self._cached is not None and self.boxes else None

    @property
    def _boxes(self) -> dict[str, Box]:
        return {key: pair.box for key, pair in self.stored.items()}

    def feature_plan(self, backbone: Mapping[str, Any], views: int, dtype: FeatureType) -> FeaturePlan:
        """Says what a file with the features of all pictures of this data has to hold.

        All pictures: other folds, shares and rules for twins find the same features.

        Args:
            backbone: values that identify the backbone: name, hash of its weights, layers, grid.
            views: number of random views of each picture that training chooses from; 0: it uses the centres.
            dtype: type of the stored numbers, such as "float16".
        """
        crops = sorted(self._boxes) if self.scene == "crop" else []
        return FeaturePlan(self.store.content, self.image_size, backbone, crops, self.stored_products, views, dtype)

    def use_features(
        self,
        plan: FeaturePlan,
        encode: Callable[[Tensor], tuple[Tensor, Tensor]],
        encode_strips: Callable[[Sequence[Sequence[Strip]]], Tensor],
    ) -> Path:
        """From now on batches hold a frozen backbone's features, not pictures; computed now if the cache has none.

        Args:
            plan: return value of `feature_plan`.
            encode: function, pictures uint8 (B, 3, S, S) -> pooled (B, F) and regions (B, R, C).
            encode_strips: function, the strips of B scenes -> the means of their pooled vectors, weighted by area, (B, F).

        Returns:
            Path of the features file.

        Raises:
            InputError: no room on the disk; numbers too large for the type.
        """
        self._check_boxes()
        cut = Cut(self.margin, self.stored_size, self.image_size, self.aspect, self.interpolation)
        where = self.cache_dir, self.eval_batch_size, self.num_workers, self.seed
        self._cached = CachedInputs(plan, self.pictures.fixed, encode, encode_strips, cut, *where)
        shown = {
            key: ScenePart(self.source.image_path(self.root, pair.scene), pair.box) for key, pair in self.stored.items()
        }
        for part in sorted({self.scene, "box"} if self.boxes else {self.scene}):
            if part in UNSTORED:
                self._cached.add(part, shown)
        return self._cached.squares.path

    def _check_boxes(self) -> None:
        """Raises InputError: boxes are asked for, and a pair has none."""
        wanted = "data.boxes=true" if self.boxes else f"data.scene={self.scene}"
        if (self.boxes or self.scene in CONTROLS) and NO_BOX in self._boxes.values():
            raise InputError(
                f"{wanted}: some pairs of {self.root} have no box; give data.boxes=false and data.scene=strips or crop, or boxes to all"
            )

    def pooled_features(self) -> dict[str, Iterator[Tensor]]:
        """Cached pooled features in blocks, (B, F) each: "scenes", of those to train on, and "products", of all."""
        scenes = sorted({crop_key(pair.scene, pair.box) for pair in self.pairs["train"]})
        size = self.eval_batch_size
        return {
            "scenes": pooled_blocks(self.scene_views, scenes, size),
            "products": pooled_blocks(self.product_views, self.products, size),
        }

    @contextmanager
    def whole_scenes(self) -> Iterator[None]:
        """In this context a test query sees its whole scene, product included, in place of the scene crop: a control.

        What a method gains from the whole scene is look-alike search, not completing a look.
        """
        scenes = sorted({pair.scene for pair in self.pairs["test"]})
        paths = {scene: self.source.image_path(self.root, scene) for scene in scenes}
        if self.scene == "crop":
            items = [ImageItem(scene, path, None) for scene, path in paths.items()]
            self._whole = PictureViews(self.store_of(items, 0.0), self.image_size, "none", self.seed)
        else:
            assert self._cached is not None
            self._whole = self._cached.add("whole", {key: ScenePart(path, NO_BOX) for key, path in paths.items()})
        try:
            yield
        finally:
            self._whole = None

    @property
    def _shown(self) -> tuple[object, ...]:
        """What decides, beside the prepared data, what is shown: others mean other pictures or features."""
        return self._cached, self._whole

    def query_images(self, task: EvaluationSet) -> EvaluationImages:
        """The scene crops (in `whole_scenes` the scenes) of the queries of an evaluation set."""
        keys, categories = zip(*task.queries, strict=True)
        if self._whole is None:
            return EvaluationImages(keys, categories, self.scene_views)
        scene_of = {crop_key(pair.scene, pair.box): pair.scene for pair in task.pairs}
        return EvaluationImages([scene_of[key] for key in keys], categories, self._whole)

    def product_images(self, task: EvaluationSet) -> EvaluationImages:
        """The catalogue products of an evaluation set."""
        return EvaluationImages(task.products, task.product_category.tolist(), self.product_views)
