"""What is exported says what the network says, with any number of pictures, and runs without this package."""

import json
import math
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import BACKBONE, REPOSITORY, make_catalogue, module, pictures, train_on
from torch import Tensor

from ctl_lightning.models.checkpoint import FORMAT
from ctl_lightning.models.registry import METHODS, own_options
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.export import ProductEncoder, QueryEncoder, export
from ctl_lightning.serving.exporters import compare as compare_both
from ctl_lightning.serving.recommender import Recommender

EXAMPLE = REPOSITORY / "examples" / "serve.py"
CATEGORY = "Apparel & Accessories|Shoes"

SEARCHED = ("hybrid", "global", "local", "imagenet", "recipe")
"""Methods that have a catalogue."""

FAMILIES = {
    "mobilenet_v2": ("features.18", "features.14"),
    "resnet50": ("flatten", "layer3"),
    "efficientnet_b0": ("features.8", "features.5"),
    "convnext_tiny": ("avgpool", "features.5"),
    "regnet_y_400mf": ("flatten", "trunk_output.block3"),
    "swin_t": ("flatten", "permute"),
}
"""Families of networks: name of one -> layer of its pooled vector, layer of its regions."""


def untrained(folder: Path, method: str, options: dict[str, Any], backbone: dict[str, Any], size: int = 32) -> Path:
    """A checkpoint as `train` writes it, with random weights and random statistics of BatchNorm."""
    torch.manual_seed(0)
    own: dict[str, Any] = {"heads": "separate", "members": 2} if method == "recipe" else {}
    made = module(method=method, backbone=BACKBONE | backbone, **own, **options)
    for name, value in made.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    data = {"stored_size": size + 4, "image_size": size, "aspect": "stretch", "split_file": None}
    config = {"method": method, "protocol": None, "seed": 0, "trainer": {"precision": "32-true"}, "data": data}
    content = {"format": FORMAT, "pytorch-lightning_version": "2", "TripletDataModule": {"pairs": {}}, "config": config}
    path = folder / "last.ckpt"
    torch.save(content | {"state_dict": made.state_dict(), "hyper_parameters": dict(made.hparams)}, path)
    return path


def assert_equal_to_the_network(encoder: Encoder, folder: Path, onnx: bool) -> None:
    """Compares the files with the network, on several numbers of pictures."""
    for name, kind in (("product", ProductEncoder), ("query", QueryEncoder)):
        found: list[Callable[..., Tensor]] = [torch.export.load(folder / f"{name}.pt2").module()]
        if onnx:
            found.append(run_by_onnx(folder / f"{name}.onnx"))
        for count in (1, 3, 7):
            inputs = [pictures(count, count, encoder.size), *([torch.arange(count) % 2] if name == "query" else [])]
            with torch.no_grad():
                expected = kind(encoder.network)(*inputs)
            assert len(expected) == count
            for one in found:
                torch.testing.assert_close(one(*inputs), expected, atol=2e-6, rtol=0)


def run_by_onnx(path: Path) -> Callable[..., Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    assert names == ["image", "category"][: len(names)]

    def run(*inputs: Tensor) -> Tensor:
        given = zip(("image", "category"), inputs, strict=False)
        return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in given})[0])

    return run


