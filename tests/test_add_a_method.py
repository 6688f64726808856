"""docs/add_a_method.md, followed to the letter in a copy of the code."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from factories import REPOSITORY, TINY

PAGE = (REPOSITORY / "docs" / "add_a_method.md").read_text()
BLOCKS = re.findall(r"^```(?:python|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
METHOD, IMPORT, ENTRY, CONFIG, TEST = BLOCKS
PLACES = re.findall(r"^## \d\. [^`\n]*`([^`]+)`$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """src/, conf/ and tests/ with the new method."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("src", "conf", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for place, content in zip((PLACES[0], *PLACES[2:]), (METHOD, CONFIG, TEST), strict=True):
        (folder / place).write_text(content)
    registry = folder / PLACES[1]
    lines = registry.read_text()
    first = "from ctl_lightning.models.bpr_dae import DualAutoEncoder\n"
    assert first in lines
    lines = lines.replace(first, first + IMPORT).replace(
        '    "popularity": Popularity,\n', f'    "popularity": Popularity,\n{ENTRY}'
    )
    registry.write_text(lines)
    return folder


def run(copy: Path, *words: str) -> str:
    path = os.pathsep.join(str(copy / name) for name in ("src", "tests"))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_the_page_names_the_files_that_there_are_to_touch() -> None:
    assert [Path(place).name for place in PLACES] == ["cosine.py", "registry.py", "cosine.yaml", "test_cosine.py"]
    code = [line for line in METHOD.splitlines() if line.strip()]
    assert len(code) < 40
    assert len(IMPORT.splitlines()) == len(ENTRY.splitlines()) == 1


@pytest.mark.long
def test_its_own_test_and_the_rules_of_the_house_pass(copy: Path) -> None:
    said = run(
        copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/models/test_cosine.py", "tests/test_layers.py"
    )
    assert "passed" in said


@pytest.mark.long
def test_train_evaluate_paper_and_catalogue_know_it(copy: Path, cache: Path, tmp_path: Path) -> None:
    words = [word for word in TINY if not word.startswith("model.hidden")]
    common = ["hydra.run.dir=run", f"paths.cache_dir={cache}"]
    said = run(copy, "-m", "ctl_lightning.train", "model=cosine", "loss=info_nce", *words, *common)
    assert "everything is in" in said
    found = json.loads((copy / "run" / "results.json").read_text())
    assert found["method"] == "cosine"
    run(copy, "-m", "ctl_lightning.evaluate", "ckpt_path=run", "hydra.run.dir=evaluated", "accelerator=cpu")
    assert json.loads((copy / "evaluated" / "results.json").read_text())["test"] == found["test"]
    run(copy, "-m", "ctl_lightning.catalogue", "ckpt_path=run", "catalogue=products")
    assert json.loads((copy / "products" / "catalogue.json").read_text())["dim"] == 16
    quick = ",".join(f'"{word}"' for word in words if not word.startswith(("callbacks", "trainer.enable", "model")))
    said = run(
        copy,
        *("-m", "ctl_lightning.paper", "methods=[cosine]", "protocols=[synthetic]", "seeds=[0]", "hydra.run.dir=paper"),
        *(f"overrides.synthetic=[{quick}]", f"paths.cache_dir={cache}"),
    )
    assert "`cosine` | 1 |" in (copy / "paper" / "table.md").read_text()
