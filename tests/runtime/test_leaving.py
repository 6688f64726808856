"""A process that worked with others ends with its own exit code, whatever their threads hold when Python would end."""

import subprocess
import sys
from pathlib import Path

import pytest
from ranks import free_port

PROCESS = """
import atexit, sys, torch
from concurrent.futures import ThreadPoolExecutor
from torch import distributed
from ctl_lightning.runtime.program import program

class TakenApart:
    def __del__(self):
        print("taken apart by Python")

kept, pool = TakenApart(), ThreadPoolExecutor()
pool.submit(int).result()  # its thread is idle, and is nobody's to end
atexit.register(print, "at exit")

def work(config):
    if GROUP:
        distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:PORT", rank=0, world_size=1)
        distributed.all_gather([torch.zeros(4)], torch.ones(4))
    print("worked")
    END

work.__module__ = "elsewhere"  # else it would be looked for in the program's own file
program("sweep_table")(work)()
"""


def end(group: bool, statement: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(PROCESS.replace("GROUP", str(group)).replace("PORT", str(free_port())).replace("END", statement))
    return subprocess.run(
        [sys.executable, program, "folder=."], capture_output=True, text=True, check=False, cwd=folder, timeout=100
    )


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("pass", 0, None),
        ("sys.exit(143)", 143, None),
        ("raise RuntimeError('out of memory')", 1, "RuntimeError: out of memory\n"),
    ],
)
def test_one_of_several_flushes_and_tidies_but_does_not_go_through_pythons_end(
    statement: str, code: int, said: str | None, tmp_path: Path
) -> None:
    ended = end(True, statement, tmp_path)
    assert (ended.returncode, ended.stdout) == (code, "worked\nat exit\n")
    assert ("Traceback" in ended.stderr) == (said is not None)
    assert said is None or said in ended.stderr


def test_one_of_several_whose_reader_has_gone_ends_as_python_does(tmp_path: Path) -> None:
    ended = end(True, "distributed.barrier(); sys.stdout = open('/dev/full', 'w'); print('lost')", tmp_path)
    assert ended.returncode == 120
    assert "Traceback" not in ended.stderr


def test_a_process_that_is_alone_ends_as_ever(tmp_path: Path) -> None:
    ended = end(False, "sys.exit(3)", tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "worked\nat exit\ntaken apart by Python\n")