def served_without_this_package(exported: Path, catalogue: Path, photo: Path) -> list[tuple[str, float]]:
    """What examples/serve.py prints: product, distance."""
    blocked = f"import sys, runpy\nfor name in ('ctl_lightning', 'lightning', 'hydra'): sys.modules[name] = None\nsys.argv = ['serve', *sys.argv[1:]]\nrunpy.run_path({str(EXAMPLE)!r})"
    run = subprocess.run(
        [sys.executable, "-c", blocked, str(exported), str(catalogue), str(photo), CATEGORY],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [(name, float(distance)) for name, distance in (line.split("\t") for line in run.stdout.splitlines())]


def a_photo(looks: Path) -> Path:
    return min((looks / "images").rglob("*.jpg"))


def assert_recommends_the_same(run: Path, catalogue: Path, exported: Path, photo: Path) -> None:
    """Compares examples/serve.py with `recommend`."""
    found = served_without_this_package(exported, catalogue, photo)
    expected = Recommender.from_checkpoint(run, catalogue).recommend(photo, CATEGORY, 5)
    assert [name for name, _ in found] == [one.product for one in expected]
    assert [distance for _, distance in found] == pytest.approx([one.distance for one in expected], abs=1e-4)


@pytest.fixture(scope="module")
def frozen(looks: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """What people train: a hybrid on the cached features of a frozen backbone; run directory, catalogue, export with ONNX."""
    folder = tmp_path_factory.mktemp("frozen")
    run = train_on(looks, cache, folder / "run", "backbone.frozen=true", "data.augment=none")
    export(Encoder(run), folder / "exported", onnx=True)
    return run, make_catalogue(run, folder / "catalogue"), folder / "exported"


@pytest.fixture(scope="module")
def exported(served: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(Encoder(served[0]), folder, onnx=False)
    return folder


@pytest.mark.parametrize("onnx", [False, pytest.param(True, marks=pytest.mark.long)], ids=["", "onnx"])
@pytest.mark.parametrize("frozen", [pytest.param(False, marks=pytest.mark.long), True], ids=["tuned", "frozen"])
@pytest.mark.parametrize("method", SEARCHED)
def test_every_method_with_a_catalogue_is_exported(tmp_path: Path, method: str, frozen: bool, onnx: bool) -> None:
    encoder = Encoder(untrained(tmp_path, method, {}, {"frozen": frozen}))
    export(encoder, tmp_path / "exported", onnx)
    assert_equal_to_the_network(encoder, tmp_path / "exported", onnx)


def test_a_learned_temperature_is_exported_and_never_below_its_floor(tmp_path: Path) -> None:
    options = {"attention_temperature": 0.3, "learn_temperature": True}
    path = untrained(tmp_path, "hybrid", options, {})
    checkpoint = torch.load(path, weights_only=True)
    for logarithm in (math.log(0.3), -20.0):  # the optimiser's last step can leave it below
        checkpoint["state_dict"]["network.attention_temperature.logarithm"].fill_(logarithm)
        torch.save(checkpoint, path)
        encoder = Encoder(path)
        assert float(encoder.network.logged()["attention_temperature"]) == pytest.approx(max(0.01, math.exp(logarithm)))
        export(encoder, tmp_path / "exported", onnx=True)
        assert_equal_to_the_network(encoder, tmp_path / "exported", onnx=True)


def test_onnx_files_say_what_a_trained_network_says(frozen: tuple[Path, Path, Path]) -> None:
    run, _, exported = frozen
    assert_equal_to_the_network(Encoder(run), exported, onnx=True)


def test_these_are_all_methods_with_a_catalogue(tmp_path: Path) -> None:
    for method in METHODS.keys() - {*SEARCHED, "geometry"}:  # which serves nobody: tests/programs/test_recipe_runs.py
        path = untrained(tmp_path, method, {}, {})
        with pytest.raises(InputError, match=f"{method} (has no distance of the form|sees no pictures)"):
            export(Encoder(path), tmp_path / "exported", onnx=False)
    for method in SEARCHED:
        if "squared" in own_options(METHODS[method]):
            path = untrained(tmp_path, method, {"squared": False}, {})
            with pytest.raises(InputError, match=f"{method} with plain distances has no distance of the form"):
                export(Encoder(path), tmp_path / "exported", onnx=False)
    assert not (tmp_path / "exported").exists()


@pytest.mark.long
@pytest.mark.parametrize("frozen", [False, True], ids=["tuned", "frozen"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_backbones_is_exported(tmp_path: Path, name: str, frozen: bool) -> None:
    pooled, regions = FAMILIES[name]
    layers = {"pooled_layer": pooled, "region_layer": regions}
    backbone = {"library": "torchvision", "name": name, **layers, "grid": 2, "frozen": frozen}
    encoder = Encoder(untrained(tmp_path, "hybrid", {}, backbone, size=64))
    export(encoder, tmp_path / "exported", onnx=True)
    assert_equal_to_the_network(encoder, tmp_path / "exported", onnx=True)


def test_the_example_recommends_without_this_package(served: tuple[Path, Path], exported: Path, looks: Path) -> None:
    lines = [line for line in EXAMPLE.read_text().split('"""', 2)[2].splitlines() if line and "import" not in line]
    assert len(lines) <= 20
    assert_recommends_the_same(*served, exported, a_photo(looks))


def test_the_example_recommends_with_a_frozen_backbone(frozen: tuple[Path, Path, Path], looks: Path) -> None:
    assert_recommends_the_same(*frozen, a_photo(looks))


def test_the_example_resizes_photos_as_the_checkpoint_does(tmp_path: Path, looks: Path, cache: Path) -> None:
    run = train_on(looks, cache, tmp_path / "run", "+experiment=imagenet", "data.interpolation=bicubic")
    export(Encoder(run), tmp_path / "exported", onnx=False)
    assert_recommends_the_same(run, make_catalogue(run, tmp_path / "catalogue"), tmp_path / "exported", a_photo(looks))


def test_the_example_takes_an_export_that_names_no_filter(
    served: tuple[Path, Path], exported: Path, looks: Path, tmp_path: Path
) -> None:
    older = Path(shutil.copytree(exported, tmp_path / "older"))
    described = json.loads((older / "serving.json").read_text())
    assert described.pop("interpolation") == "bilinear"
    (older / "serving.json").write_text(json.dumps(described))
    assert_recommends_the_same(*served, older, a_photo(looks))


def test_the_example_says_what_it_was_given_wrong(
    served: tuple[Path, Path],
    frozen: tuple[Path, Path, Path],
    exported: Path,
    looks: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for catalogue, category in ((frozen[1], CATEGORY), (served[1], "Sofas")):
        monkeypatch.setattr(sys, "argv", ["serve", str(exported), str(catalogue), str(a_photo(looks)), category])
        with pytest.raises(SystemExit, match=f"^{catalogue} must be of the exported checkpoint, and CATEGORY one of"):
            runpy.run_path(str(EXAMPLE))


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        *([f"+experiment={name}", "backbone.frozen=true"] for name in ("hybrid", "global", "local", "imagenet")),
        *([f"+experiment={name}"] for name in ("hybrid_uniform", "global", "local", "imagenet")),
        ["backbone.checkpointing=true"],
        ["trainer.sync_batchnorm=true"],
        ["data.aspect=pad", "data.interpolation=lanczos"],
        ["data.aspect=crop", "data.interpolation=nearest"],
    ],
    ids=" ".join,
)
def test_the_example_recommends_with_whatever_is_trained(
    tmp_path: Path, looks: Path, cache: Path, words: list[str]
) -> None:
    run = train_on(looks, cache, tmp_path / "run", *words)
    export(Encoder(run), tmp_path / "exported", onnx=True)
    catalogue = make_catalogue(run, tmp_path / "catalogue")
    assert_recommends_the_same(run, catalogue, tmp_path / "exported", a_photo(looks))


def test_what_must_be_known_beside_the_files(served: tuple[Path, Path], exported: Path) -> None:
    described = json.loads((exported / "serving.json").read_text())
    assert described["categories"] == ["Apparel & Accessories|Hats", "Apparel & Accessories|Shoes"]
    assert (described["image_size"], described["stored_size"], described["aspect"]) == (32, 36, "stretch")
    assert described["identity"] == json.loads((served[1] / "catalogue.json").read_text())["identity"]
    assert described["classifier"].keys() == {"threshold", "slope", "intercept"}


def test_a_file_that_says_something_else_does_not_count() -> None:
    def compare(error: float, alone: float = 0) -> None:
        def exported(inputs: dict[str, Tensor]) -> Any:
            return [inputs["image"].numpy() + np.float32(error + alone * (len(inputs["image"]) == 1))]

        compare_both(torch.nn.Identity(), {"image": torch.zeros(3, 4)}, exported)

    compare(5e-5)
    for error, alone in ((2e-4, 0), (np.nan, 0), (0, 2e-4)):  # the last is right for three pictures, not for one
        with pytest.raises(ValueError, match="its vectors differ from the network's"):
            compare(error, alone)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_an_earlier_export_stays_until_the_new_one_is_there(
    served: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("product.pt2", "query.pt2", "product.onnx", "query.onnx", "serving.json"):
        (tmp_path / name).write_text("of another network")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export(Encoder(served[0]), tmp_path, onnx=False)
        patch.setattr(torch.export, "export", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no\nlong story")))
        with pytest.raises(
            InputError, match=r"^torch.export cannot write product.pt2 \(RuntimeError: no\); .*`recommend`"
        ):
            export(Encoder(served[0]), tmp_path, onnx=False)
        patch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(InputError, match=r"onnxscript is not installed; pip install 'ctl_lightning\[onnx\]'"):
            export(Encoder(served[0]), tmp_path, onnx=True)
    assert contents(tmp_path) == before
    export(Encoder(served[0]), tmp_path, onnx=False)
    after = contents(tmp_path)
    assert after.keys() == {"product.pt2", "query.pt2", "serving.json"}
    assert b"of another network" not in after.values()


def test_what_is_written_stays_where_onnx_fails(
    served: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ctl_lightning import export as program

    def fail(*_: object, f: str, **__: object) -> None:
        Path(f).write_text("half")
        raise RuntimeError("\nan operator is unknown\nlong story")

    monkeypatch.setattr(torch.onnx, "export", fail)
    output = tmp_path / "exported"
    monkeypatch.setattr(
        sys, "argv", ["export", f"ckpt_path={served[0]}", f"output={output}", "onnx=true", f"hydra.run.dir={tmp_path}"]
    )
    with pytest.raises(SystemExit) as stopped:
        program.main()
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 1
    assert said == [
        "export: onnx=true: torch.onnx cannot write product.onnx (RuntimeError: an operator is unknown); the .pt2 files "
        "and serving.json are written; give onnx=false"
    ]
    assert {path.name for path in output.iterdir()} - {".lock"} == {"product.pt2", "query.pt2", "serving.json"}
