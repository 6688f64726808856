"""What every program is: a command line, a config, and errors of one line. It answers before anything heavy is imported."""

import functools
import importlib
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from threading import Event
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from ctl_lightning.runtime.addresses import without_passwords
from ctl_lightning.runtime.config import (
    Config,
    check_names,
    check_values,
    config_dir,
    default_groups,
    groups,
    option_names,
    primary_config,
)
from ctl_lightning.runtime.environment import own_version
from ctl_lightning.runtime.errors import ERROR, InputError, suggestion
from ctl_lightning.runtime.launch import is_first
from ctl_lightning.runtime.leaving import leaving
from ctl_lightning.runtime.pace import settle_pace
from ctl_lightning.runtime.words import SHORT, spelled_out

EXPECTED = (InputError, HydraException, OmegaConfBaseException, OSError)
"""Errors that are the user's to mend."""

EXTRAS = {"hydra/launcher/joblib": "parallel", "hydra/launcher/submitit_slurm": "slurm"}
"""Configs that other packages bring, and the extra that installs them."""

LAUNCHERS = ("joblib", "submitit")
"""Who runs the jobs of a multirun; their own errors say that a job's process is gone, or could not be started."""

LONGEST = 1500
"""Most letters of an error's line; a name or a value in it can be of any length."""

_began = Event()
"""Set once a config was composed and its job began: from there on no error is about reading the command line."""

Task = Callable[[DictConfig], float | None]

if sys.version_info >= (3, 14):
    # From there on argparse checks that a help text is one; in Hydra 1.3 one of them is an object that becomes a text later.
    ArgumentParser._check_help = lambda self, action: None  # type: ignore[attr-defined]


def program(name: str) -> Callable[[Task], Callable[[], None]]:
    """Makes a Hydra program of a function of the composed config `name`.yaml.

    Names, choices and missing values are checked before torch is imported; the function imports what it needs itself. What a user can
    mend is one line on stderr and exit code 1. HYDRA_FULL_ERROR=1 shows the traceback instead.
    """

    def decorate(task: Task) -> Callable[[], None]:
        run = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(_checked(name, task))

        @functools.wraps(task)
        def main() -> None:
            if task.__module__ == "__main__":
                # Launchers send a job to another process by where it can be imported from; from here it cannot.
                importlib.import_module(f"ctl_lightning.{name}").main()
            else:
                with leaving():
                    _run(name, run)

        return main

    return decorate


def _begin() -> None:
    _began.set()  # not in the task itself: launchers send that to other processes, with all that it names


def _checked(name: str, task: Task) -> Task:
    """The task behind the checks of its config."""

    @functools.wraps(task)
    def checked(config: DictConfig) -> float | None:
        _begin()
        several = HydraConfig.get().mode != RunMode.RUN
        try:
            try:
                values = check_names(name, config)
                settle_pace()  # before torch is there
                check_values(values)
            except EXPECTED as error:
                folder = Path(HydraConfig.get().runtime.output_dir)
                if several and not (folder / "results.json").exists():  # the table of the sweep will ask why
                    (folder / ERROR).write_text(one_line(error, name) + "\n", encoding="utf-8")
                raise
            return task(config)
        except EXPECTED as error:
            if several or _wants_traceback():
                raise
            # Hydra would print a line of its own about an exception; in a multirun that line names the job.
            _stop(name, error)

    return checked


def _run(name: str, run: Callable[[], object]) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without UTF-8, or a file's name that is no text
            stream.reconfigure(errors="backslashreplace")
    os.environ["CTL_FULL_ERROR"] = str(int(_wants_traceback()))  # processes that this one starts inherit it
    _began.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves the printing of errors to us
    try:
        if {"-h", "--help"} & {*sys.argv[1:]}:
            print(help_text(name), flush=True)
            return
        if "--version" in sys.argv[1:]:  # Hydra would print its own
            print(f"ctl_lightning {own_version()}", flush=True)
            return
        sys.argv[1:] = spelled_out(_flags_last(without_passwords(sys.argv[1:])), name)
        if not is_first():  # the first process's files will do
            sys.argv += ["hydra/job_logging=stdout", "hydra.output_subdir=null"]
        run()
    except KeyboardInterrupt:
        print(
            f"{name}: interrupted; run the same command again: what is fetched, packed, computed or finished is kept",
            file=sys.stderr,
        )
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except EXPECTED as error:
        if _wants_traceback():
            raise
        _stop(name, error)
    except Exception as error:
        said = (str(error).strip().splitlines() or ["without a word"])[0][:200]
        # In a multirun jobs may have begun in other processes, and Hydra still has its own config.
        if not (_wants_traceback() or _began.is_set() or HydraConfig.initialized()):
            _stop(
                name, InputError(f"Hydra cannot read these options ({type(error).__name__}: {said}); --help lists them")
            )
        if _wants_traceback() or type(error).__module__.partition(".")[0] not in LAUNCHERS:
            raise
        _stop(
            name,
            InputError(
                f"the launcher gave up ({type(error).__name__}: {said}); if a job was killed or out of memory, python -m "
                "ctl_lightning.sweep_table folder=DIR tells which, and the same command with hydra.sweep.dir=DIR ckpt_path=auto "
                "goes on"
            ),
        )


