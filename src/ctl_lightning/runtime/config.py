"""Finds conf/, makes the objects that a config describes, and refuses unknown options, missing values and wrong types."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import hydra
from omegaconf import DictConfig, OmegaConf

from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.launch import launched, run_id

OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
OmegaConf.register_new_resolver("launched", launched, replace=True)

Config = dict[str, Any]
"""A config as plain values, resolved."""


def config_dir() -> Path:
    """The folder conf/: inside the package in an installed wheel, beside src/ in a repository."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parents[1] / "conf"


def groups() -> set[str]:
    """Names of the outermost config groups, such as data and model."""
    return {path.name for path in config_dir().iterdir() if path.is_dir()}


def primary_config(name: str) -> Config:
    """Content of a program's config file, its defaults list included, not resolved."""
    return OmegaConf.to_container(OmegaConf.load(config_dir() / f"{name}.yaml"))  # type: ignore[return-value]


def default_groups(primary: Config) -> list[str]:
    """Names of the config groups in the defaults list of a program's config."""
    groups = [group for entry in primary["defaults"] if isinstance(entry, dict) for group in entry]
    return [group for group in groups if not group.startswith("override ")]


def resolved(config: DictConfig, **changed: Any) -> Config:
    """A composed config as plain values; `changed` replaces parts of it first, because the rest may depend on them."""
    return OmegaConf.to_container(OmegaConf.merge(config, literal(changed)), resolve=True)  # type: ignore[return-value]


