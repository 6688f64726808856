"""A frozen backbone's features in place of pictures: of the store's squares, and of the parts of scenes that no store has."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ctl_lightning.data.crop import LEAST
from ctl_lightning.data.images import STEP
from ctl_lightning.data.store.features import FeaturePlan, FeatureViews, open_features
from ctl_lightning.data.store.scene_pictures import Cut, ScenePart, ScenePictures, Strip


class CachedInputs:
    """Features from the cache; what it does not have is computed.

    Args:
        plan: what the file with the features of squares has to hold.
        pictures: function, (keys, views) -> centre and random views of each square, uint8 (B · (1 + views), 3, S, S).
        encode: function, pictures uint8 (B, 3, S, S) -> pooled (B, F) and regions (B, R, C).
        encode_strips: function, the strips of B scenes -> the means of their pooled vectors, weighted by area, (B, F).
        cut: how parts of scenes are cut and resized.
        cache_dir: folder in which features are kept.
        batch_size: number of pictures encoded at a time.
        num_workers: number of processes that read pictures.
        seed: random seed of the run.

    Attributes:
        squares: features of scene crops and products.
        parts: "strips", "box" or "whole" -> features of that part of each scene, by its key.

    Raises:
        InputError: no room on the disk; numbers too large for the type.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        pictures: Callable[[Sequence[str], int], Tensor],
        encode: Callable[[Tensor], tuple[Tensor, Tensor]],
        encode_strips: Callable[[Sequence[Sequence[Strip]]], Tensor],
        cut: Cut,
        cache_dir: Path,
        batch_size: int,
        num_workers: int,
        seed: int,
    ) -> None:
        self._plan = plan
        self._encode = encode
        self._encode_strips = encode_strips
        self._cut = cut
        self._where = cache_dir, batch_size, num_workers, seed
        self.squares = open_features(plan, cache_dir, pictures, encode, batch_size, num_workers, seed)
        self.parts: dict[str, FeatureViews] = {}

    def add(self, part: str, scenes: Mapping[str, ScenePart]) -> FeatureViews:
        """Opens the features of a part of scenes, by their keys; "whole" is a scene without a box."""
        pictures = ScenePictures(scenes, self._cut)
        how = "box" if part == "box" else f"{part}, {LEAST} at least, in steps of {STEP}"
        plan = self._plan._replace(crops=[], products=sorted(scenes), views=0, part=how)
        cache_dir, *options = self._where
        if part == "box":
            found = open_features(plan, cache_dir, pictures.boxes, self._encode, *options)
        else:
            found = open_features(plan, cache_dir, pictures.strips, self._of_strips, *options)
        self.parts[part] = found
        return found

    def _of_strips(self, scenes: Sequence[Sequence[Strip]]) -> tuple[Tensor, Tensor]:
        pooled = self._encode_strips(scenes)
        return pooled, pooled.new_empty(len(pooled), 0, 0)
