"""Finds conf/, turns composed configs into objects, and turns what a user got wrong into one line."""

import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from ctl_lightning.runtime.errors import ERROR, InputError, suggestion
from ctl_lightning.runtime.launch import is_first, run_id, started

OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
OmegaConf.register_new_resolver("started", started, replace=True)

Config = dict[str, Any]

SHORT = {"catalogue": "catalogue.dir"}
"""Options that may be written shorter on the command line."""

EXPECTED = (InputError, HydraException, OmegaConfBaseException, OSError)
"""Errors that are the user's to mend."""

EXTRAS = {"hydra/launcher/joblib": "parallel", "hydra/launcher/submitit_slurm": "slurm"}
"""Configs that other packages bring, and the extra that installs them."""

LAUNCHERS = ("joblib", "submitit")
"""Who runs the jobs of a multirun; their own errors say that a job's process is gone, or could not be started."""


def config_dir() -> Path:
    """The folder conf/: inside the package in an installed wheel, beside src/ in a repository."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parents[1] / "conf"


def program(name: str) -> Callable[[Callable[[DictConfig], float | None]], Callable[[], None]]:
    """Makes a Hydra program of a function of the composed config `name`.yaml.

    What a user can mend is one line on stderr and exit code 1. HYDRA_FULL_ERROR=1 shows the traceback instead.
    """

    # Processes that this one starts inherit what it tells Hydra.
    wants_traceback = os.environ.get("CTL_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR")) == "1"

    def stop(error: Exception) -> NoReturn:
        print(f"{name}: {one_line(error, name)}", file=sys.stderr)
        raise SystemExit(1)

    def decorate(task: Callable[[DictConfig], float | None]) -> Callable[[], None]:
        @functools.wraps(task)
        def checked(config: DictConfig) -> float | None:
            several = HydraConfig.get().mode != RunMode.RUN
            try:
                try:
                    _check_config(name, config)
                except EXPECTED as error:
                    folder = Path(HydraConfig.get().runtime.output_dir)
                    if several and not (folder / "results.json").exists():  # the table of the sweep will ask why
                        (folder / ERROR).write_text(one_line(error, name) + "\n", encoding="utf-8")
                    raise
                return task(config)
            except EXPECTED as error:
                if several or wants_traceback:
                    raise
                # Hydra would print a line of its own about an exception; in a multirun that line names the job.
                stop(error)

        run = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(checked)

        @functools.wraps(task)
        def main() -> None:
            if task.__module__ == "__main__":
                # Launchers send a job to another process by where it can be imported from; from here it can not.
                importlib.import_module(f"ctl_lightning.{name}").main()
                return
            sys.argv[1:] = spelled_out(sys.argv[1:])
            os.environ["CTL_FULL_ERROR"] = str(int(wants_traceback))
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves the printing of errors to us
            if not is_first():  # the first process's files will do
                sys.argv += ["hydra/job_logging=stdout", "hydra.output_subdir=null"]
            try:
                run()
            except KeyboardInterrupt:
                print(
                    f"{name}: interrupted; run the same command again: what is fetched, packed, computed or finished is kept",
                    file=sys.stderr,
                )
                sys.exit(130)
            except EXPECTED as error:
                if wants_traceback:
                    raise
                stop(error)
            except Exception as error:
                if wants_traceback or type(error).__module__.partition(".")[0] not in LAUNCHERS:
                    raise
                said = (str(error).strip().splitlines() or ["without a word"])[0]
                stop(
                    InputError(
                        f"the launcher gave up ({type(error).__name__}: {said}); if a job was killed or out of memory, python -m "
                        "ctl_lightning.sweep_table folder=DIR tells which, and the same command with hydra.sweep.dir=DIR ckpt_path=auto "
                        "goes on"
                    )
                )

        return main

    return decorate


def spelled_out(words: Sequence[str]) -> list[str]:
    """A command line without what is short for something else."""
    split = [word.partition("=") for word in words]
    return ["".join((SHORT.get(name, name) if equals else name, equals, value)) for name, equals, value in split]


def one_line(error: Exception, name: str) -> str:
    """What an expected error says to the user of program `name`."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file in EXTRAS:
        return (
            f"{error.missing_cfg_file} is not installed; pip install 'ctl_lightning[{EXTRAS[error.missing_cfg_file]}]'"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = ", ".join(error.options)
        return f"there is no {group}={choice}{suggestion(choice, error.options)}; there are: {options}"
    if isinstance(error, ConfigCompositionException):
        return _bad_override(error, name)
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read the option {error.override}: write NAME=VALUE, and a value with special characters in quotes of its own, "
            "such as 'data.root=\"my photos (2)\"'; for your home write $HOME, not ~"
        )
    if isinstance(error, MissingMandatoryValue):
        key = next((short for short, long in SHORT.items() if long == error.full_key), error.full_key)
        return f"{key} has no value; give one with {key}=VALUE"
    if isinstance(error, OSError) and error.filename:
        return (
            f"{error.filename}: {error.strerror}; choose another place with hydra.run.dir=DIR (runs), "
            "paths.cache_dir=DIR (stores), data.root=DIR (data), or catalogue=DIR and output=FILE where there are such"
        )
    message = " ".join(str(error).split())
    if "in DataLoader worker process" in message:  # torch puts the worker's traceback before it
        message = message.rpartition(f"{type(error).__name__}: ")[2]
    return message


