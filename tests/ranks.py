"""Several processes of one run, as torchrun would start them, without the seconds that importing takes."""

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

PRELOADED = [
    "factories",
    *(f"ctl_lightning.training.{name}" for name in ("setup", "predict", "loggers")),
    *(f"ctl_lightning.reports.{name}" for name in ("run_report", "watch")),
]
"""What a program imports when it is called."""

_context = get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _run(place: dict[str, str], answer: Connection, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= place
    import torch
    from lightning_utilities.core.rank_zero import rank_zero_only

    torch.set_num_threads(1)
    rank_zero_only.rank = int(place["RANK"])  # type: ignore[attr-defined]  # it was found out on import, before
    try:
        answer.send(task(*arguments))
    except BaseException as error:
        traceback.print_exc()
        answer.send(error)


def in_processes(
    count: int, task: Callable[..., Any], *arguments: Any, each: list[tuple[Any, ...]] | None = None
) -> list[Any]:
    """Runs task(*arguments) in every one of `count` processes; `each`: further arguments of each.

    Returns:
        What each of them returned, or the exception that it ended with.
    """
    port, processes, answers = free_port(), [], []
    for rank in range(count):
        place = {
            **{name: str(rank) for name in ("RANK", "LOCAL_RANK")},
            **{name: str(count) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")},
            **{"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            **{"TORCHELASTIC_RUN_ID": f"test{port}", "OMP_NUM_THREADS": "1"},
        }
        answer, theirs = _context.Pipe(duplex=False)
        own = each[rank] if each is not None else ()
        process = _context.Process(target=_run, args=(place, theirs, task, (*arguments, *own)))
        process.start()
        processes.append(process)
        answers.append(answer)
        theirs.close()
    found = [answer.recv() if answer.poll(120) else TimeoutError() for answer in answers]
    for process in processes:
        process.join(10)
        process.kill()
    return found
