"""How the attention and the three distances are computed (Kang et al. 2019, equations 2 to 6), region by region and in one-query form.

Formulas alone: what a method learns, and the distance of any other method, is in the method's own file.

Shapes: B scenes, R regions, D dimensions of the style space, M products. All embeddings are unit vectors.
"""

from typing import Literal

import torch
from torch import Tensor

DistanceName = Literal["global", "local", "hybrid"]


def pair_distance(a: Tensor, b: Tensor, squared: bool) -> Tensor:
    """Euclidean distance along the last dimension, (..., D) and (..., D) -> (...); squared as in the paper, or not."""
    square = (a - b).square().sum(-1)
    return square if squared else square.clamp_min(1e-12).sqrt()  # the root has no gradient at 0


def attention_weights(keys: Tensor, category: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Category-guided attention, a_i = softmax_i(-|k_i - e_c|² / t), where |k_i - e_c|² = 2 - 2 k_i·e_c.

    With t = 1 it is the paper's (equation 4), whose odds are at most e⁴ : 1, as the distances are between 0 and 4.

    Args:
        keys: attention keys k, one unit vector per region, (B, R, D), or (1, R, D) of one scene for all categories.
        category: embedding e_c of each product's category, unit vectors, (B, D).
        temperature: temperature t, above 0; smaller ones give sharper weights.

    Returns:
        Weights over the regions of each scene, (B, R); each row sums to 1.
    """
    return torch.softmax(2 * torch.einsum("brd,bd->br", keys, category) / temperature, dim=1)


def global_distance(scene: Tensor, product: Tensor, squared: bool = True) -> Tensor:
    """d_global = |f_s - f_p|² (equation 2): (B, D), (B, D) -> (B,)."""
    return pair_distance(scene, product, squared)


def local_distance(regions: Tensor, attention: Tensor, product: Tensor, squared: bool = True) -> Tensor:
    """d_local = Σ_i a_i |f_i - f_p|² (equation 3): (B, R, D), (B, R), (B, D) -> (B,)."""
    return (attention * pair_distance(regions, product[:, None], squared)).sum(1)


def hybrid_distance(scene: Tensor, regions: Tensor, attention: Tensor, product: Tensor, squared: bool = True) -> Tensor:
    """d_hybrid = ½ (d_global + d_local) (equation 5): (B, D), (B, R, D), (B, R), (B, D) -> (B,)."""
    return (global_distance(scene, product, squared) + local_distance(regions, attention, product, squared)) / 2


def query(method: DistanceName, scene: Tensor, regions: Tensor, attention: Tensor) -> Tensor:
    """One vector q per (scene, category) with d(s, p) = 2 - q·p for every product p, if distances are squared.

    This holds because embeddings are unit vectors and the weights sum to 1: |f - p|² = 2 - 2 f·p.

    Args:
        method: name of the distance: "global", "local" or "hybrid".
        scene: style embeddings f_s of the scenes, (B, D).
        regions: style embeddings f_i of their regions, (B, R, D).
        attention: attention weights a_i of the regions, (B, R).

    Returns:
        Vectors q, (B, D); they are not unit vectors.
    """
    if method == "global":
        return 2 * scene
    attended = torch.einsum("br,brd->bd", attention, regions)
    return 2 * attended if method == "local" else scene + attended


def query_distance(query: Tensor, products: Tensor) -> Tensor:
    """d = 2 - q·p for all queries and products, (B, D), (M, D) -> (B, M)."""
    return 2 - query @ products.T


def plain_distance(method: DistanceName, scene: Tensor, regions: Tensor, attention: Tensor, products: Tensor) -> Tensor:
    """Plain Euclidean distances, which have no one-query form, of all scenes to all products.

    Args:
        method: name of the distance: "global", "local" or "hybrid".
        scene: style embeddings f_s of the scenes, (B, D).
        regions: style embeddings f_i of their regions, (B, R, D).
        attention: attention weights a_i of the regions, (B, R).
        products: style embeddings f_p of the products, (M, D).

    Returns:
        Distances, (B, M).
    """
    if method == "global":
        return _euclidean(scene, products)
    # Scene by scene: all (B, R, M) at once would take gigabytes.
    rows = zip(attention, regions, strict=True)
    local = torch.stack([weights @ _euclidean(vectors, products) for weights, vectors in rows])
    return local if method == "local" else (_euclidean(scene, products) + local) / 2


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    # Without a matrix product, which would lose the distance of near vectors to cancellation.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
