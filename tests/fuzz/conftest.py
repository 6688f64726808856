"""How often and with which seed broken inputs are tried, and the valid ones that they are made of."""

import os
from pathlib import Path

import pytest
from fuzz.places import make_place


@pytest.fixture(scope="session")
def fuzz_seed() -> int:
    return int(os.environ.get("FUZZ_SEED", "0"))


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each case is made; the folder `valid` beside it is what it is a copy of."""
    folder = tmp_path_factory.mktemp("fuzz") / "case"
    make_place(folder.with_name("valid"), folder)
    return folder
