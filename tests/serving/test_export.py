"""What is exported says what the network says, with any number of pictures, and runs without this package."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import REPOSITORY, train_on

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.export import _compare, export
from ctl_lightning.serving.recommender import Recommender

EXAMPLE = REPOSITORY / "examples" / "serve.py"


@pytest.fixture(scope="module")
def exported(served: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(Encoder(served[0]), folder, onnx=True)
    return folder


@pytest.mark.parametrize("count", [1, 7])
def test_vectors_and_queries_are_the_networks(served: tuple[Path, Path], exported: Path, count: int) -> None:
    import onnxruntime

    network = Encoder(served[0]).network
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    category = torch.arange(count) % 2
    with torch.no_grad():
        query = network.query(network.embed_scene(images, category))
        assert query is not None
        expected = {"product": network.embed_product(images), "query": query}
    inputs = {"product": {"image": images}, "query": {"image": images, "category": category}}
    for name, vectors in expected.items():
        assert vectors.shape == (count, 16)
        program = torch.export.load(exported / f"{name}.pt2").module()
        torch.testing.assert_close(program(*inputs[name].values()), vectors, atol=1e-5, rtol=0)
        session = onnxruntime.InferenceSession(str(exported / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        found = session.run(None, {key: value.numpy() for key, value in inputs[name].items()})[0]
        np.testing.assert_allclose(found, vectors.numpy(), atol=1e-4)


def test_the_example_recommends_without_this_package(served: tuple[Path, Path], exported: Path, looks: Path) -> None:
    lines = [line for line in EXAMPLE.read_text().split('"""', 2)[2].splitlines() if line and "import" not in line]
    assert len(lines) <= 20
    photo = sorted((looks / "images").rglob("*.jpg"))[0]
    category = "Apparel & Accessories|Shoes"
    blocked = f"import sys, runpy\nfor name in ('ctl_lightning', 'lightning', 'hydra'): sys.modules[name] = None\nsys.argv = ['serve', *sys.argv[1:]]\nrunpy.run_path({str(EXAMPLE)!r})"
    run = subprocess.run(
        [sys.executable, "-c", blocked, str(exported), str(served[1]), str(photo), category],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = [line.split("\t") for line in run.stdout.splitlines()]
    expected = Recommender.from_checkpoint(*served).recommend(photo, category, 5)
    assert [name for name, _ in found] == [one.product for one in expected]
    assert [float(distance) for _, distance in found] == pytest.approx([one.distance for one in expected], abs=1e-4)


def test_what_must_be_known_beside_the_files(served: tuple[Path, Path], exported: Path) -> None:
    described = json.loads((exported / "serving.json").read_text())
    assert described["categories"] == ["Apparel & Accessories|Hats", "Apparel & Accessories|Shoes"]
    assert (described["image_size"], described["stored_size"], described["aspect"]) == (32, 36, "stretch")
    assert described["identity"] == json.loads((served[1] / "catalogue.json").read_text())["identity"]
    assert described["classifier"].keys() == {"threshold", "slope", "intercept"}


def test_a_file_that_says_something_else_is_not_kept(tmp_path: Path) -> None:
    vectors = np.zeros((2, 4), np.float32)
    _compare(tmp_path, vectors, vectors + 5e-5)
    for wrong in (vectors + 2e-4, vectors * np.nan):
        with pytest.raises(InputError, match="its vectors differ from the network's"):
            _compare(tmp_path, wrong, vectors)


@pytest.mark.parametrize("method", ["global", "imagenet"])
def test_other_methods_are_exported(tmp_path: Path, looks: Path, cache: Path, method: str) -> None:
    run = train_on(looks, cache, tmp_path / "run", f"+experiment={method}")
    export(Encoder(run), tmp_path / "exported", onnx=False)
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {"product.pt2", "query.pt2", "serving.json"}


def test_files_of_two_networks_never_stand_together(
    served: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("product.onnx", "query.onnx", "serving.json"):
        (tmp_path / name).write_text("of another network")
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export(Encoder(served[0]), tmp_path, onnx=False)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript is not installed; pip install 'ctl_lightning\[onnx\]'"):
        export(Encoder(served[0]), tmp_path, onnx=True)
    assert list(tmp_path.iterdir()) == []
