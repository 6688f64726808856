"""Every baseline against its paper's equation written out: distances, losses, gradients."""

import math

import numpy as np
import pytest
import torch
from factories import pictures, small, task
from torch import Tensor
from torch.nn import functional as F

from ctl_lightning.metrics.pair_metrics import score_pairs, summarise
from ctl_lightning.metrics.ranking import FixedRanking
from ctl_lightning.models.bpr_dae import DualAutoEncoder
from ctl_lightning.models.components.losses import BPRLoss, ContrastiveLoss, LogisticLoss
from ctl_lightning.models.components.pooled_network import PooledNetwork
from ctl_lightning.models.ibr import LowRankMahalanobis
from ctl_lightning.models.imagenet import RawFeatures
from ctl_lightning.models.popularity import Popularity
from ctl_lightning.models.siamese import Siamese

NETWORKS = ("imagenet", "siamese", "ibr", "bpr_dae")


def network(name: str) -> PooledNetwork:
    backbone = small()
    if name == "imagenet":
        return RawFeatures(backbone, 3).eval()
    kind = {"siamese": Siamese, "ibr": LowRankMahalanobis, "bpr_dae": DualAutoEncoder}[name]
    return kind(backbone, 3, dim=5).eval()  # type: ignore[abstract]


def by_hand(net: PooledNetwork, scene: Tensor, product: Tensor) -> float:
    """The distance of one pooled feature (F,) to another, from the papers' equations."""
    if isinstance(net, Siamese):
        return float(((net.embedding(scene) - net.embedding(product)) ** 2).sum())
    if isinstance(net, LowRankMahalanobis):
        e = net.transform.weight.T  # (F, D)
        difference = (scene - product)[None]
        return float(difference @ (e @ e.T) @ difference.T)
    if isinstance(net, DualAutoEncoder):
        codes = []
        for encoder, feature in ((net.scenes.encoder, scene), (net.products.encoder, product)):
            scaled = feature * math.sqrt(len(feature)) / feature.norm()
            codes.append(
                [1 / (1 + math.exp(-float(w @ scaled + b))) for w, b in zip(encoder.weight, encoder.bias, strict=True)]
            )
        return -sum(a * b for a, b in zip(*codes, strict=True))
    return float(((F.normalize(scene, dim=0) - F.normalize(product, dim=0)) ** 2).sum())


