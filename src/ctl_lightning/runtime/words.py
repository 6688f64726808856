"""How a command line is read: what is short for something else, and which options are texts, taken as they were typed.

Hydra reads 12_3 as the number 123, 1e5 as 100000.0, no as false, and {a,b} as a list of its own; an id, a name or a
path is none of these.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from ctl_lightning.runtime.config import default_groups, literal, primary_config

SHORT = {"catalogue": "catalogue.dir"}
"""Options that may be written shorter on the command line."""

NAMES = frozenset(
    {
        "api_key",
        "scene",
        "category",
        "catalogue.collection",
        "catalogue.part",
        "data.exclude_categories",
        "data.salt",
        "title",
    }
)
"""Options that name something of the user's data; "${" in them is two letters like any others."""

TEXTS = NAMES | {
    *(
        "against",
        "candidates",
        "catalogue.dir",
        "categories",
        "catalogue.url",
        "ckpt_path",
        "clean_by",
        "device",
        "docs",
        "examples",
        "folder",
    ),
    *("image_hosts", "root_path"),
    *("entity", "name", "project"),
    *("host", "hub", "images", "init_from", "license", "max_upload", "output", "picture", "products"),
    *("backbone.name", "backbone.pooled_layer", "backbone.region_layer", "backbone.weights"),
    *(
        f"data.source.columns.{name}"
        for name in ("scene", "product", "category", "bbox", "left", "top", "right", "bottom")
    ),
    *(f"data.source.columns.{name}" for name in ("x", "y", "width", "height")),
    *("data.cache_dir", "data.chunks_dir", "data.root", "data.split_file", "data.triplets_file"),
    *(f"data.source.{name}" for name in ("categories_file", "images_dir", "images_url", "metadata_url", "pairs_file")),
    *("hydra.launcher.account", "hydra.launcher.partition", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"),
    *(f"logger.tensorboard.{name}" for name in ("name", "save_dir", "version")),
    *(f"logger.mlflow.{name}" for name in ("artifact_location", "experiment_name", "run_name", "tracking_uri")),
    *(f"logger.mlflow.tags.{name}" for name in ("method", "protocol", "seed")),
    *(f"logger.wandb.{name}" for name in ("entity", "group", "id", "job_type", "name", "notes", "project")),
    *("logger.wandb.save_dir", "logger.wandb.tags"),
    *(f"paths.{name}" for name in ("cache_dir", "data_dir", "output_dir", "run_dir")),
}
"""Options that are ids, names or paths; in those that are not NAMES, "${...}" is a reference if there is such an option."""

LISTS = frozenset({"category", "image_hosts", "data.exclude_categories", "logger.wandb.tags"})
"""Those of TEXTS that may be a list."""

SWEEPS = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
"""What several values of an option are written as beside a,b,c."""


def spelled_out(words: Sequence[str], name: str) -> list[str]:
    """A command line in Hydra's grammar: nothing is short for something else, and texts that it would misread are quoted.

    Args:
        words: the words that were typed.
        name: name of the program, such as "train".
    """
    several = bool({"-m", "--multirun"} & {*words})
    return [_spelled_out(word, name, several) for word in words]


def _spelled_out(word: str, name: str, several: bool) -> str:
    found = re.fullmatch(r"(\+{0,2})([\w.]+)=(.*)", word, re.DOTALL)
    if found is None:
        return word
    sign, option, value = found.groups()
    option = SHORT.get(option, option)
    if option in TEXTS and value and not (value == "null" and _may_be_null(option, name)):
        if several and not SWEEPS.fullmatch(value):
            value = ",".join(_text(part, option, name) for part in _parts(value))
        elif not several:
            value = _text(value, option, name)
    return f"{sign}{option}={value}"


def _may_be_null(option: str, name: str) -> bool:
    """Whether null means that there is none; to a program that needs a value, it is a name like any other."""
    group, _, last = option.rpartition(".")
    primary = primary_config(name)
    found = primary.get(group, {}).get(last) if group else primary.get(option)
    return found != "???"


def _text(value: str, option: str, name: str) -> str:
    """A value in Hydra's grammar, as it is where Hydra reads it as it is."""
    if option in LISTS and value[:1] == "[" and value[-1] == "]":
        return f"[{','.join(_text(part, option, name) for part in _parts(value[1:-1]))}]"
    quote, text = value[:1], value if option not in NAMES and _refers(value, name) else literal(value)
    if quote in ("'", '"') and len(value) > 1 and value[-1] == quote:
        return text
    with suppress(HydraException):
        read = OverridesParser.create().parse_override(f"x={text}").value()
        if read == text and isinstance(read, str):
            return text
    return quoted(text)


def _refers(value: str, name: str) -> bool:
    """Whether every ${...} of a value is something that there is: a resolver, or an option of the program."""
    found = re.findall(r"\$\{([^}:.\[]*(?:\.env)?)([:.}\[])", value)
    known = {"hydra", "oc", *primary_config(name), *default_groups(primary_config(name))}
    whole = len(found) == value.count("${")
    return whole and all(OmegaConf.has_resolver(word) if end == ":" else word in known for word, end in found)


def quoted(text: str) -> str:
    """A text in quotes of Hydra's grammar, whatever characters it has."""
    # Backslashes count only before a quote: there each is doubled.
    escaped = re.sub(r"(\\+)('|$)", r"\1\1\2", text).replace("'", "\\'")
    return f"'{escaped}'"


def _parts(value: str) -> Iterator[str]:
    """What commas outside quotes and brackets part."""
    begin, quote, depth = 0, "", 0
    for place, letter in enumerate(value):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[({":
            depth += 1
        elif letter in "])}":
            depth -= 1
        elif letter == "," and depth <= 0:
            yield value[begin:place].strip()
            begin = place + 1
    yield value[begin:].strip()
