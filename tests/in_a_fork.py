"""Programs in processes of their own that need not import torch again."""

import multiprocessing
import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("torch", "torchvision", "lightning.pytorch", "torchmetrics", "timm", "sklearn.linear_model", "scipy.stats"),
        *("matplotlib.pyplot", "ctl_lightning.training.module", "ctl_lightning.reports.run_report"),
        *("ctl_lightning.data.datamodule", "ctl_lightning.serving.recommender", "hydra", "fastapi"),
    ]
)


def start(words: list[str], folder: Path, environment: dict[str, str]) -> BaseProcess:
    """Starts `python WORDS` in a folder; what it says is added to said.txt there, and it draws no pictures of a run, which take most of a tiny one."""
    process = CONTEXT.Process(target=_run, args=(words, folder, environment))
    process.start()
    return process


def _run(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    from ctl_lightning.reports.run_report import RunReport

    RunReport.draw = lambda *_: {}  # type: ignore[method-assign]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        exec(compile(words[1], "block", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
