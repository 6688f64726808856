"""Runs a program in this process, as its command line would, and says what a user could complain about."""

import copy
import faulthandler
import functools
import importlib
import io
import logging
import os
import resource
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, TextIO, TypeVar
from unittest.mock import patch

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from ctl_lightning.runtime import place

SECONDS = 180
"""After so long a program counts as hanging."""

MEMORY = 6 * 2**30
"""More than this beyond what the process has is refused to a program, in bytes."""

MOST_LINES, MOST_LETTERS = 8, 2000
"""Of what a program says on stderr when it ends with an error."""

OWN = ("runs", "cache", "made")
"""Where programs may write."""


T = TypeVar("T")

State = dict[str, tuple[int, int]]
"""File -> its size and time; of a folder, zeros."""


class Reached(SystemExit):
    """The input was taken: what is left is work that other tests look at."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(0)


class HangError(BaseException):
    """A program takes too long."""


class Outcome(NamedTuple):
    """How a program ended."""

    code: int
    said: str
    complaint: str | None


def reached(*args: object, **kwargs: object) -> NoReturn:
    raise Reached


def run(
    program: str, words: list[str], folder: Path, stops: dict[str, Any], own: Sequence[str], asked: bool
) -> Outcome:
    """Runs a program.

    Args:
        program: its name, such as "train".
        words: its command line.
        folder: folder to run it in.
        stops: dotted names that are replaced meanwhile, so that long work is not begun.
        own: folders that it changes if all is well.
        asked: whether its words name other places to write to.
    """
    before, out, err = _state(folder), io.StringIO(), io.StringIO()
    code, complaint = 0, None
    with _as_a_process(program, words, folder, stops), redirect_stdout(out), redirect_stderr(err):
        try:
            importlib.import_module(f"ctl_lightning.{program}").main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except HangError:
            complaint = f"hangs: {_place()}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            complaint = f"{type(error).__name__} at {_place()}: {str(error)[:200]}"
    complaint = complaint or _of_words(program, code, out.getvalue(), err.getvalue())
    return Outcome(
        code,
        err.getvalue(),
        complaint or _of_files(before, _state(folder), own if code == 0 else (), (*own, ".") if asked else own),
    )


def _place() -> str:
    """The last two places of this package in the traceback of the error at hand."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [frame for frame in frames if "ctl_lightning" in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in [*reversed(own[-3:]), frames[-1]])


def _of_words(program: str, code: int, out: str, err: str) -> str | None:
    lines = [line for line in err.splitlines() if line.strip()]
    if code not in (0, 1):
        return f"exit code {code}"
    if "Traceback (most recent" in out + err:
        return f"prints a traceback: {lines[-1] if lines else ''}"
    if code == 1 and not any(line.startswith(f"{program}: ") for line in lines):
        return f"ends with 1 and no line that says why: {err[:100]!r}"
    if len(lines) > MOST_LINES or len(err) > MOST_LETTERS:
        return f"says {len(lines)} lines of {len(err)} letters: {err[:100]!r}"
    return None


def _of_files(before: State, after: State, may_change: Sequence[str], may_grow: Sequence[str]) -> str | None:
    lost = [name for name, state in before.items() if after.get(name) != state and not _within(name, may_change)]
    if lost:
        return f"changed {lost[0]}"
    more = sorted(name for name in after.keys() - before.keys() if not _within(name, may_grow))
    return f"wrote {more[0]}" if more else None


def _within(name: str, folders: Sequence[str]) -> bool:
    return "." in folders or Path(name).parts[0] in folders or Path(name).name == ".lock"


def _state(folder: Path) -> State:
    """What lies in a folder, but for where programs may write."""
    found: State = {}
    for path, folders, files in os.walk(folder):
        if path == str(folder):
            folders[:] = [name for name in folders if name not in OWN]
        for name in [*files, *folders]:
            status = os.lstat(os.path.join(path, name))
            is_folder = name in folders
            found[os.path.relpath(os.path.join(path, name), folder)] = (
                (0, 0) if is_folder else (status.st_size, status.st_mtime_ns)
            )
    return found


@contextmanager
def _as_a_process(program: str, words: list[str], folder: Path, stops: dict[str, Any]) -> Iterator[None]:
    """Command line, folder, environment, limits and loggers of a process of its own."""
    argv, cwd, environment = sys.argv, os.getcwd(), dict(os.environ)
    handlers, level = list(logging.root.handlers), logging.root.level
    sys.argv = [program, *words]
    os.chdir(folder)
    os.environ["HOME"] = str(folder)
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    patches = [patch(name, value) for name, value in {**ALWAYS, **stops}.items()]
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory() + MEMORY, hard))
    others = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        with warnings.catch_warnings(), hangs_are_ended():
            warnings.showwarning = _shown  # pytest would keep them
            for one in patches:
                one.start()
            yield
    finally:
        for number, handler in others.items():
            signal.signal(number, handler)
        for one in reversed(patches):
            one.stop()
        place._held.close()
        for added in set(logging.root.handlers) - set(handlers):
            added.close()
        logging.root.handlers[:], logging.root.level = handlers, level
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        os.chdir(cwd)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)


@contextmanager
def hangs_are_ended() -> Iterator[None]:
    """Raises HangError in a block that takes too long; what does not listen to that is killed with its traceback."""
    before = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _hangs(number: int, frame: FrameType | None) -> NoReturn:
    raise HangError


def _shown(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def _memory() -> int:
    """Address space of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class _Question(subprocess.Popen[Any]):
    """Starts what asks a question, such as git, and nothing else."""

    def __init__(self, args: Any, *others: Any, **options: Any) -> None:
        if str(args[0]) not in ("git", "nvidia-smi", "lscpu", "uname"):
            raise Reached
        super().__init__(args, *others, **options)


def _remembered(function: Callable[..., T], key: Callable[..., object]) -> Callable[..., T]:
    """A function that copies what it said before: composing a config takes longer than all that a program does with broken input."""
    known: dict[object, T] = {}

    @functools.wraps(function)
    def remembered(*args: Any, **options: Any) -> T:
        asked = key(*args, **options)
        if asked not in known:
            if len(known) > 200:
                known.clear()
            known[asked] = function(*args, **options)
        return copy.deepcopy(known[asked])

    return remembered


def _composition(loader: Any, config_name: str, overrides: list[str], run_mode: Any, **options: Any) -> object:
    return config_name, tuple(overrides), run_mode, os.getcwd(), *options.items()


def _load_yaml(stream: Any, Loader: Any) -> Any:  # noqa: N803
    return _parsed_yaml(stream if isinstance(stream, (str, bytes)) else stream.read(), Loader)


_parsed_yaml = _remembered(yaml.load, lambda text, loader: (text, loader))

ALWAYS: dict[str, Any] = {
    "subprocess.Popen": _Question,
    "yaml.load": _load_yaml,
    "hydra._internal.config_loader_impl.ConfigLoaderImpl._load_configuration_impl": _remembered(
        ConfigLoaderImpl._load_configuration_impl, _composition
    ),
    "ctl_lightning.data.sources.synthetic.draw_product": reached,
}
"""What is replaced in every program: the start of others, minutes of drawing, and the reading of conf/ again and again."""
