"""python -m ctl_lightning.publish: a checkpoint as a folder for others, with a model card, or as a repository of the Hugging Face Hub."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig

from ctl_lightning.runtime.config import Config, check_options, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

OPTIONS: dict[str, Any] = {
    "output": str | None,
    "hub": str | None,
    "private": bool,
    "license": str,
    "title": str | None,
    "picture": str | None,
}


@program("publish")
def main(config: DictConfig) -> None:
    """Publishes one checkpoint."""
    publish(config)


def publish(config: DictConfig) -> None:
    """Writes the folder, and pushes it if a repository is named.

    Raises:
        InputError: what the user can mend.
    """
    options = resolved(config)
    check(options)
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.hub import check_login, pushed

    picture = picture_of(options["picture"])
    if options["hub"] is not None:
        check_login(options["hub"])  # before torch is loaded
    from ctl_lightning.serving.model_card import model_card
    from ctl_lightning.serving.publishing import FILES, check_output, write_published_model
    from ctl_lightning.serving.trained import Trained

    output = None if options["output"] is None else Path(options["output"]).expanduser()
    if output is not None:
        check_output(output)
    trained = Trained(Path(options["ckpt_path"]).expanduser())
    trained.check_serves()
    card = model_card(trained, options["title"], options["license"], options["hub"], picture is not None)
    with TemporaryDirectory() as elsewhere:
        folder = Path(elsewhere) / "model" if output is None else output
        write_published_model(trained, folder, card, picture)
        if output is not None:
            console.print(f"written, and read back: ckpt_path={folder} is this model for every program")
            for name in FILES:
                if (path := folder / name).exists():
                    console.print(f"  {path} ({path.stat().st_size:,} bytes)")
        if options["hub"] is not None:
            address = pushed(folder, options["hub"], options["private"], FILES)
            console.print(f"pushed to {address}: ckpt_path=hf://{options['hub']} is this model on every machine")


def check(options: Config) -> None:
    """Raises InputError: an option of another type; nowhere to publish to."""
    check_options({name: options[name] for name in OPTIONS}, OPTIONS)
    if options["output"] is None and options["hub"] is None:
        raise InputError("publish where? Give output=DIR, hub=OWNER/NAME, or both")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", options["license"]):
        raise InputError(
            f"license={options['license']!r}: give a name of the Hub's list, such as apache-2.0 or cc-by-4.0"
        )


def picture_of(given: str | None) -> Path | None:
    """The picture for the card. Raises InputError: it is no PNG file."""
    if given is None:
        return None
    path = Path(given).expanduser()
    try:
        with path.open("rb") as file:
            is_png = file.read(8) == b"\x89PNG\r\n\x1a\n"
    except OSError as error:
        raise InputError(f"picture={path}: cannot be read ({error.strerror})") from None
    if not is_png:
        raise InputError(f"picture={path}: not a PNG file; give one of those in a run's folder pictures")
    return path


if __name__ == "__main__":
    main()