def _flags_last(words: Sequence[str]) -> list[str]:
    """A command line with its flags behind its options, in one row as Hydra wants these. Raises InputError: no such flag."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; Hydra's flags: --hydra-help")

    parser.error = refuse  # type: ignore[method-assign]  # argparse would print its usage and exit with 2
    found, rest = parser.parse_known_args(list(words))
    options = [*found.overrides, *rest]
    for word in rest:
        if word.startswith("-"):
            known = [flag for flag in parser._option_string_actions if flag.startswith("--")]
            refuse(f"there is no flag {word}{suggestion(word, known)}")
    flags = list(words)
    for option in options:
        flags.remove(option)
    return [*options, *flags]


def _wants_traceback() -> bool:
    return os.environ.get("CTL_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR")) == "1"


def _stop(name: str, error: Exception) -> NoReturn:
    line = one_line(error, name)
    if len(line) > LONGEST:  # what is wrong is at its beginning, the way out at its end
        line = f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
    print(f"{name}: {line}", file=sys.stderr)
    raise SystemExit(1)


def help_text(name: str) -> str:
    """What `--help` prints: the program's config file, which says what each option means, and the choices of its groups.

    Hydra's own lists the options without a word about them, and takes five times as long.
    """
    header, _, body = (config_dir() / f"{name}.yaml").read_text(encoding="utf-8").partition("\n\n")
    chosen = _groups_of(name)
    lines = [line.removeprefix("#").removeprefix(" ") for line in header.splitlines()]
    if chosen:
        lines += ["", "Groups of options, chosen with GROUP=NAME; conf/GROUP/NAME.yaml says what each is for:"]
        for group in chosen:
            names = sorted(path.stem for path in (config_dir() / group.lstrip("+")).glob("*.yaml"))
            lines.append(f"  {group}: {', '.join(names)}")
    options = "\n\n".join(part for part in body.split("\n\n") if not part.startswith(("defaults:", "hydra:")))
    lines += ["", "Options, changed with OPTION=VALUE or GROUP.OPTION=VALUE:", "", options.rstrip(), ""]
    lines += [
        "All options of the groups that are chosen: --cfg job. Several runs: -m. The version: --version. Hydra's own flags: --hydra-help."
    ]
    return "\n".join(lines)


def _groups_of(name: str) -> list[str]:
    """Names of the config groups that a program has, as they are written before `=NAME`."""
    return [*default_groups(primary_config(name)), *(["+experiment"] if name == "train" else [])]


def _of_other_groups(choice: str, name: str) -> str:
    """Says in which of a program's groups there is a choice of this name."""
    found = [group for group in _groups_of(name) if (config_dir() / group.lstrip("+") / f"{choice}.yaml").exists()]
    return f", but {' and '.join(f'{group}={choice}' for group in found)}" if found else ""


def one_line(error: Exception, name: str, words: Sequence[str] | None = None) -> str:
    """What an expected error says to the user of a program.

    Args:
        error: one of EXPECTED.
        name: name of the program, such as "train".
        words: its command line; None: that of this process.
    """
    words = sys.argv[1:] if words is None else words
    if isinstance(error, MissingConfigException) and error.missing_cfg_file in EXTRAS:
        return (
            f"{error.missing_cfg_file} is not installed; pip install 'ctl_lightning[{EXTRAS[error.missing_cfg_file]}]'"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        near = suggestion(choice, error.options) or _of_other_groups(choice, name)
        return f"there is no {group}={choice}{near}; there are: {', '.join(error.options)}"
    if isinstance(error, ConfigCompositionException):
        return _unknown(error, name, words) or " ".join(f"{error} {error.__cause__ or ''}".split())
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


def _unknown(error: ConfigCompositionException, name: str, words: Sequence[str]) -> str | None:
    """What is said of an option or a group that there is not; None: something else is wrong."""
    cause = error.__cause__
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.full_key:
        # It names the first part that is unknown; the command line has all of it.
        given = [word.lstrip("+~").partition("=")[0] for word in words]
        key = next((one for one in given if f"{one}.".startswith(f"{cause.full_key}.")), str(cause.full_key))
        known = list(option_names(_compose(name, words)))
        near = suggestion(key, known)
        if not near:  # the last word may be right in another place
            near = suggestion(key.rpartition(".")[2], [word.rpartition(".")[2] for word in known])
        return f"there is no option {key!r}{near}; all options: --cfg job"
    if cause is not None:
        return None
    primary, existing = primary_config(name), groups()
    for override in _parsed(words):
        group = override.key_or_group
        if (
            group in existing
            and group not in default_groups(primary)
            and not (override.is_add() or override.is_delete())
        ):
            if group == "experiment" and "model" in default_groups(primary):
                return f"write +{group}=NAME: {group} is not chosen by default"
            options = [str(option) for option in primary if option not in ("defaults", "hydra")]
            return f"{name} has no option {group!r}{suggestion(group, options)}; all options: --cfg job"
    return None


def _parsed(words: Sequence[str]) -> list:  # type: ignore[type-arg]  # of Hydra's Override
    with suppress(HydraException):
        return OverridesParser.create().parse_overrides([word for word in words if not word.startswith("-")])
    return []


def _compose(name: str, words: Sequence[str]) -> Config:
    """The config of a program with the choices of groups that the command line makes."""
    choices = [word for word in words if word.lstrip("+").partition("=")[0] in groups() and "," not in word]
    for some in (choices, []):
        GlobalHydra.instance().clear()
        with (
            suppress(HydraException, OmegaConfBaseException),  # the choices are not what is wrong here
            hydra.initialize_config_dir(str(config_dir()), version_base="1.3"),
        ):
            return OmegaConf.to_container(hydra.compose(name, some), resolve=False)  # type: ignore[return-value]
    return {}
