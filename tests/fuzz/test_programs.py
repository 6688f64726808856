"""Each program is given valid input that was broken somewhere: it says in a few lines what is wrong, and loses nothing.

`FUZZ_INPUTS=1000 FUZZ_SEED=1 pytest tests/fuzz -s` tries more, and others; docs/architecture.md says how.
"""

import os
from collections import Counter
from pathlib import Path

import hydra
import pytest
from factories import PROGRAMS
from fuzz.breaking import break_file
from fuzz.odd import Draw, one_of
from fuzz.places import copied, is_given
from fuzz.running import run
from fuzz.trying import try_inputs
from fuzz.usages import USAGES, WRITTEN
from fuzz.words import broken_words
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ctl_lightning.runtime.config import config_dir, default_groups, option_names, primary_config

INPUTS = int(os.environ.get("FUZZ_INPUTS", "5"))

PLACES = ("dir", "output", "root", "_file", "docs", "catalogue")
"""Ends of the names of options that say where something is written."""


def names_of(program: str) -> tuple[list[str], list[str]]:
    """All options of a program, and all choices of its groups that need no network."""
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose(program), resolve=False)
    assert isinstance(config, dict)
    choices = []
    for group in default_groups(primary_config(program)):
        choices += [f"{group}={path.stem}" for path in sorted((config_dir() / group).glob("*.yaml"))]
    offline = [choice for choice in choices if program != "prepare" or not choice.startswith("data=")]
    return [name for name in option_names(config) if "_target_" not in name], offline  # type: ignore[arg-type]


@pytest.mark.long  # half a minute and more; the readers alone are in `make test`
@pytest.mark.parametrize("program", PROGRAMS)
def test_broken_input_is_a_line_and_nothing_is_lost(case: Path, fuzz_seed: int, program: str) -> None:
    options, choices = names_of(program)
    ends: Counter[int] = Counter()

    def attempt(draw: Draw) -> tuple[str | None, str]:
        usage = one_of(draw, USAGES[program])
        copied(case.with_name("valid"), case)
        words, faults = list(usage.words), []
        what = draw(st.sampled_from(("file", "file", "words", "both")))
        if what != "words":
            there = sorted(path for path in case.glob(one_of(draw, usage.files)) if path.is_file())
            path = one_of(draw, there)
            faults.append(break_file(draw, path, is_given(path, case)))
        if what != "file":
            words = broken_words(draw, words, options, choices)
        asked = any(word.partition("=")[0].endswith(PLACES) for word in words if word not in usage.words)
        found = run(program, words, case, dict(usage.stops), WRITTEN.get(program, ()), asked)
        ends[found.code] += 1
        return found.complaint, f"{words} {faults}"

    findings = try_inputs(INPUTS, fuzz_seed, attempt)
    print(f"{program}, seed {fuzz_seed}: {ends.total()} inputs, exit code 0 of {ends[0]}, 1 of {ends[1]}")
    assert not findings, findings
