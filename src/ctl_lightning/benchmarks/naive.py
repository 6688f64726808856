"""The usual way to train this model, as a reference to be faster than: four backbone passes a score, region by region.

It computes the same distances as `StyleNetwork` with the same weights; a test says so.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ctl_lightning.models.components.style_network import StyleNetwork
from ctl_lightning.training.module import CompleteTheLook


class NaiveScore(nn.Module):
    """d_hybrid of float pictures; the backbone runs for v_s, v_p, the regions of the scene, and v_p again."""

    def __init__(self, network: StyleNetwork) -> None:
        super().__init__()
        network = copy.deepcopy(network)
        self.network = network
        # Without the channels-last memory format, as most code leaves it.
        self.backbone = network.backbone.network.to(memory_format=torch.contiguous_format)
        self.frozen = network.backbone.frozen

    def train(self, mode: bool = True) -> "NaiveScore":
        """A frozen backbone stays in eval mode."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def forward(self, scene: Tensor, product: Tensor, category: Tensor) -> Tensor:
        """Normalised pictures (B, 3, S, S), category indices (B,) -> distances (B,)."""
        heads = self.network
        f_s = heads.pooled_head(self._pooled(scene), "scene")
        f_p = heads.pooled_head(self._pooled(product), "product")
        d_global = (f_s - f_p).square().sum(1)

        regions = self._regions(scene)
        f_p = heads.pooled_head(self._pooled(product), "product")
        e_c = heads.category_embedding(category)
        # In training the heads normalise over a batch: all regions at once, as in any implementation.
        f_i, k_i = heads.region_head(regions, "scene"), heads.key_head(regions, "scene")
        affinities, distances = [], []
        for i in range(regions.shape[1]):
            affinities.append(-(k_i[:, i] - e_c).square().sum(1))
            distances.append((f_i[:, i] - f_p).square().sum(1))
        a_i = torch.softmax(torch.stack(affinities, 1), 1)
        d_local = sum(a_i[:, i] * distance for i, distance in enumerate(distances))
        return (d_global + d_local) / 2

    def _pooled(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.backbone(images)["pooled"]
        return pooled.mean((2, 3)) if pooled.ndim == 4 else pooled

    def _regions(self, images: Tensor) -> Tensor:
        regions: Tensor = self.network.backbone.to_grid(self.backbone(images)["regions"])
        return regions.flatten(2).transpose(1, 2)


class NaiveStep:
    """A training step of triplets of float pictures: two scores, so eight backbone passes."""

    def __init__(
        self,
        module: CompleteTheLook,
        margin: float,
        device: torch.device,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        assert isinstance(module.network, StyleNetwork)
        self.score = NaiveScore(module.network).to(device).train()
        self._margin, self._device, self._precision = margin, device, precision
        learned = [parameter for parameter in self.score.parameters() if parameter.requires_grad]
        self._optimiser = Adam(learned, module.hparams["learning_rate"])

    def __call__(self, scene: Tensor, positive: Tensor, negative: Tensor, category: Tensor) -> float:
        """Returns the loss, which most code reads in each step."""
        scene, positive, negative, category = (part.to(self._device) for part in (scene, positive, negative, category))
        self._optimiser.zero_grad()
        with self._precision():
            near, far = self.score(scene, positive, category), self.score(scene, negative, category)
            loss = (near - far + self._margin).clamp_min(0).mean()
        loss.backward()
        self._optimiser.step()
        return float(loss.item())
