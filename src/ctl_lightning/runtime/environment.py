"""Where a run's numbers were computed: versions, commit, devices, command."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ctl_lightning.runtime.pace import WAIT_POLICY


def own_version() -> str:
    """The version of this package, which pyproject.toml gives; "unknown" where its folder is on the path without an installation."""
    try:
        return version("ctl_lightning")
    except PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages that computed the numbers."""
    packages = ("torch", "torchvision", "lightning", "numpy", "pillow")
    return {
        "ctl_lightning": own_version(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def environment() -> dict[str, Any]:
    """Where the numbers were computed: versions, commit of the code, devices, the command, the SLURM job."""
    found: dict[str, Any] = {"versions": versions(), "command": shlex.join(sys.argv), "host": platform.node()}
    package = Path(__file__).resolve().parents[1]
    commands = {
        "git_repository": ("rev-parse", "--show-toplevel"),
        "git_commit": ("rev-parse", "HEAD"),
        "git_changes": ("status", "--porcelain", "."),
    }
    for name, words in commands.items():
        try:
            said = subprocess.run(
                ["git", "-C", str(package), *words], capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):  # no git, or not a repository
            break
        found[name] = bool(said.stdout.strip()) if name == "git_changes" else said.stdout.strip()
        if (
            Path(found["git_repository"]) / "src" / package.name != package
        ):  # an installation within another's repository
            del found[name]
            break
    import torch  # late: the programs answer before it is imported

    found["devices"] = [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())] or ["cpu"]
    if WAIT_POLICY in os.environ:
        found[WAIT_POLICY.lower()] = os.environ[WAIT_POLICY]
    if "SLURM_JOB_ID" in os.environ:
        found["slurm_job"] = os.environ["SLURM_JOB_ID"]
    return found
