"""python -m ctl_lightning.demo: a page on which to try a checkpoint and its catalogue."""

from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from ctl_lightning.runtime.config import check_options, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

EXAMPLES = 8

GRACE = 3.0
"""Seconds that the page's visitors get at the end; a page that is open is a request that never ends."""

OPTIONS: dict[str, Any] = {
    "examples": str | None,
    "k": int,
    "popularity": float,
    "host": str,
    "port": int,
    "root_path": str,
    "max_upload": str | int,
    "device": str,
    "engine": Literal["torch", "onnx"],
}


@program("demo")
def main(config: DictConfig) -> None:
    """Serves the page until Ctrl-C."""
    options = resolved(config)
    check_options({name: options[name] for name in OPTIONS}, OPTIONS)
    if not 1 <= options["k"] <= 20:
        raise InputError(f"k={options['k']}: give a number from 1 to 20")
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.memory import can_keep, keep_freed_memory
    from ctl_lightning.serving.encoder import example_scenes, photos_in
    from ctl_lightning.serving.http.limits import Limits, check_installed, checked_root_path, size_in_bytes
    from ctl_lightning.serving.page import build_page, load_gradio, put_on

    root_path = checked_root_path(options["root_path"])
    limits = Limits(max_upload=size_in_bytes("max_upload", str(options["max_upload"])), grace_s=GRACE)
    if can_keep():
        keep_freed_memory()
    load_gradio()
    check_installed("demo")
    from ctl_lightning.serving.http.app import create_app
    from ctl_lightning.serving.http.live import open_live
    from ctl_lightning.serving.http.server import address_of, bound, run
    from ctl_lightning.serving.http.service import Service

    with bound(options["host"], options["port"]) as listening:
        console.print("loading ...")
        with closing(Service(open_live(options), limits)) as service:
            if options["examples"] is not None:
                photos = photos_in(Path(options["examples"]).expanduser(), "examples")
                examples = [photo for photo in photos if photo.is_file()][
                    :EXAMPLES
                ]  # the page opens no link to nothing
            else:
                examples = example_scenes(service.live.recommender.encoder, options["data"]["root"], EXAMPLES)
            app = create_app(service, root_path=root_path)
            put_on(app, build_page(service, examples, options["k"]), limits.max_upload, root_path)
            console.print(f"{address_of(listening)}  (Ctrl-C ends it)")
            run(app, listening, limits.grace_s, service.end)


if __name__ == "__main__":
    main()
