"""Whichever engine runs the backbone, the same products are found; and an engine that cannot is one line."""

import sys
from pathlib import Path

import pytest
import torch
from factories import composed

from ctl_lightning.recommend import recommend
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.engines import OnnxEngine, engine_of
from ctl_lightning.serving.recommender import Recommender


def pictures(count: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_onnx_runtime_gives_the_features_of_torch_and_finds_the_same_products(
    served: tuple[Path, Path], looks: Path
) -> None:
    by_torch = Recommender.from_checkpoint(*served)
    by_onnx = Recommender.from_checkpoint(*served, engine="onnx")
    backbone = by_torch.encoder.network.backbone
    for count in (1, 2, 5):
        shown = pictures(count, by_torch.encoder.size)
        with torch.no_grad():
            expected = backbone(shown)
        for one, other in zip(by_onnx.encoder._features(shown), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for photo in sorted((looks / "images").rglob("*.jpg"))[:5]:
        looked = [one.look(photo, k=4) for one in (by_torch, by_onnx)]
        for one, other in zip(*(look.answers for look in looked), strict=True):
            assert [found.product for found in one.products] == [found.product for found in other.products]
            distances = [found.distance for found in other.products]
            assert [found.distance for found in one.products] == pytest.approx(distances, abs=1e-5)


def test_an_engine_that_cannot_run_is_one_line(
    served: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Encoder(served[0]).network.backbone
    assert engine_of("torch", backbone, 32, "cpu") is backbone
    with pytest.raises(InputError, match="engine=onxx: there is no such engine; there are: torch, onnx"):
        engine_of("onxx", backbone, 32, "cpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="engine=onnx: it runs on the CPU alone, and device=cuda:0; give engine=torch"):
        engine_of("onnx", backbone, 32, "cuda:0")
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no\nlong story")))
        with pytest.raises(
            InputError,
            match=r"^engine=onnx: torch cannot export this backbone \(RuntimeError: no\); give engine=torch$",
        ):
            OnnxEngine(backbone, 32)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    words = (f"ckpt_path={served[0]}", f"catalogue={served[1]}", "scene=x.jpg", "engine=onnx")
    with pytest.raises(
        InputError, match=r"engine=onnx: onnxruntime is not installed; pip install 'ctl_lightning\[onnx\]'"
    ):
        recommend(composed("recommend", tmp_path, *words))
