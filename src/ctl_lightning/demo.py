"""python -m ctl_lightning.demo: a page on which to try a checkpoint and its catalogue."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ctl_lightning.data.splits import read_split, split_of
from ctl_lightning.recommend import recommender_of
from ctl_lightning.runtime.config import check_options, program
from ctl_lightning.runtime.console import console
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.encoder import Encoder, photos_in
from ctl_lightning.serving.page import build_page, load_gradio, serve

log = logging.getLogger(__name__)

EXAMPLES = 8

OPTIONS: dict[str, Any] = {
    "examples": str | None,
    "k": int,
    "host": str,
    "port": int,
    "max_upload": str | int,
    "device": str,
}


@program("demo")
def main(config: DictConfig) -> None:
    """Serves the page until Ctrl-C."""
    check_options({name: config[name] for name in OPTIONS}, OPTIONS)
    if not 1 <= config.k <= 20:
        raise InputError(f"k={config.k}: give a number from 1 to 20")
    load_gradio()
    console.print("loading ...")
    recommender = recommender_of(config)
    if config.examples is not None:
        examples = photos_in(Path(config.examples).expanduser(), "examples")[:EXAMPLES]
    else:
        examples = test_scenes(recommender.encoder, config.data.root)
    page = build_page(recommender, examples, config.k)
    address = serve(page, config.host, config.port, str(config.max_upload))
    console.print(f"{address}  (Ctrl-C ends it)", markup=False)
    page.block_thread()


def test_scenes(encoder: Encoder, root: str | None) -> list[Path]:
    """A few scenes that the checkpoint was not trained on; none, if its data are not here."""
    try:
        data = encoder.trained.data({"root": root})
        data.read_table()
    except (InputError, OSError) as error:
        log.info("no examples: %s", error)
        return []
    split = read_split(Path(data.split_file)) if data.split_file else {}
    scenes = sorted(
        scene for scene in data.table.products_of_scene if (split.get(scene) or split_of(scene, data.salt)) == "test"
    )
    every = max(1, len(scenes) // EXAMPLES)
    paths = [data.source.image_path(data.root, scene) for scene in scenes[::every]]
    return [path for path in paths if path.exists()][:EXAMPLES]


if __name__ == "__main__":
    main()
