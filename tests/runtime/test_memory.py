"""Memory that is kept after it is freed can be given back."""

import subprocess
import sys

import pytest

from ctl_lightning.runtime.memory import can_keep

CODE = """
from ctl_lightning.runtime.memory import give_back_freed_memory, keep_freed_memory
def pages(): return int(open("/proc/self/statm").read().split()[1])
keep_freed_memory()
before = pages()
blocks = [bytearray(b"x") * 2**20 for _ in range(100)]
del blocks
kept = pages()
give_back_freed_memory()
print(kept - before > 20_000 > pages() - before)
"""


@pytest.mark.skipif(not can_keep(), reason="another C library than glibc")
def test_what_was_kept_is_given_back() -> None:
    assert subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True).stdout == "True\n"
