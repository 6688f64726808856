"""python -m ctl_lightning.recommend: a photo -> per category the products that complete it, as a table and a picture."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from ctl_lightning.runtime.config import Config, check_options, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

if TYPE_CHECKING:
    from ctl_lightning.serving.recommender import Look, Recommender

TOGETHER = 8
"""Photos of a folder that are open at once, and searched for together: more take memory, and gain little."""

OPTIONS: dict[str, Any] = {
    "k": int,
    "popularity": float,
    "device": str,
    "engine": Literal["torch", "onnx"],
    "output": str | None,
    "category": str | list[str] | None,
}


@program("recommend")
def main(config: DictConfig) -> None:
    """Completes one photo, or a folder of them."""
    from ctl_lightning.runtime.memory import can_keep, keep_freed_memory

    if can_keep():
        keep_freed_memory()
    recommend(config)


def recommend(config: DictConfig) -> None:
    """Prints what completes each photo, and writes it to a file each.

    Raises:
        InputError: what the user can mend.
    """
    options = resolved(config)
    categories = _names(options["category"])
    check_options({name: options[name] for name in OPTIONS} | {"category": categories}, OPTIONS)
    from ctl_lightning.runtime.console import console
    from ctl_lightning.serving.encoder import photo_named, read_box
    from ctl_lightning.serving.look import check_ending, write_look
    from ctl_lightning.serving.recommender import Recommender

    given = options["output"]
    output = Path(given if given is not None else Path(options["paths"]["run_dir"]) / "look.png").expanduser()
    check_ending(output)
    box, scene = read_box(options["box"]), Path(str(options["scene"])).expanduser()
    recommender = Recommender.of(options)
    data = recommender.encoder.trained.data({"root": options["data"]["root"]})
    if recommender.encoder.trained.learned_from_drawings and scene.exists() and not _lies_in(data.root, scene):
        console.print("this model was trained on drawn looks: what it says of a photo means little")
    if scene.is_dir():
        return complete_folder(recommender, options, categories, output)
    photo = photo_named(data, str(options["scene"]), "scene")
    _check_place(output, output, photo)
    look = recommender.look(photo, categories, options["k"], box)
    tell(look)
    write_look(output, str(photo), look)
    console.print(f"  {output}")


def complete_folder(recommender: "Recommender", options: Config, categories: list[str] | None, output: Path) -> None:
    """Completes every photo of a folder, and goes on where a stopped command was.

    Raises:
        InputError: a photo that cannot be read, once all others are done; another process writes to the same place.
    """
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.locks import alone
    from ctl_lightning.serving.done_photos import DonePhotos, file_for
    from ctl_lightning.serving.encoder import photos_in, read_box
    from ctl_lightning.serving.look import write_look

    scene, box = Path(str(options["scene"])).expanduser(), read_box(options["box"])
    photos, failed = photos_in(scene, "scene"), 0
    _check_place(output, output.parent, scene)
    output.parent.mkdir(parents=True, exist_ok=True)
    with alone(
        output.with_name(f".{output.name}.lock"),
        f"output={output}: another process writes there; wait for it, or choose another",
    ):
        catalogue = Path(options["catalogue"]["dir"]).expanduser()
        made_with: list[object] = [str(scene.absolute()), categories, options["k"], box]
        if recommender.popularity:  # notes without it are of a version that had none
            made_with.append(options["popularity"])
        done = DonePhotos(output, recommender, catalogue, made_with)
        left = []
        for photo in photos:
            if done.has(photo) and (path := file_for(photo, output)).exists():
                console.print(f"{photo}\n  {path} is there")
            else:
                left.append(photo)
        for start in range(0, len(left), TOGETHER):
            some = left[start : start + TOGETHER]
            looks = recommender.looks(some, categories, options["k"], box)
            for number, (photo, look) in enumerate(zip(some, looks, strict=True), start=start + 1):
                console.print(f"{number} of {len(left)}: {photo}")
                if isinstance(look, InputError):
                    failed += 1
                    print(f"recommend: {look}", file=sys.stderr)
                    continue
                tell(look)
                path = file_for(photo, output)
                write_look(path, str(photo), look)
                done.note(photo)
                console.print(f"  {path}")
    if failed:
        raise InputError(f"{failed} of {len(photos)} photos in {scene} cannot be read; the others are done")


def _check_place(output: Path, place: Path, scenes: Path) -> None:
    if os.path.realpath(place) == os.path.realpath(scenes):  # Path.resolve raises where links lead to each other
        raise InputError(f"output={output}: it lies where the scenes are; give another place")


def _lies_in(folder: Path, path: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _names(given: object) -> list[str] | None:
    if given is None:
        return None
    return [str(name) for name in given] if isinstance(given, list) else [str(given)]


def tell(look: "Look") -> None:
    """Prints a table a category."""
    from rich.table import Column, Table

    from ctl_lightning.runtime.console import console

    for answer in look.answers:
        parts = list(answer.products[0].parts) if answer.products else []
        table = Table(
            "rank",
            Column("product", overflow="fold"),
            "distance",
            *(parts if len(parts) > 1 else []),
            "probability",
            *(["bonus"] if look.popularity else []),
            title=answer.category,
            title_justify="left",
        )
        for one in answer.products:
            table.add_row(
                str(one.rank),
                one.product,
                f"{one.distance:.4f}",
                *([f"{one.parts[part]:.4f}" for part in parts] if len(parts) > 1 else []),
                "" if one.probability is None else f"{one.probability:.3f}",
                *([f"{one.bonus:.4f}"] if look.popularity else []),
            )
        console.print(table)


if __name__ == "__main__":
    main()
