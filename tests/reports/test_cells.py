"""The cells of the paper's table: folds, and variants of methods."""

from pathlib import Path
from typing import Any

import hydra
import pytest

from ctl_lightning.reports.cells import cells_of, fold_folders
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.words import spelled_out


def plain(*words: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return dict(hydra.compose("paper", spelled_out(["paths.run_dir=run", *words], "paper")))


def test_each_seed_is_trained_once_a_fold_in_a_folder_of_its_own(tmp_path: Path) -> None:
    words = ["methods=[popularity,hybrid]", "seeds=[3,4]", "folds=3"]
    cells = cells_of(plain(*words), tmp_path)
    assert [(cell.method, cell.seed, cell.fold) for cell in cells] == [
        *(("popularity", 3, fold) for fold in range(3)),
        *(("hybrid", 3, fold) for fold in range(3)),
        *(("hybrid", 4, fold) for fold in range(3)),
    ]
    last = cells[-1]
    assert last.folder == tmp_path / "synthetic" / "hybrid" / "seed4" / "fold2"
    assert last.name == "synthetic hybrid seed 4 fold 2"
    assert {"data.folds=3", "data.fold=2", "seed=4", "ckpt_path=auto"} <= {*last.commands[0]}
    assert len({cell.folder for cell in cells}) == len(cells)
    assert {len(cell.commands) for cell in cells} == {1}  # one fold's control is no measure beside all pairs
    single = cells_of(plain(*words[:-1]), tmp_path)
    assert not any(word.startswith("data.fold") for cell in single for word in cell.commands[0])
    assert fold_folders(single[-1].folder, 3)[2] == last.folder
    assert fold_folders(single[-1].folder, None) == [single[-1].folder]


def test_a_variant_is_a_method_with_words_of_its_own_that_win_over_the_protocols(tmp_path: Path) -> None:
    words = [
        *("methods=[hybrid,wide]", '+variants.wide=[hybrid,"model.dim=256","backbone.layers=[-2,-1]"]', "seeds=[0]"),
        *('overrides.synthetic=["model.dim=16"]', "folds=2"),
    ]
    cells = cells_of(plain(*words), tmp_path)
    (plain_one, wide) = (cell for cell in cells if cell.fold == 1)
    assert wide.method == "wide"
    assert wide.folder == tmp_path / "synthetic" / "wide" / "seed0" / "fold1"
    of_the_protocol, own = (wide.commands[0].index(f"model.dim={dim}") for dim in (16, 256))
    assert wide.commands[0][1] == "+experiment=hybrid"
    assert of_the_protocol < own < wide.commands[0].index("data.folds=2")
    assert {*wide.commands[0]} - {*plain_one.commands[0]} >= {"model.dim=256", "backbone.layers=[-2,-1]"}
    assert len(wide.commands[0]) == len(plain_one.commands[0]) + 2
    together = cells_of(plain("methods=[wide]", "variants={wide:[hybrid,'model.dim=256']}", "seeds=[0]"), tmp_path)
    assert "model.dim=256" in together[0].commands[0]


def test_a_variant_of_a_method_without_seeds_has_none(tmp_path: Path) -> None:
    cells = cells_of(plain("methods=[again]", "+variants.again=[popularity]", "seeds=[5,6]"), tmp_path)
    assert [cell.seed for cell in cells] == [5]
    assert len(cells[0].commands) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["+variants.hybrid=[global]"], "variants.hybrid: there is a method of that name; give the variant another"),
        (["+variants.x=[hybird]", "methods=[x]"], "no experiment=hybird; did you mean 'hybrid'"),
        (["+variants.x=[hybrid]"], "variants.x is no row of the table; put its name into methods, too"),
        (["variants={a/b:[hybrid]}", "methods=[a/b]"], "variants.a/b: a folder gets that name"),
        (["+variants.x=[hybrid,'seed=3']", "methods=[x]"], "variants.x: 'seed=3' is not a variant's to say"),
        (["+variants.x=[hybrid,'+data.fold=1']", "methods=[x]"], "'.data.fold=1' is not a variant's to say"),
        (["compared=[hybird]"], "no experiment=hybird; did you mean 'hybrid'"),
    ],
)
def test_what_cannot_be_a_variant_is_one_line(words: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        cells_of(plain(*words), tmp_path)
