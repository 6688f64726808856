"""The method `bpr_dae`: BPR-DAE, visual part only (Song et al. 2017, NeuroStylist: Neural Compatibility Modeling for
Clothing Matching).
"""

import torch
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.network import SceneStyle, require_positive
from ctl_lightning.models.components.pooled_network import PooledNetwork


class AutoEncoder(nn.Module):
    """Encodes a feature and decodes it again: one sigmoid layer, then one linear layer (section 3.3).

    Args:
        features: width F of the backbone feature.
        dim: width D of the code.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, dim)
        self.decoder = nn.Linear(dim, features)

    def code(self, feature: Tensor) -> Tensor:
        """Features (B, F) -> codes (B, D), each number between 0 and 1."""
        return torch.sigmoid(self.encoder(feature))

    def error(self, feature: Tensor) -> Tensor:
        """½ |v - v̂|² of each feature v, (B, F) -> (B,).

        The target v has no gradient: it would teach a tuned backbone to give flat features.
        """
        return 0.5 * (self.decoder(self.code(feature)) - feature.detach()).square().sum(-1)


class DualAutoEncoder(PooledNetwork):
    """Two auto-encoders, one for scenes and one for products; the compatibility is the inner product of their codes.

    d = -h_s·h_p, where smaller is better, as everywhere here. It is trained with `BPRLoss`, which adds γ times the
    penalty (`loss=bpr`, loss.reconstruction). Differences from the paper: the text of products and the loss term that
    ties text to picture are left out (this data has no text); the decoder is linear, since the features of today's
    backbones are not between 0 and 1; Adam instead of stochastic gradient descent; features are scaled to a mean square
    of 1, so that γ means the same for every backbone.

    Args:
        backbone: image network, frozen or tuned.
        categories: number of categories; this method does not use it.
        dim: width D of the codes.
    """

    losses = ("bpr", "triplet", "logistic")  # not contrastive, which needs a distance that is a length

    def __init__(self, backbone: Backbone, categories: int, *, dim: int) -> None:
        require_positive(dim=dim)
        super().__init__(backbone)
        self.scenes = AutoEncoder(backbone.pooled_features, dim)
        self.products = AutoEncoder(backbone.pooled_features, dim)

    def scene_vector(self, pooled: Tensor) -> Tensor:
        """Pooled features of scene crops (B, F) -> codes h_s (B, D)."""
        return self.scenes.code(_scaled(pooled))

    def product_vector(self, pooled: Tensor) -> Tensor:
        """Pooled features of products (B, F) -> codes h_p (B, D)."""
        return self.products.code(_scaled(pooled))

    def penalty(self, scene: Tensor, products: Tensor) -> Tensor:
        """Mean reconstruction error of scenes + that of products, divided by the width F: a scalar."""
        error = self.scenes.error(_scaled(scene)).mean() + self.products.error(_scaled(products)).mean()
        return error / scene.shape[1]

    def distance(self, style: SceneStyle, product: Tensor) -> Tensor:
        """Distance of each scene to its own product, products (B, D) -> (B,)."""
        return -(style.scene * product).sum(-1)

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Distance of every scene to every product, products (M, D) -> (B, M)."""
        return -style.scene @ products.T


def _scaled(feature: Tensor) -> Tensor:
    return feature / feature.square().mean(-1, keepdim=True).clamp_min(1e-12).sqrt()
