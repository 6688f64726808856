"""python -m ctl_lightning.recommend: a photo -> per category the products that complete it, as a table and a picture."""

import json
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from rich.markup import escape
from rich.table import Column, Table

from ctl_lightning.data.store.packing import version_of
from ctl_lightning.runtime.config import check_options, program
from ctl_lightning.runtime.console import console
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import sha256_of, write_text
from ctl_lightning.serving.catalogue.files import MANIFEST
from ctl_lightning.serving.encoder import photo_named, photos_in, read_box
from ctl_lightning.serving.look import check_ending, write_look
from ctl_lightning.serving.recommender import Look, Recommender

OPTIONS: dict[str, Any] = {"k": int, "device": str, "output": str | None, "category": str | list[str] | None}


@program("recommend")
def main(config: DictConfig) -> None:
    """Completes one photo, or a folder of them."""
    recommend(config)


def recommend(config: DictConfig) -> None:
    """Prints what completes each photo, and writes it to a file each.

    Raises:
        InputError: what the user can mend.
    """
    categories = _names(config.category)
    given = {name: config[name] for name in OPTIONS}
    check_options(given | {"category": categories}, OPTIONS)
    output = Path(config.output).expanduser() if config.output is not None else Path(config.paths.run_dir) / "look.png"
    check_ending(output)
    box = read_box(config.box)
    scene = Path(str(config.scene)).expanduser()
    several = scene.is_dir()
    recommender = recommender_of(config)
    if several:
        photos = photos_in(scene, "scene")
    else:
        data = recommender.encoder.trained.data({"root": config.data.root})
        photos = [photo_named(data, str(config.scene), "scene")]
    if output.resolve() in [photo.resolve() for photo in photos] or (
        several and output.parent.resolve() == scene.resolve()
    ):
        raise InputError(f"output={output}: it lies where the scenes are; give another place")
    made = (
        _Made(output, recommender, config.catalogue.dir, [str(scene.absolute()), categories, config.k, box])
        if several
        else None
    )
    failed = 0
    for number, photo in enumerate(photos, start=1):
        path = output.with_name(f"{photo.name}-{output.name}") if several else output
        if several:
            console.print(f"{number} of {len(photos)}: {photo}", markup=False)
        if made is not None and made.has(photo) and path.exists():
            console.print(f"  {path} is there", markup=False)
            continue
        try:
            look = recommender.look(photo, categories, config.k, box)
        except InputError as error:
            if not (several and str(error).startswith(str(photo))):  # another photo would say the same
                raise
            failed += 1
            print(f"recommend: {error}", file=sys.stderr)
            continue
        write_look(path, str(photo), look)
        if made is not None:
            made.note(photo)
        _print(look)
        console.print(f"  {path}", markup=False)
    if failed:
        raise InputError(f"{failed} of {len(photos)} photos in {scene} can not be read; the others are done")


def recommender_of(config: DictConfig) -> Recommender:
    """What the options ckpt_path, catalogue and device name. Raises InputError."""
    check_options(dict(config.catalogue), {"dir": str, "url": str | None}, "catalogue.")
    where = config.catalogue
    return Recommender.from_checkpoint(str(config.ckpt_path), where.dir, config.device, where.url)


def _names(given: object) -> list[str] | None:
    if given is None:
        return None
    return [str(name) for name in given] if isinstance(given, ListConfig) else [str(given)]


class _Made:
    """Which photos of a folder are done, by a note beside the files: a command that was stopped goes on behind them.

    Args:
        output: what files are named after.
        recommender: who makes them.
        catalogue: folder of its catalogue.
        options: what else they depend on.
    """

    def __init__(self, output: Path, recommender: Recommender, catalogue: str, options: list[object]) -> None:
        self._note = output.with_name(f".{output.name}.made")
        made_with = json.dumps(
            [recommender.encoder.identity(), sha256_of(Path(catalogue).expanduser() / MANIFEST), *options]
        )
        lines = self._note.read_text(encoding="utf-8").splitlines() if self._note.exists() else []
        if not lines or lines[0] != made_with:
            write_text(self._note, f"{made_with}\n")
        self._done = {*lines[1:]} if lines and lines[0] == made_with else set()

    def has(self, photo: Path) -> bool:
        """Whether this very photo is done."""
        return self._line(photo) in self._done

    def note(self, photo: Path) -> None:
        """It is done."""
        with self._note.open("a", encoding="utf-8") as file:
            file.write(f"{self._line(photo)}\n")

    def _line(self, photo: Path) -> str:
        return json.dumps([str(photo.absolute()), *(version_of(photo) or ())])


def _print(look: Look) -> None:
    for answer in look.answers:
        parts = list(answer.products[0].parts) if answer.products else []
        table = Table(
            "rank",
            Column("product", overflow="fold"),
            "distance",
            *(parts if len(parts) > 1 else []),
            "probability",
            title=escape(answer.category),
            title_justify="left",
        )
        for one in answer.products:
            table.add_row(
                str(one.rank),
                escape(one.product),
                f"{one.distance:.4f}",
                *([f"{one.parts[part]:.4f}" for part in parts] if len(parts) > 1 else []),
                "" if one.probability is None else f"{one.probability:.3f}",
            )
        console.print(table)


if __name__ == "__main__":
    main()