def literal(value: Any) -> Any:
    """Plain values in the form in which OmegaConf reads their texts as they are, "${...}" in a folder's name included."""
    if isinstance(value, dict):
        return {name: literal(child) for name, child in value.items()}
    if isinstance(value, list):
        return [literal(child) for child in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def option_names(config: Config, prefix: str = "") -> Iterator[str]:
    """The full names of all options and groups of a config, such as data.root and data."""
    for key, child in config.items():
        yield f"{prefix}{key}"
        if isinstance(child, dict):
            yield from option_names(child, f"{prefix}{key}.")


def check_names(name: str, config: DictConfig) -> Config:
    """Refuses unknown options and missing values. Imports nothing but Hydra.

    Args:
        name: name of the program.
        config: its composed config.

    Returns:
        The config, resolved.

    Raises:
        InputError: an option that does not exist.
        MissingMandatoryValue: OmegaConf's error of an option that needs a value.
    """
    primary = primary_config(name)
    known = {*primary, *default_groups(primary), "experiment"} - {"defaults", "hydra"}
    for key in config:
        if key not in known:
            raise InputError(
                f"there is no option or group {key!r}{suggestion(str(key), known)}; there are: {', '.join(sorted(known))}"
            )
    values: Config = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    for group, options in primary.items():
        if isinstance(options, dict) and group != "hydra":
            left_open = _left_open(primary, group)
            given = {
                name for name, value in values.get(group, {}).items() if value is not None or name not in left_open
            }
            for option in given - options.keys():
                raise InputError(f"there is no option '{group}.{option}'{suggestion(option, options)}")
    return values


def _left_open(primary: Config, group: str) -> set[str]:
    """Options of a group which a file in the defaults list of a program's config (data/base/as_trained@data) sets to null: they are not taken."""
    files = [entry.partition("@") for entry in primary["defaults"] if isinstance(entry, str)]
    return {str(name) for file, _, at in files if at == group for name in OmegaConf.load(config_dir() / f"{file}.yaml")}


def check_values(values: Mapping[str, Any]) -> None:
    """Compares the options of every `_target_` of a resolved config with the class's annotations. Imports the classes.

    Raises:
        InputError: an option that a class does not have, or a value of another type.
    """
    for key, value in values.items():
        _check_node(value, str(key))


def _check_node(node: object, where: str) -> None:
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        _check_node(value, f"{where}.{name}")
    if node.get("_target_") is None:
        return
    try:
        target = hydra.utils.get_class(node["_target_"])
    except Exception as error:  # whatever importing a module of the user's raises
        reason = " ".join(str(error).split())
        raise InputError(f"{where}._target_={node['_target_']}: there is no such class ({reason})") from None
    options = {name: value for name, value in node.items() if name != "_target_"}
    if hasattr(target, "option_hints"):  # annotations that depend on what is chosen
        _check_hints(options, target.option_hints(options), where)
        return
    constructor = target.__init__  # type: ignore[misc]
    known = [name for name in inspect.signature(constructor).parameters if name != "self"]
    try:
        hints = get_type_hints(constructor, include_extras=True)
    except NameError:  # a foreign class whose annotations are for type checkers alone
        hints = dict.fromkeys(known, Any)
    if "kwargs" in known:
        options = {name: value for name, value in options.items() if name in known}
    _check_hints(options, {name: hints[name] for name in known}, where)


def _check_hints(options: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    """Compares options with annotations; nested options have a mapping of annotations. Raises InputError."""
    for name, value in options.items():
        if isinstance(value, dict) and "_target_" in value:
            continue
        if name not in hints:
            raise InputError(
                f"there is no option '{where}.{name}'{suggestion(name, hints)}; there are: {', '.join(hints)}"
            )
        hint = hints[name]
        if isinstance(hint, Mapping) and isinstance(value, dict):
            _check_hints(value, hint, f"{where}.{name}")
        else:
            _check_value(value, dict[str, Any] if isinstance(hint, Mapping) else hint, f"{where}.{name}")


def _check_value(value: object, hint: Any, where: str) -> None:
    from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return  # a foreign class's annotation that cannot be checked
    except ValidationError as error:
        first = error.errors()[0]
        inner = [str(part) for part in first["loc"] if isinstance(value, dict) and part in value]
        options = _choices(hint, inner) if first["type"] == "literal_error" else []
        place = ".".join([where, *inner])
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{place}={first['input']!r}: {message}{suggestion(str(first['input']), options)}") from None


def _choices(hint: Any, inner: Sequence[str]) -> list[str]:
    """The values that an annotation lists; `inner`: names that lead from it to the annotation of a nested option."""
    for name in inner:
        hint = get_type_hints(hint)[name]
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    return [choice for part in get_args(hint) for choice in _choices(part, ())]


def build(node: DictConfig | Config, where: str, **given: Any) -> Any:
    """Makes the object that a config node describes. Nothing else instantiates.

    Hydra's own `instantiate` would send every argument through OmegaConf, which reads "${...}" and "???" in a name of a
    category or a folder as its language.

    Args:
        node: config node with `_target_` and plain values.
        where: place of the node in the config, such as "data", for messages.
        given: further arguments, which the program adds.

    Raises:
        InputError: the node has no `_target_`, or a value that the object refuses.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    options: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    if not isinstance(options, dict) or "_target_" not in options:
        raise InputError(f"{where}={options}: expected options with a _target_, the class to make")
    target = hydra.utils.get_class(options["_target_"])
    arguments = {
        name: build(value, f"{where}.{name}") if isinstance(value, dict) and "_target_" in value else value
        for name, value in options.items()
        if name != "_target_"
    }
    try:
        return target(**arguments | given)
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None


def check_switches(config: Mapping[Any, Any], *names: str) -> None:
    """Raises InputError if one of these options is neither true nor false: "no" is a word, and so would be true."""
    for name in names:
        if not isinstance(config[name], bool):
            raise InputError(f"{name}={config[name]}: must be true or false")


def check_options(values: Mapping[str, Any], hints: Mapping[str, Any], prefix: str = "") -> None:
    """Compares options of a program that belong to no `_target_` with annotations of their own.

    Args:
        values: option name -> value.
        hints: option name -> annotation; an option without one is not compared.
        prefix: prefix of the option names in messages, such as "data.".

    Raises:
        InputError: a value of another type.
    """
    for name, value in values.items():
        if name in hints:
            _check_value(value, hints[name], f"{prefix}{name}")