def _bad_override(error: ConfigCompositionException, name: str) -> str:
    message = f"{error} {error.__cause__ or ''}"
    found = re.search(r"Could not (?:override|append|delete)[^']*'([^']+)'", message)
    if not found:
        return " ".join(message.split())
    key = found.group(1)
    if "No match in the defaults list" in message:
        groups = sorted(path.name for path in config_dir().iterdir() if path.is_dir())
        primary = OmegaConf.load(config_dir() / f"{name}.yaml")
        if key == "experiment" and "model" in {
            group for entry in primary.defaults for group in entry if entry != "_self_"
        }:
            return f"write +{key}=NAME: {key} is not chosen by default"
        if key in groups:
            known = [str(option) for option in primary if option not in ("defaults", "hydra")]
            return f"{name} has no option {key!r}{suggestion(key, known)}; all options: --cfg job"
        return f"there is no config group {key!r}{suggestion(key, groups)}; there are: {', '.join(groups)}"
    if "in struct" in message:
        known = list(_keys(_compose(name)))
        near = suggestion(key, known)
        if not near:  # the last word may be right in another place
            near = suggestion(key.rpartition(".")[2], [word.rpartition(".")[2] for word in known])
        return f"there is no option {key!r}{near}; all options: --cfg job"
    return " ".join(message.split())


def _compose(name: str) -> Config:
    """The config of a program with the choices of groups that the command line makes."""
    groups = {path.name for path in config_dir().iterdir() if path.is_dir()}
    words = [word for word in sys.argv[1:] if word.lstrip("+").partition("=")[0] in groups and "," not in word]
    for choices in (words, []):
        GlobalHydra.instance().clear()
        with (
            suppress(HydraException, OmegaConfBaseException),  # the choices are not what is wrong here
            hydra.initialize_config_dir(str(config_dir()), version_base="1.3"),
        ):
            return OmegaConf.to_container(hydra.compose(name, choices), resolve=False)  # type: ignore[return-value]
    return {}


def _keys(config: Config, prefix: str = "") -> Iterator[str]:
    for key, child in config.items():
        yield f"{prefix}{key}"
        if isinstance(child, dict):
            yield from _keys(child, f"{prefix}{key}.")


def _check_config(name: str, config: DictConfig) -> None:
    """Refuses unknown options and values of the wrong type before any work is done."""
    primary: Config = OmegaConf.to_container(OmegaConf.load(config_dir() / f"{name}.yaml"))  # type: ignore[assignment]
    groups = [group for entry in primary["defaults"] if isinstance(entry, dict) for group in entry]
    known = {*primary, *groups, "experiment"} - {"defaults", "hydra"}
    for key in config:
        if key not in known:
            raise InputError(
                f"there is no option or group {key!r}{suggestion(str(key), known)}; there are: {', '.join(sorted(known))}"
            )
    values: Config = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    for group, options in primary.items():
        if isinstance(options, dict) and group != "hydra":
            for option in values.get(group, {}).keys() - options.keys():
                raise InputError(f"there is no option '{group}.{option}'{suggestion(option, options)}")
    for key, value in values.items():
        _check(value, str(key))


def build(node: DictConfig, where: str, **given: Any) -> Any:
    """Makes the object that a config node describes. The one place that instantiates.

    Args:
        node: with `_target_` and plain values.
        where: the node's place in the config, for messages.
        given: what the program adds.

    Raises:
        InputError: no such description, or a value that the object refuses.
    """
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise InputError(f"{where}={node}: expected options with a _target_, the class to make")
    try:
        return hydra.utils.instantiate(node, **given, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from None
        if isinstance(cause, (ValueError, TypeError, ImportError, MisconfigurationException)):
            raise InputError(f"{where}: {' '.join(str(cause).split())}") from None
        raise


def check_switches(config: DictConfig, *names: str) -> None:
    """Raises InputError if one of these options is neither true nor false: "no" is a word, and so would be true."""
    for name in names:
        if not isinstance(config[name], bool):
            raise InputError(f"{name}={config[name]}: must be true or false")


def check_options(values: Mapping[str, Any], hints: Mapping[str, Any], prefix: str = "") -> None:
    """Compares the options of a program that no `_target_` takes with annotations of their own.

    Args:
        values: name -> value.
        hints: name -> annotation, of those that are compared.
        prefix: of the names in messages, such as "data.".

    Raises:
        InputError: a value of another type.
    """
    for name, value in values.items():
        if name in hints:
            _check_value(value, hints[name], f"{prefix}{name}")


def _check(node: object, where: str) -> None:
    """Compares the options of every `_target_` in a node with the annotations of its constructor."""
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        _check(value, f"{where}.{name}")
    if "_target_" not in node:
        return
    target = hydra.utils.get_class(node["_target_"])
    options = {name: value for name, value in node.items() if name != "_target_"}
    if hasattr(target, "option_hints"):  # they depend on what is chosen
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
    """Compares options with annotations, of which options within options have a mapping. Raises InputError."""
    for name, value in options.items():
        if isinstance(value, dict) and "_target_" in value:
            continue
        if name not in hints:
            raise InputError(
                f"there is no option '{where}.{name}'{suggestion(name, hints)}; there are: {', '.join(hints)}"
            )
        if isinstance(hints[name], Mapping) and isinstance(value, dict):
            _check_hints(value, hints[name], f"{where}.{name}")
        else:
            _check_value(value, hints[name], f"{where}.{name}")


def _check_value(value: object, hint: Any, where: str) -> None:
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return  # a foreign class's annotation that can not be checked
    except ValidationError as error:
        first = error.errors()[0]
        inner = [str(part) for part in first["loc"] if isinstance(value, dict) and part in value]
        options = re.findall(r"'([^']*)'", first["ctx"]["expected"]) if first["type"] == "literal_error" else []
        place = ".".join([where, *inner])
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{place}={first['input']!r}: {message}{suggestion(str(first['input']), options)}") from None
