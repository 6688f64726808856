"""A process that worked with others ends with its own exit code, whatever their threads hold when Python would end."""

import subprocess
import sys
from pathlib import Path

import pytest
from ranks import free_port

PROCESS = """
import atexit, sys, torch
from torch import distributed
from ctl_lightning.runtime.leaving import leaving

class TakenApart:
    def __del__(self):
        print("taken apart by Python")

kept = TakenApart()
atexit.register(print, "at exit")
with leaving():
    if GROUP:
        distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:PORT", rank=0, world_size=1)
        distributed.all_gather([torch.zeros(4)], torch.ones(4))
    print("worked")
    END
"""


def end(group: bool, statement: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(PROCESS.replace("GROUP", str(group)).replace("PORT", str(free_port())).replace("END", statement))
    return subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(143)", 143, ""),
        ("sys.exit('no such file')", 1, "no such file\n"),
    ],
)
def test_one_of_several_flushes_and_tidies_but_does_not_go_through_pythons_end(
    statement: str, code: int, said: str, tmp_path: Path
) -> None:
    ended = end(True, statement, tmp_path)
    assert (ended.returncode, ended.stdout) == (code, "worked\nat exit\n")
    assert said in ended.stderr  # with what gloo may have to say about this machine


def test_a_process_that_is_alone_ends_as_ever(tmp_path: Path) -> None:
    ended = end(False, "sys.exit(3)", tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "worked\nat exit\ntaken apart by Python\n")
