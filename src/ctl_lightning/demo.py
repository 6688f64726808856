"""python -m ctl_lightning.demo: a page on which to try a checkpoint and its catalogue."""

from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from ctl_lightning.runtime.config import check_options, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

EXAMPLES = 8

OPTIONS: dict[str, Any] = {
    "examples": str | None,
    "k": int,
    "popularity": float,
    "host": str,
    "port": int,
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
    from ctl_lightning.serving.page import build_page, load_gradio, serve
    from ctl_lightning.serving.recommender import Recommender

    if can_keep():
        keep_freed_memory()
    load_gradio()
    console.print("loading ...")
    recommender = Recommender.of(options)
    if options["examples"] is not None:
        photos = photos_in(Path(options["examples"]).expanduser(), "examples")
        examples = [photo for photo in photos if photo.is_file()][:EXAMPLES]  # the page opens no link to nothing
    else:
        examples = example_scenes(recommender.encoder, options["data"]["root"], EXAMPLES)
    page = build_page(recommender, examples, options["k"])
    address = serve(page, options["host"], options["port"], str(options["max_upload"]))
    console.print(f"{address}  (Ctrl-C ends it)")
    page.block_thread()


if __name__ == "__main__":
    main()
