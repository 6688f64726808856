"""The floors of the house: what may import what. A file at the top is a program, a folder is a layer."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from factories import LATE, PROGRAMS, REPOSITORY

PACKAGE = REPOSITORY / "src" / "ctl_lightning"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}

FLOORS = {
    "runtime": 1,
    **dict.fromkeys(("data", "models"), 2),
    "metrics": 3,
    **dict.fromkeys(("training", "reports", "serving"), 4),
    **dict.fromkeys((*PROGRAMS, "benchmarks"), 5),
    "benchmark": 6,
    "__init__": 6,
}
"""Layer -> its floor. Nothing imports upwards, nor a neighbour on its own floor."""

NEVER = {
    "models": ("lightning", "hydra", "omegaconf", "wandb", "torchmetrics"),
    "data": ("hydra", "omegaconf", "wandb", "torchmetrics"),
    "metrics": ("lightning", "hydra", "omegaconf", "wandb"),
}
"""Layer -> packages that it does not know, wherever in a file they are imported."""


def layer_of(module: str) -> str:
    """The layer, or the program, that a path in the package or a dotted name without `ctl_lightning.` is in."""
    return module.replace("/", ".").removesuffix(".py").partition(".")[0]


def imports(source: str) -> set[str]:
    """Every module that a source imports, also within functions; what is for type checkers alone counts too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top_of(source: str) -> str:
    """The imports at the top of a source, without what is for type checkers alone."""
    return "\n".join(
        ast.unparse(node) for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))
    )


def broken_rules(sources: Mapping[str, str]) -> list[str]:
    """What imports what it must not, a line each."""
    told = []
    for path, source in sources.items():
        own = layer_of(path)
        for name in sorted(imports(source)):
            package, _, rest = name.partition(".")
            if package in NEVER.get(own, ()):
                told.append(f"{path}: {own} does not know {package}")
            if own in ("runtime", *PROGRAMS) and package in LATE and name in imports(top_of(source)):
                told.append(f"{path}: imports {package} before the options are checked")
            if package != "ctl_lightning" or not rest:
                continue
            other = layer_of(rest)
            if other == own or other not in FLOORS:
                continue
            if own == "benchmarks" and other in PROGRAMS:
                told.append(f"{path}: nothing below imports a program ({other})")
            elif FLOORS[other] > FLOORS[own]:
                told.append(f"{path}: imports upwards ({other})")
            elif FLOORS[other] == FLOORS[own]:
                told.append(f"{path}: {own} and {other} do not know each other")
            elif other in PROGRAMS:
                told.append(f"{path}: nothing imports a program ({other})")
    return told


def circles(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other, by whatever way, at the top of their files."""
    dotted = {"ctl_lightning." + path.removesuffix(".py").replace("/", "."): path for path in sources}
    graph: dict[str, set[str]] = {}
    for name, path in dotted.items():
        found = {one if one in dotted else one.rpartition(".")[0] for one in imports(top_of(sources[path]))}
        graph[name] = {one for one in found if one in dotted and one != name}
    told: list[str] = []
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            told.append(" -> ".join([*way[way.index(name) :], name]))
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    return told


def test_a_file_at_the_top_is_a_program_and_a_folder_is_a_layer() -> None:
    top = {path.removesuffix(".py") for path in SOURCES if "/" not in path}
    assert top == {*PROGRAMS, "__init__"}
    folders = {layer_of(path) for path in SOURCES if "/" in path}
    assert folders == FLOORS.keys() - top


def test_nothing_is_imported_upwards_sideways_or_from_a_program() -> None:
    assert broken_rules(SOURCES) == []


def test_there_is_no_circle() -> None:
    assert circles(SOURCES) == []


def test_no_file_is_longer_than_350_lines_and_no_function_than_60() -> None:
    assert {path: lines for path, source in SOURCES.items() if (lines := source.count("\n")) > 350} == {}
    long = {
        f"{path}: {node.name}": node.end_lineno - node.lineno + 1
        for path, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
        if node.end_lineno - node.lineno + 1 > 60
    }
    assert long == {}


@pytest.mark.parametrize("layer", ["models", "metrics"])
def test_what_a_layer_does_not_know_is_not_loaded_by_what_it_imports_either(layer: str) -> None:
    # Not so `data`: its LightningDataModule is Lightning's, which brings torchmetrics.
    names = [
        "ctl_lightning." + path.removesuffix(".py").replace("/", ".") for path in SOURCES if layer_of(path) == layer
    ]
    code = f"import sys, {', '.join(names)}; print(sorted(sys.modules.keys() & {set(NEVER[layer])!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    ("path", "line", "rule"),
    [
        ("models/siamese.py", "import lightning", "models does not know lightning"),
        ("models/components/heads.py", "from hydra.utils import instantiate", "models does not know hydra"),
        ("models/registry.py", "def f():\n    import wandb", "models does not know wandb"),
        ("models/siamese.py", "from ctl_lightning.data.pairs import Box", "models and data do not know each other"),
        (
            "data/pairs.py",
            "from ctl_lightning.models.registry import METHODS",
            "data and models do not know each other",
        ),
        ("data/pairs.py", "from ctl_lightning.metrics.intervals import interval", "imports upwards (metrics)"),
        ("runtime/files.py", "import torch", "imports torch before the options are checked"),
        ("train.py", "from lightning import Trainer", "imports lightning before the options are checked"),
        ("metrics/ranking.py", "from ctl_lightning.training.module import x", "imports upwards (training)"),
        (
            "serving/encoder.py",
            "from ctl_lightning.training import module",
            "serving and training do not know each other",
        ),
        ("reports/results.py", "from ctl_lightning.train import train", "imports upwards (train)"),
        ("recommend.py", "from ctl_lightning.demo import main", "recommend and demo do not know each other"),
        ("benchmarks/step.py", "from ctl_lightning.train import train", "nothing below imports a program (train)"),
        ("benchmark.py", "from ctl_lightning.train import train", "nothing imports a program (train)"),
    ],
)
def test_a_planted_import_is_found(path: str, line: str, rule: str) -> None:
    assert path in SOURCES
    planted = SOURCES | {path: f"{SOURCES[path]}\n{line}\n"}
    assert broken_rules(planted) == [f"{path}: {rule}"]


def test_a_planted_circle_is_found() -> None:
    planted = {
        "a.py": "from ctl_lightning.b import x",
        "b.py": "import ctl_lightning.c",
        "c.py": "import ctl_lightning.a",
    }
    assert circles(planted) == ["ctl_lightning.a -> ctl_lightning.b -> ctl_lightning.c -> ctl_lightning.a"]


TESTS = Path(__file__).parent


def test_tests_mirror_the_packages_and_import_no_other_test() -> None:
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")} - {
        ".",
        "docs",
        "slurm",
        "fuzz",
        "programs",
    }
    packages = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    assert folders <= packages
    assert {folder.partition("/")[0] for folder in packages} - {".", "benchmarks"} == {
        folder.partition("/")[0] for folder in folders
    }
    for path in TESTS.rglob("*.py"):
        assert not {name for name in imports(path.read_text()) if name.startswith(("test_", "conftest"))}, path
