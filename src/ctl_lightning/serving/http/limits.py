"""What a service takes on: the size of a photo, how many requests wait, how long, and how many go through the network at once."""

import math
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ctl_lightning.runtime.config import Config, check_options
from ctl_lightning.runtime.errors import InputError

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")

ROUTES = ("v1", "healthz", "readyz", "metrics", "openapi.json")
"""First parts of the paths of the service."""

UNITS = {"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30}

OPTIONS: dict[str, Any] = {
    "patience_ms": int | float,
    "max_batch": int,
    "max_waiting": int,
    "timeout_s": int | float,
    "max_upload": str | int,
    "max_pixels": int,
    "grace_s": int | float,
}


@dataclass(frozen=True)
class Limits:
    """Limits of a service.

    Attributes:
        patience_ms: longest time that a photo waits for others to join its batch, in milliseconds.
        max_batch: most photos that go through the network at once; 1: no batches.
        max_waiting: most requests that are being uploaded, decoded or waiting; more are refused.
        timeout_s: longest time for one request, its upload included, in seconds.
        max_upload: size of the largest photo, in bytes.
        max_pixels: most pixels of a photo; more are refused before they are decoded.
        grace_s: longest time for what was accepted before the end, in seconds.
    """

    patience_ms: float = 5
    max_batch: int = 16
    max_waiting: int = 128
    timeout_s: float = 30
    max_upload: int = 20 * 2**20
    max_pixels: int = 60_000_000
    grace_s: float = 30

    @classmethod
    def of(cls, options: Config) -> "Limits":
        """The limits that the options of a program name. Raises InputError: one of them is no limit."""
        given = {name: options[name] for name in OPTIONS}
        check_options(given, OPTIONS)
        for name, least in {"max_batch": 1, "max_waiting": 1, "max_pixels": 1, "patience_ms": 0, "grace_s": 0}.items():
            if not least <= given[name] < math.inf:
                raise InputError(f"{name}={given[name]}: give a number from {least} on")
        if not 0 < given["timeout_s"] < math.inf:
            raise InputError(f"timeout_s={given['timeout_s']}: give a number above 0")
        return cls(**given | {"max_upload": size_in_bytes("max_upload", str(given["max_upload"]))})


def size_in_bytes(option: str, text: str) -> int:
    """Bytes of a size such as 20mb. Raises InputError, which names the option: it is no size."""
    found = re.fullmatch(r"(\d{1,12}) ?(b|kb|mb|gb)?", text, re.IGNORECASE)
    if found is None or int(found[1]) == 0:
        raise InputError(f"{option}={text}: give a size, such as 20mb")
    return int(found[1]) * UNITS[(found[2] or "").lower()]


def check_installed(extra: str) -> None:
    """Raises InputError, which names the extra that brings them: what serves over HTTP is not installed."""
    for package in PACKAGES:
        try:
            import_module(package)
        except ImportError:
            raise InputError(f"serving needs {package}; pip install 'ctl_lightning[{extra}]'") from None


def checked_root_path(text: str) -> str:
    """The path below which a proxy offers the service, without a slash at its end; "": it offers it as it is. Raises InputError."""
    if text and not re.fullmatch(r"(/[\w.~-]+)+/?", text, re.ASCII):
        raise InputError(f"root_path={text}: give a path such as /looks, or leave it out")
    if (first := text.split("/")[1:2]) and first[0] in ROUTES:
        raise InputError(
            f"root_path={text}: the service has a /{first[0]} of its own; give another path, such as /looks"
        )
    return text.rstrip("/")
