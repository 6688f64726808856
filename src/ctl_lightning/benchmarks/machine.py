"""Which machine was measured on: processor, cores, GPU, versions."""

import os
import platform
from pathlib import Path

import torch

from ctl_lightning.runtime.environment import versions
from ctl_lightning.runtime.pace import WAIT_POLICY


def machine() -> dict[str, object]:
    """What was measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        WAIT_POLICY.lower(): os.environ.get(WAIT_POLICY),
        **versions(),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
