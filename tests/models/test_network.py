import math
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import backbone_of, pictures, small
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.distance import DistanceName
from ctl_lightning.models.components.heads import CategoryEmbedding, Head, Kind
from ctl_lightning.models.components.style_network import StyleNetwork, region_distance
from ctl_lightning.runtime.errors import InputError

METHODS: tuple[DistanceName, ...] = ("hybrid", "global", "local")


def network(method: DistanceName = "hybrid", **options: Any) -> StyleNetwork:
    defaults: dict[str, Any] = {"dim": 8, "hidden": 16, "dropout": 0.0, "attention": "category", "squared": True}
    return StyleNetwork(small(), 3, method, **defaults | options)


def triplet_distances(net: StyleNetwork, *batch: Tensor) -> tuple[Tensor, Tensor]:
    scene, positive, negative, category = batch
    style, (near, far), _ = net(scene, (positive, negative), category)
    return net.distance(style, near), net.distance(style, far)


def test_more_regions_than_the_layer_has_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"grid=7: pictures of 40 pixels have only 5 x 5 regions.*larger data.image_size"
    ):
        small()(pictures(2, size=40))


class CountPasses:
    """Counts pictures that go through a backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self.pictures = 0
        backbone.network.register_forward_pre_hook(self._count)

    def _count(self, _: Any, inputs: tuple[Tensor]) -> None:
        self.pictures += len(inputs[0])


@pytest.mark.parametrize(
    ("name", "pooled_layer", "region_layer", "pooled", "regions"),
    [
        ("small", "pooled", "regions", 128, 96),
        ("mobilenet_v2", "features.18", "features.14", 1280, 160),
        ("resnet50", "flatten", "layer3", 2048, 1024),
    ],
)
def test_features_have_the_documented_shapes(
    name: str, pooled_layer: str, region_layer: str, pooled: int, regions: int
) -> None:
    backbone = backbone_of(name, pooled_layer, region_layer, 7, frozen=True)
    features = backbone(pictures(2, size=224 if name != "small" else 56))
    assert features.pooled.shape == (2, pooled) == (2, backbone.pooled_features)
    assert features.regions.shape == (2, 49, regions)
    assert backbone.region_features == regions


def test_regions_go_row_by_row() -> None:
    backbone = small()
    features = backbone.eval()(pictures(2))
    maps = backbone.network((pictures(2).float() / 255 - backbone.mean) / backbone.std)["regions"]
    torch.testing.assert_close(features.regions[1, 7 * 2 + 5], maps[1, :, 2, 5], rtol=1e-4, atol=1e-5)


def test_preprocessing_is_torchvisions() -> None:
    from torchvision.transforms.functional import normalize

    backbone = small().eval()
    seen: list[Tensor] = []
    backbone.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = pictures(2)
    backbone(images)
    torch.testing.assert_close(seen[0], normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def test_no_region_of_the_small_network_sees_both_walls() -> None:
    backbone = small().eval()
    images = pictures(1).float().requires_grad_()
    regions = backbone.network((images / 255 - backbone.mean) / backbone.std)["regions"]
    for column in range(7):
        (gradient,) = torch.autograd.grad(regions[0, :, 3, column].sum(), images, retain_graph=True)
        columns = torch.nonzero(gradient.abs().sum((0, 1, 2))).flatten()
        assert columns.max() - columns.min() < 28
        # 64 stored pixels, walls of 0.2: their inner edges are 38 pixels apart.
        assert columns.max() - columns.min() < 0.6 * 64 - 2


def test_a_frozen_backbone_does_not_move() -> None:
    net = StyleNetwork(small(frozen=True), 3, "hybrid", 8, 16, 0.0, "category", True)
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 0.1)
    net.train()
    for step in range(3):
        positive, negative = triplet_distances(
            net, pictures(4, step), pictures(4, step + 9), pictures(4, step + 99), torch.tensor([0, 1, 2, 0])
        )
        (positive - negative).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in net.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in net.backbone.parameters())
    assert not any(part.training for part in net.backbone.modules())
    assert net.pooled_head.training


def test_a_frozen_backbone_keeps_nothing_for_the_backward_pass() -> None:
    backbone = small(frozen=True).train()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = backbone(pictures(2))
    assert not kept
    assert not features.pooled.requires_grad
    assert not features.regions.requires_grad


def test_a_tuned_backbone_moves() -> None:
    net = network()
    net.train()
    before = net.backbone.state_dict()["network.regions.0.1.running_mean"].clone()
    triplet_distances(net, pictures(4), pictures(4, 1), pictures(4, 2), torch.tensor([0, 1, 2, 0]))[0].sum().backward()  # type: ignore[no-untyped-call]
    assert not torch.equal(net.backbone.state_dict()["network.regions.0.1.running_mean"], before)
    assert all(parameter.grad is not None for parameter in net.backbone.network.get_submodule("regions").parameters())


def test_weights_from_a_file_are_loaded_without_their_classifier(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2

    torch.manual_seed(1)
    original = mobilenet_v2(weights=None).eval()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    backbone = backbone_of("mobilenet_v2", "features.18", "features.14", 2, frozen=True)
    backbone.load_weights(str(tmp_path / "w.pth"))
    images = pictures(1, size=64)
    expected = original.features((images / 255 - backbone.mean) / backbone.std).mean((2, 3))
    torch.testing.assert_close(backbone(images).pooled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("garbage", "not a readable"),
        ("list", "holds a list"),
        ("other", "not the weights of"),
        (None, "neither a file nor"),
    ],
)
def test_bad_weights_are_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "w.pth"
    if content == "garbage":
        path.write_bytes(b"garbage")
    elif content == "list":
        torch.save([1], path)
    elif content == "other":
        torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=reason):
        small().load_weights(str(path))


def test_a_nearly_right_name_of_weights_is_suggested() -> None:
    backbone = backbone_of("mobilenet_v2", "features.18", "features.14", 7, frozen=True)
    with pytest.raises(InputError, match=r"did you mean .IMAGENET1K_V"):
        backbone.load_weights("IMAGENET1K_V9")


def test_unknown_networks_and_layers_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'resnet50'"):
        backbone_of("resnet-50", "flatten", "layer3", 7, frozen=True)
    with pytest.raises(InputError, match=r"no layer .*layer9"):
        backbone_of("resnet18", "flatten", "layer9", 7, frozen=True)


def test_one_layer_can_give_both_vector_and_regions() -> None:
    features = backbone_of("small", "regions", "regions", 1, frozen=True)(pictures(2))
    torch.testing.assert_close(features.pooled, features.regions[:, 0])


@pytest.mark.parametrize(
    ("name", "pooled_layer", "region_layer", "reason"),
    [
        ("vit_b_32", "heads", "encoder", r"backbone\.name=vit_b_32: it refuses pictures of 64 pixels.*resnet50"),
        (
            "swin_t",
            "flatten",
            "features.5",
            r"region_layer=features\.5: of swin_t it gives \(1, 4, 4, 384\), not a map",
        ),
        ("resnet18", "flatten", "flatten", r"region_layer=flatten: of resnet18 it gives \(1, 512\), not a map"),
        ("swin_t", "features.7", "permute", r"pooled_layer=features\.7: of swin_t .*neither a vector .* nor a map"),
        ("raft_small", "flatten", "flatten", "no network 'raft_small'"),
    ],
)
def test_networks_and_layers_without_vector_or_map_are_refused(
    name: str, pooled_layer: str, region_layer: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=reason):
        backbone_of(name, pooled_layer, region_layer, 2, frozen=True)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["scene", "product"])
def test_a_head_is_the_papers_by_hand(kind: Kind) -> None:
    torch.manual_seed(0)
    head = Head(5, 4, 3, 0.5, ("scene", "product")).eval()
    norm = head.norm[kind]
    assert isinstance(norm, nn.BatchNorm1d)
    mean, var = torch.rand(4), torch.rand(4) + 0.5
    norm.running_mean, norm.running_var = mean, var
    norm.weight.data.uniform_()
    norm.bias.data.uniform_()
    feature = torch.randn(2, 5)
    hidden = feature @ head.inner.weight.T
    hidden = (hidden - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias
    out = hidden.clamp_min(0) @ head.outer.weight.T + head.outer.bias
    torch.testing.assert_close(head(feature, kind), out / out.norm(dim=1, keepdim=True))


def test_scenes_and_products_share_every_weight_of_a_head() -> None:
    head = Head(5, 4, 3, 0.0, ("scene", "product"))
    assert sum(parameter.numel() for parameter in head.parameters()) == 5 * 4 + 4 + 4 + 4 * 3 + 3
    for kind in ("scene", "product"):
        head(torch.randn(6, 5), kind).sum().backward()
    shared = [head.norm[kind].weight for kind in ("scene", "product")]
    assert shared[0] is shared[1]
    assert not torch.equal(head.norm["scene"].running_mean, head.norm["product"].running_mean)  # type: ignore[arg-type]


def test_a_head_treats_regions_as_it_treats_vectors() -> None:
    head = Head(5, 4, 3, 0.0, ("scene", "product")).eval()
    regions = torch.randn(2, 7, 5)
    torch.testing.assert_close(head(regions, "scene")[1, 3], head(regions[1, 3:4], "scene")[0])


def test_training_and_evaluation_normalise_a_kind_alike() -> None:
    # Scenes and products that differ much: statistics mixed over both would leave the two outputs far apart.
    head = Head(5, 4, 3, 0.0, ("scene", "product"))
    scenes, products = torch.randn(512, 5), torch.randn(512, 5) * 3 + 20
    for _ in range(200):
        head(scenes, "scene"), head(products, "product")
    trained = head(scenes, "scene"), head(products, "product")
    head.eval()
    torch.testing.assert_close(trained[0], head(scenes, "scene"), rtol=0, atol=0.02)
    torch.testing.assert_close(trained[1], head(products, "product"), rtol=0, atol=0.02)


def test_category_embeddings_are_unit_vectors_and_learn() -> None:
    embedding = CategoryEmbedding(4, 8)
    vectors = embedding(torch.tensor([2, 0]))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    vectors[0, 0].backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad[2].abs().sum() > 0
    assert embedding.weight.grad[1].abs().sum() == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("squared", [True, False])
def test_all_forms_of_the_distance_agree(method: DistanceName, squared: bool) -> None:
    net = network(method, squared=squared).eval()
    with torch.no_grad():
        style = net.embed_scene(pictures(3), torch.tensor([0, 1, 2]))
        products = net.embed_product(pictures(4, 1))
        every = net.distances(style, products)
        assert every.shape == (3, 4)
        for p in range(4):
            own = products[p].expand(3, -1)
            reference = region_distance(method, style, own, squared)
            torch.testing.assert_close(every[:, p], reference, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(net.distance(style, own), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attention", ["category", "uniform"])
def test_one_scene_for_all_categories_is_that_scene_for_each_of_them(method: DistanceName, attention: str) -> None:
    net, category = network(method, attention=attention).eval(), torch.tensor([2, 0, 1, 0])
    with torch.no_grad():
        scene = pictures(1)
        expected = net.embed_scene(scene.expand(4, -1, -1, -1), category)
        for style in (net.embed_scene(scene, category), net.embed_scene(net.backbone(scene), category)):
            for one, other in zip(style, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
            query, reference = net.query(style), net.query(expected)
            assert query is not None
            torch.testing.assert_close(query, reference, rtol=0, atol=1e-6)
            assert style.scene.stride(0) == 0  # computed once
            assert style.regions.shape[1] == 0 or style.regions.stride(0) == 0


@pytest.mark.parametrize("method", METHODS)
def test_training_sees_the_distances_that_are_ranked_by(method: DistanceName) -> None:
    net = network(method).eval()
    scene, positive, negative = pictures(3), pictures(3, 1), pictures(3, 2)
    category = torch.tensor([0, 1, 2])
    with torch.no_grad():
        near, far = triplet_distances(net, scene, positive, negative, category)
        style = net.embed_scene(scene, category)
        torch.testing.assert_close(near, net.distance(style, net.embed_product(positive)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(far, net.distance(style, net.embed_product(negative)), rtol=1e-4, atol=1e-5)


def test_embeddings_are_unit_vectors_and_attention_sums_to_one() -> None:
    net = network().eval()
    style = net.embed_scene(pictures(3), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(style.scene.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(style.regions.norm(dim=-1), torch.ones(3, 49))
    torch.testing.assert_close(style.attention.sum(1), torch.ones(3))


def test_only_category_attention_depends_on_the_category() -> None:
    images = pictures(2)
    for attention, differs in (("category", True), ("uniform", False)):
        net = network(attention=attention).eval()
        one, other = (net.embed_scene(images, torch.tensor([c, c])).attention for c in (0, 1))
        assert torch.equal(one, other) != differs
    torch.testing.assert_close(one, torch.full((2, 49), 1 / 49))


@pytest.mark.parametrize("method", METHODS)
def test_a_triplet_costs_three_backbone_passes(method: DistanceName) -> None:
    net = network(method)
    count = CountPasses(net.backbone)
    net.train()
    triplet_distances(net, pictures(4), pictures(4, 1), pictures(4, 2), torch.zeros(4, dtype=torch.long))
    assert count.pictures == 12


def test_batch_normalisation_of_the_backbone_sees_a_triplets_pictures_together() -> None:
    net = network()
    net.train()
    name = "network.regions.0.1.num_batches_tracked"
    before = int(net.backbone.state_dict()[name])
    triplet_distances(net, pictures(4), pictures(4, 1), pictures(4, 2), torch.zeros(4, dtype=torch.long))
    assert int(net.backbone.state_dict()[name]) == before + 1


def test_every_parameter_of_every_method_learns() -> None:
    for method in METHODS:
        net = network(method)
        net.train()
        positive, negative = triplet_distances(
            net, pictures(4), pictures(4, 1), pictures(4, 2), torch.tensor([0, 1, 2, 0])
        )
        (positive - negative).sum().backward()  # type: ignore[no-untyped-call]
        assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("method", ["hybrid", "local"])
def test_a_learned_temperature_starts_where_it_is_told_and_its_gradient_is_that_of_the_loss(
    method: DistanceName,
) -> None:
    batch = (pictures(4), pictures(4, 1), pictures(4, 2), torch.tensor([0, 1, 2, 0]))

    def made(temperature: float, learned: bool) -> StyleNetwork:
        torch.manual_seed(0)
        net = network(method, attention_temperature=temperature, learn_temperature=learned).double().eval()
        assert len(net.state_dict()) == len(network(method).state_dict()) + learned  # a fixed one is no weight
        return net

    def loss(net: StyleNetwork) -> Tensor:
        positive, negative = triplet_distances(net, *batch)
        return (positive - negative).sum()

    learned = made(0.3, True)
    assert float(learned.logged()["attention_temperature"]) == pytest.approx(0.3)
    assert float(loss(learned).detach()) == pytest.approx(float(loss(made(0.3, False)).detach()), rel=1e-6)
    loss(learned).backward()  # type: ignore[no-untyped-call]
    gradient = learned.get_parameter("attention_temperature.logarithm").grad
    step = 1e-4
    moved = [float(loss(made(0.3 * math.exp(by), False)).detach()) for by in (step, -step)]
    assert gradient is not None
    assert float(gradient) != 0
    assert float(gradient) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-3)
    assert made(0.3, False).logged() == {}


def test_a_temperature_of_one_is_the_papers_network_to_the_last_bit() -> None:
    found = []
    cases: list[dict[str, Any]] = [{}, {"attention_temperature": 1.0}, {"learn_temperature": True}]
    for options in cases:
        torch.manual_seed(0)
        net = network(**options).eval()
        found.append(net.embed_scene(pictures(3), torch.tensor([0, 1, 2])).attention)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attention_temperature": 0.0}, "attention_temperature must be positive"),
        ({"attention_temperature": 0.001, "learn_temperature": True}, r"must start at 0\.01 at least"),
        ({"attention": "uniform", "learn_temperature": True}, "model.attention=category"),
        ({"attention": "uniform", "attention_temperature": 0.5}, "model.attention=category"),
        ({"method": "global", "attention_temperature": 0.5}, "model.attention=category"),
    ],
)
def test_a_temperature_that_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        network(**options)