@pytest.mark.parametrize("name", NETWORKS)
def test_distances_are_the_papers_equations(name: str) -> None:
    net, scenes, products = network(name), pictures(2), pictures(3, 1)
    with torch.no_grad():
        style = net.embed_scene(scenes, torch.tensor([0, 1]))
        vectors = net.embed_product(products)
        table = net.distances(style, vectors)
        features = [net.backbone(images).pooled for images in (scenes, products)]
        for row in range(2):
            for column in range(3):
                expected = by_hand(net, features[0][row], features[1][column])
                assert float(table[row, column]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(net.distance(style, vectors[:2]), table.diagonal(), rtol=1e-4, atol=1e-5)
    assert style.attention.shape == (2, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_batch_is_embedded_as_in_evaluation_from_pictures_and_from_features(name: str) -> None:
    net, category = network(name), torch.tensor([0, 1])
    images = [pictures(2, seed) for seed in range(3)]
    with torch.no_grad():
        style, products, penalty = net(images[0], images[1:], category)
        features = [(net.backbone(one).pooled, torch.empty(2, 0, 96)) for one in images]
        same, of_features, cost = net(features[0], features[1:], category)
        torch.testing.assert_close(style.scene, net.embed_scene(images[0], category).scene)
        torch.testing.assert_close(same.scene, style.scene)
        for ours, theirs, one in zip(products, of_features, images[1:], strict=True):
            torch.testing.assert_close(ours, net.embed_product(one))
            torch.testing.assert_close(ours, theirs)
        alone = net.embed_scene(images[0][:1], torch.tensor([0, 1, 1]))  # one scene for all categories
        torch.testing.assert_close(alone.scene, style.scene[:1].expand(3, -1))
        assert (alone.regions.shape[:2], alone.attention.shape) == ((3, 0), (3, 0))
    torch.testing.assert_close(penalty, cost)
    assert (float(penalty) > 0) == (name == "bpr_dae")


def test_the_reconstruction_error_is_a_slow_loops() -> None:
    net = network("bpr_dae").requires_grad_(False)
    assert isinstance(net, DualAutoEncoder)
    generator = torch.Generator().manual_seed(0)
    scene, products = torch.rand(3, 128, generator=generator), torch.rand(6, 128, generator=generator)
    expected = 0.0
    for encoder, features in ((net.scenes, scene), (net.products, products)):
        errors = []
        for feature in features:
            scaled = feature * math.sqrt(128) / feature.norm()
            code = torch.sigmoid(encoder.encoder.weight @ scaled + encoder.encoder.bias)
            again = encoder.decoder.weight @ code + encoder.decoder.bias
            errors.append(sum(0.5 * float(a - b) ** 2 for a, b in zip(again, scaled, strict=True)) / 128)
        expected += sum(errors) / len(errors)
    assert float(net.penalty(scene, products)) == pytest.approx(expected, rel=1e-4)


def test_every_weight_of_an_auto_encoder_learns_and_the_target_does_not_move() -> None:
    net = network("bpr_dae").train()
    feature = torch.rand(4, 128, requires_grad=True)
    assert isinstance(net, DualAutoEncoder)
    net.scenes.error(feature).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in net.scenes.parameters())
    through_code = torch.rand(4, 128, requires_grad=True)
    with torch.no_grad():
        through_code.copy_(feature)
    target = feature.detach()
    (0.5 * (net.scenes.decoder(net.scenes.code(through_code)) - target).square().sum()).backward()
    torch.testing.assert_close(feature.grad, through_code.grad)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow(name: str, near: list[float], far: list[float]) -> float:
    total = 0.0
    for d, e in zip(near, far, strict=True):
        if name == "contrastive":
            total += d + max(0.0, 1.5 - math.sqrt(e)) ** 2
        elif name == "logistic":
            total += -math.log(sigma(0.7 - d)) - math.log(1 - sigma(0.7 - e))
        else:
            total += -math.log(sigma(e - d))
    return total / len(near)


def fast(name: str, near: Tensor, far: Tensor) -> Tensor:
    losses = {"contrastive": ContrastiveLoss(1.5), "logistic": LogisticLoss(0.7), "bpr": BPRLoss(0.1)}
    # From the number, not from its single precision.
    losses["logistic"].shift = torch.nn.Parameter(torch.tensor(0.7, dtype=near.dtype))
    value: Tensor = losses[name](near, far)
    return value


@pytest.mark.parametrize("name", ["contrastive", "logistic", "bpr"])
def test_losses_are_a_slow_loops_with_the_gradients_of_differences(name: str) -> None:
    random = np.random.default_rng(0)
    values = [random.uniform(0.01, 4, 9).tolist() for _ in range(2)]
    near, far = (torch.tensor(value, dtype=torch.double, requires_grad=True) for value in values)
    assert float(fast(name, near, far).detach()) == pytest.approx(slow(name, *values), rel=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: fast(name, a, b), (near, far))


def test_closed_forms() -> None:
    def at(name: str, near: float, far: float) -> float:
        return float(fast(name, torch.tensor([near]), torch.tensor([far])).detach())

    assert at("bpr", 1.0, 1.0) == pytest.approx(math.log(2))  # a tie is a coin
    assert at("bpr", -50.0, 50.0) == pytest.approx(0, abs=1e-6)
    assert at("bpr", 50.0, -50.0) == pytest.approx(100)  # linear, without overflow
    assert at("logistic", 0.7, 0.7) == pytest.approx(2 * math.log(2))
    assert at("logistic", 100.0, 100.0) == pytest.approx(99.3, rel=1e-4)
    assert at("contrastive", 0.0, 1.5**2) == 0
    assert at("contrastive", 0.25, 0.25) == pytest.approx(0.25 + 1.0)


def test_the_contrastive_loss_has_a_gradient_where_both_pictures_are_equal() -> None:
    far = torch.zeros(2, requires_grad=True)
    ContrastiveLoss(1.0)(torch.zeros(2), far).backward()
    assert far.grad is not None
    assert torch.isfinite(far.grad).all()


def test_the_shift_is_where_both_answers_are_equally_likely_and_is_learned() -> None:
    loss = LogisticLoss(0.1)
    optimiser = torch.optim.SGD(loss.parameters(), 0.5)
    near, far = torch.full((50,), 1.0), torch.full((50,), 3.0)
    for _ in range(500):
        optimiser.zero_grad()
        loss(near, far).backward()
        optimiser.step()
    assert float(loss.shift) == pytest.approx(2.0, abs=1e-3)  # half way: σ(c - 1) = 1 - σ(c - 3)


def test_popularity_is_the_share_of_the_categorys_training_pairs_and_its_lift_is_exactly_0() -> None:
    given = task()
    prior = Popularity(None, len(given.categories)).prior(given.train_count, given.product_category)
    ranking = FixedRanking(prior, len(given.queries))
    table = ranking.distances(np.array([0, 1]), np.arange(40))
    for product in range(40):
        others = given.product_category == given.product_category[product]
        share = given.train_count[product] / given.train_count[others].sum()
        assert table[0, product] == table[1, product] == pytest.approx(-share)
    found = summarise(given, score_pairs(given, ranking.distances))["all"]
    assert found["lift"] == found["lift_geometry"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert ranking.attention().shape == (len(given.queries), 0)
