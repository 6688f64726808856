"""python -m ctl_lightning.serve: recommendations over HTTP, for a shop."""

import os
from contextlib import closing
from typing import Any, Literal

from omegaconf import DictConfig

from ctl_lightning.runtime.addresses import KEY
from ctl_lightning.runtime.config import check_options, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

OPTIONS: dict[str, Any] = {
    "host": str,
    "port": int,
    "root_path": str,
    "engine": Literal["torch", "onnx"],
    "device": str,
    "popularity": float,
    "api_key": str | None,
    "image_hosts": list[str],
}


@program("serve")
def main(config: DictConfig) -> None:
    """Serves until SIGTERM or Ctrl-C, and answers then what was accepted."""
    options = resolved(config)
    if isinstance(options["image_hosts"], str):
        options["image_hosts"] = [options["image_hosts"]]
    check_options({name: options[name] for name in OPTIONS}, OPTIONS)
    key = options["api_key"] if options["api_key"] is not None else os.environ.get(KEY)
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
        raise InputError(f"api_key (or {KEY}): give printable ASCII without spaces around it, or leave it out")
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.memory import can_keep, keep_freed_memory
    from ctl_lightning.serving.http.limits import Limits, check_installed, checked_root_path

    limits, root_path = Limits.of(options), checked_root_path(options["root_path"])
    if can_keep():
        keep_freed_memory()
    check_installed("serve")
    from ctl_lightning.serving.http.fetching import check_hosts
    from ctl_lightning.serving.http.server import address_of, bound, run

    check_hosts(options["image_hosts"])
    # Before torch is there: a port that is taken is told at once.
    with bound(options["host"], options["port"]) as listening:
        from ctl_lightning.serving.http.app import create_app
        from ctl_lightning.serving.http.live import open_live
        from ctl_lightning.serving.http.service import Service

        console.print("loading ...")
        with closing(Service(open_live(options), limits)) as service:
            app = create_app(service, root_path=root_path, api_key=key, image_hosts=options["image_hosts"])
            address = address_of(listening)
            console.print(f"{address}  (Ctrl-C ends it)")
            console.print(f"  send photos to {address}v1/looks; {address}openapi.json lists all that it answers")
            run(app, listening, limits.grace_s, service.end)


if __name__ == "__main__":
    main()
