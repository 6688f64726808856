"""A tiny trained network and a catalogue of its vectors, for all tests that serve."""

from pathlib import Path
from typing import Any

import hydra
import pytest
from conftest import TINY, fitting

from ctl_lightning.catalogue import catalogue
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.program import spelled_out
from ctl_lightning.train import train


def train_on(looks: Path, cache: Path, folder: Path, *more: str) -> Path:
    """The run directory of a hybrid (or of what `more` says) on `looks`."""
    small = [word for word in TINY if not word.startswith("data.")]
    sizes = ["data.stored_size=36", "data.image_size=32", "data.batch_size=4", "backbone.grid=4"]
    words = [f"paths.run_dir={folder}", f"paths.cache_dir={cache}", "data=stl_fashion", f"data.root={looks}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunReport, "draw", lambda *_: {})
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            train(hydra.compose("train", fitting([*small, *sizes, *words, *more])))
    return folder


def composed(program: str, folder: Path, *words: str) -> Any:
    """The config of a program with options as on its command line."""
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose(program, [f"paths.run_dir={folder}", *spelled_out(words)])


def make_catalogue(run: Path, folder: Path, *words: str) -> Path:
    """A catalogue of a run's data, or as `words` say."""
    catalogue(composed("catalogue", folder / "hydra", f"ckpt_path={run}", f"catalogue={folder}", *words))
    return folder
