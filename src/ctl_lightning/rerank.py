"""python -m ctl_lightning.rerank: the candidates that another system found for a photo, in the order of their distance."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ctl_lightning.runtime.program import program

if TYPE_CHECKING:
    from ctl_lightning.metrics.classification import Classifier
    from ctl_lightning.serving.compatibility import Judgement


@program("rerank")
def main(config: DictConfig) -> None:
    """Orders one list."""
    from ctl_lightning.runtime.memory import can_keep, keep_freed_memory

    if can_keep():
        keep_freed_memory()
    rerank(config)


def rerank(config: DictConfig) -> None:
    """Orders the candidates of a file for a scene; prints them and leaves rerank.json in `paths.run_dir`.

    Raises:
        InputError: what the user can mend.
    """
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.files import write_text
    from ctl_lightning.runtime.reading import read_names
    from ctl_lightning.serving.compatibility import Compatibility, order_data
    from ctl_lightning.serving.encoder import photo_named, read_box

    compatibility = Compatibility(Path(str(config.ckpt_path)).expanduser(), config.device, config.engine)
    data = compatibility.trained.data({"root": config.data.root})
    names = read_names(Path(str(config.candidates)).expanduser(), "candidates", "candidate")
    box = read_box(config.box)
    scene = photo_named(data, str(config.scene), "scene")
    photos = [photo_named(data, name, f"candidates={config.candidates}") for name in names]
    ordered = compatibility.rerank(scene, str(config.category), photos, box)
    classifier = compatibility.classifier
    path = Path(config.paths.run_dir) / "rerank.json"
    found = order_data(str(config.scene), str(config.category), names, ordered, classifier)
    write_text(path, json.dumps(found, indent=2))
    tell(ordered, names, classifier)
    console.print(f"  {path}")


def tell(ordered: "Sequence[Judgement]", names: Sequence[str], classifier: "Classifier | None") -> None:
    """Prints the candidates, the nearest first, and what the verdict means."""
    from rich.table import Column, Table

    from ctl_lightning.runtime.console import console

    table = Table("rank", Column("candidate", overflow="fold"), "was", "distance", "probability", "goes with it")
    for rank, found in enumerate(ordered, start=1):
        probability = "" if found.probability is None else f"{found.probability:.3f}"
        verdict = "" if found.compatible is None else ("yes" if found.compatible else "no")
        table.add_row(
            str(rank),
            names[found.candidate],
            str(found.candidate + 1),
            f"{found.distance:.4f}",
            probability,
            verdict,
        )
    console.print(table)
    if classifier is not None:
        at = float(classifier.probability(classifier.threshold))
        console.print(
            f"goes with it: a distance up to {classifier.threshold:.4f} (probability {at:.3f}), which had the most right answers on "
            "the validation split"
        )


if __name__ == "__main__":
    main()
