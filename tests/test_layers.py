"""The one-way flow: data -> style -> module; nothing below imports a program."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "ctl_lightning"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = {
    f"ctl_lightning.{name}"
    for name in (
        *("train", "prepare", "benchmark", "evaluate", "rerank", "paper", "check_splits", "sweep_table"),
        *("catalogue", "recommend", "demo", "export"),
    )
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_there_are_modules() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    folder, found = path.relative_to(PACKAGE).parts[0], imports(path)
    if ".".join(["ctl_lightning", *path.relative_to(PACKAGE).with_suffix("").parts]) not in PROGRAMS:
        assert not found & PROGRAMS
    ours = {name for name in found if name.startswith("ctl_lightning.")}
    if folder == "models" and path.stem != "popularity":
        assert not any(name.split(".")[0] == "lightning" for name in found)
        assert all(name.startswith(("ctl_lightning.models", "ctl_lightning.runtime")) for name in ours)
    if folder == "data":
        assert all(name.startswith(("ctl_lightning.data", "ctl_lightning.runtime")) for name in ours)
