"""How a command line is broken: odd words, odd values of every option, and what a finger slips on."""

import json
import os
from collections.abc import Sequence

from fuzz.odd import ODD_TEXTS, ODD_VALUES, Draw, one_of, place_in
from hypothesis import strategies as st

ODD_WORDS = (
    *(
        "",
        " ",
        "=",
        "=1",
        "a",
        "a=",
        "a.b=1",
        "-",
        "--",
        "-x",
        "--bogus",
        "--bogus=1",
        "-m",
        "--multirun",
        "--cfg",
        "--cfg=job",
        "--help",
    ),
    *(
        "--resolve",
        "--info",
        "--info=x",
        "--hydra-help",
        "--version",
        "--package=a",
        "--config-name=x",
        "--config-dir=nowhere",
        "--config-path=x",
    ),
    *(
        "~data",
        "~paths",
        "~seed",
        "~",
        "+",
        "++",
        "+a=1",
        "++seed=1",
        "+seed=1",
        "+data.new=1",
        "paths=null",
        "paths=1",
        "data=null",
    ),
    *(
        "hydra.run.dir=",
        "hydra.run.dir=runs/x",
        "hydra.run.dir=taken",
        "hydra.run.dir=photos/a.jpg/x",
        "hydra.run.dir=runs/a\nb",
    ),
    *(
        "hydra.job.chdir=true",
        "hydra.mode=MULTIRUN",
        "hydra=null",
        "hydra/job_logging=none",
        "hydra.verbose=true",
        "hydra.job.name=x",
    ),
    *(
        "seed=1,2",
        "seed=range(1,3)",
        "seed=choice(1,2)",
        "seed='1",
        'seed="1',
        "seed=[1",
        "seed={1:",
        "seed=(1)",
        "\udce9=1",
        "é=1",
    ),
    *(
        "'a=1'",
        "a b=1",
        "seed 1",
        "seed:1",
        "paths.run_dir=",
        "paths.output_dir=photos/a.jpg",
        "data@x=folder",
        "device=cuda:9",
        "device=x",
    ),
)

COSTLY = ("workers", "devices", "num_nodes", "scenes", "num_sanity_val_steps", "rounds", "seconds", "search_products")
"""Options of which a huge number is obeyed, and keeps a machine busy."""


def odd_text(draw: Draw, option: str) -> str:
    """A value as it would be typed."""
    values = ODD_TEXTS if option.rpartition(".")[2].endswith(COSTLY) else ODD_VALUES
    value = one_of(draw, values)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)[:2000]


def broken_words(draw: Draw, words: Sequence[str], options: Sequence[str], choices: Sequence[str]) -> list[str]:
    """A command line of which one to three words are wrong.

    Args:
        draw: chooses.
        words: valid command line.
        options: names of all options of the program.
        choices: choices of groups, such as "model=siamese".
    """
    broken = list(words)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("value", "value", "value", "value", "word", "drop", "letters", "choice")))
        place = place_in(draw, len(broken))
        if kind == "value":
            option = one_of(draw, options)
            broken.append(f"{option}={odd_text(draw, option)}")
        elif kind == "word":
            broken.insert(place, one_of(draw, ODD_WORDS))
        elif kind == "choice" and choices:
            broken.append(one_of(draw, choices))
        elif broken and kind == "drop":
            del broken[place]
        elif broken:
            word, cut = broken[place], place_in(draw, len(broken[place]) + 1)
            broken[place] = (
                word[:cut]
                + draw(st.text("'\"[]{}(),=:.~+-${}\\ aé1", max_size=3))
                + word[cut + draw(st.integers(0, 2)) :]
            )
    return [word for word in broken if _can_be_typed(word)]


def _can_be_typed(word: str) -> bool:
    """Whether a system passes such a word on."""
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False
