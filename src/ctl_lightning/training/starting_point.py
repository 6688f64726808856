"""What of a checkpoint does a new run start from (`init_from`), and what of its network is new?"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctl_lightning.models.checkpoint import NETWORK, checkpoint_of, fits_this_revision, read_checkpoint
from ctl_lightning.models.components.preprocessing import Preprocessing, of_values
from ctl_lightning.models.registry import METHODS
from ctl_lightning.runtime.config import Config
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.module import CompleteTheLook

SAME_FEATURES = frozenset({"weights", "frozen", "checkpointing", "cache", "cache_views", "cache_dtype"})
"""Options of the backbone that do not change what it is: given weights have the same features whatever they are."""

BY_CATEGORY = "category_embedding"
"""The part of a network that has a row for each category."""

SHOWN = 5
"""Number of categories that are printed by name."""

Names = Sequence[str]


class StartingPoint:
    """A checkpoint whose weights a new run starts from.

    A part of the network, such as `pooled_head`, is taken whole, if all its weights have the same names and shapes; or it
    is new, with the initial values of any new run. The category embedding is taken row by row, by the categories' names. The
    state of the loss is taken if the loss has the same options.

    Args:
        given: checkpoint file, or run directory.
        options: options of the new run.

    Attributes:
        given: the same.
        path: checkpoint file.
        checkpoint: its contents.

    Raises:
        InputError: missing, unreadable, not a checkpoint; nothing to start from; another backbone.
    """

    def __init__(self, given: str, options: Config) -> None:
        self.given = given
        with _named():
            self.path = checkpoint_of(Path(given).expanduser())
            self.checkpoint = read_checkpoint(self.path)
        trained: Config = self.checkpoint["hyper_parameters"]
        if (kind := METHODS.get(trained["method"])) is None or not kind.sees:
            raise InputError(
                f"init_from={given}: its method, {trained['method']}, has no weights to start from; give a checkpoint of another one"
            )
        config = self.checkpoint.get("config")
        seen = (
            config["data"].get("scene")
            if isinstance(config, Mapping) and isinstance(config.get("data"), Mapping)
            else None
        )
        if seen is not None and seen != options["data"]["scene"]:
            raise InputError(
                f"init_from={given}: it was trained with data.scene={seen}, this run has data.scene={options['data']['scene']}; give the same"
            )
        theirs, ours = _features(trained.get("backbone")), _features(options["backbone"])
        for name in sorted(theirs.keys() & ours.keys()):
            if theirs[name] != ours[name]:
                raise InputError(
                    f"init_from={given}: it was trained with backbone.{name}={theirs[name]}, this run has {ours[name]}, and heads on other "
                    f"features mean nothing; give the same backbone, or start without init_from"
                )

    def give(self, module: CompleteTheLook) -> dict[str, Any]:
        """Copies what fits into a module that has its initial values.

        Returns:
            What was done, as plain values: `path`, as it was given; `taken` and `new`, names of parts; and, if the
            categories have an embedding that was taken, `categories`, with names in `taken`, `new` and `left_out`.

        Raises:
            InputError: the weights of the backbone do not fit; a weight is not finite.
        """
        with _named(), fits_this_revision(self.path):
            done = self._given(module)
        if "backbone" not in done["taken"]:
            raise InputError(
                f"init_from={self.given}: the weights of its backbone do not fit {module.hparams['backbone']['name']} of this revision; "
                "train it again, or start without init_from"
            )
        odd = (name for name, value in module.state_dict().items() if not bool(torch.isfinite(value).all()))
        if (name := next(odd, None)) is not None:
            raise InputError(f"init_from={self.given}: its weight {name} is not finite; give another checkpoint")
        return done

    def _given(self, module: CompleteTheLook) -> dict[str, Any]:
        """What `give` does, for a checkpoint that may be odd."""
        theirs: Mapping[str, Any] = self.checkpoint["state_dict"]
        ours = _parts(module.state_dict())
        taken = [part for part, weights in ours.items() if part != BY_CATEGORY and self._fits(part, weights, module)]
        with torch.no_grad():
            for name, value in (item for part in taken for item in ours[part].items()):
                value.copy_(theirs[name])
        done: dict[str, Any] = {"path": self.given, "taken": taken}
        if BY_CATEGORY in ours and (found := self._give_rows(ours[BY_CATEGORY], module.hparams["categories"])):
            done["categories"] = found
        new = [part for part in ours if part not in taken and not (part == BY_CATEGORY and "categories" in done)]
        return done | {"new": new}

    def _fits(self, part: str, ours: Mapping[str, Tensor], module: CompleteTheLook) -> bool:
        """Whether the weights of a part have the names and shapes that the checkpoint has."""
        if part == "loss" and self.checkpoint["hyper_parameters"].get("loss") != module.hparams["loss"]:
            return False
        theirs = _parts(self.checkpoint["state_dict"]).get(part, {})
        return _shapes(theirs) == _shapes(ours)

    def _give_rows(self, ours: Mapping[str, Tensor], categories: Names) -> dict[str, list[str]] | None:
        """Copies the rows of the categories that the checkpoint knows. None: it has no rows of this width."""
        ((name, rows),) = ours.items()
        known: list[str] = self.checkpoint["hyper_parameters"]["categories"]
        theirs = self.checkpoint["state_dict"].get(name)
        if theirs is None or theirs.shape != (len(known), rows.shape[1]):
            return None
        taken = [category for category in categories if category in known]
        with torch.no_grad():
            for category in taken:
                rows[categories.index(category)] = theirs[known.index(category)].to(rows.dtype)
        return {
            "taken": taken,
            "new": [category for category in categories if category not in known],
            "left_out": [category for category in known if category not in categories],
        }


def preprocessing_of_start(given: str) -> Preprocessing:
    """The preprocessing of the backbone that a new run starts from. Raises InputError: missing, not a checkpoint."""
    with _named():
        path = checkpoint_of(Path(given).expanduser())
        options = read_checkpoint(path)["hyper_parameters"].get("backbone")
        found = options.get("preprocessing") if isinstance(options, Mapping) else None
        return of_values(found if isinstance(found, Mapping) else {}, f"init_from={given}")


def in_words(done: Mapping[str, Any]) -> str:
    """What `StartingPoint.give` did, as one sentence."""
    taken, new, left_out = list(done["taken"]), list(done["new"]), []
    if found := done.get("categories"):
        count = len(found["taken"]), len(found["taken"]) + len(found["new"])
        taken.append(f"{count[0]} of {count[1]} categories")
        new += _listed(found["new"])
        left_out = _listed(found["left_out"])
    told = {"": taken, "; new: ": new, "; left out: ": left_out}
    parts = (f"{begin}{', '.join(names)}" for begin, names in told.items() if names)
    return f"starts from {done['path']}: {''.join(parts)}"


def _listed(categories: Names) -> list[str]:
    """Nothing, or one text: "category 'Hats'", "categories 'Bags', 'Hats'", "categories 'Bags', ... and 35 more"."""
    if not categories:
        return []
    more = f" and {len(categories) - SHOWN} more" if len(categories) > SHOWN else ""
    kind = "category" if len(categories) == 1 else "categories"
    return [f"{kind} {', '.join(map(repr, categories[:SHOWN]))}{more}"]


def _parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Part of a module, such as "pooled_head" or "loss" -> its weights, with their whole names."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        parts.setdefault(name.removeprefix(NETWORK).partition(".")[0], {})[name] = value
    return parts


def _shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in weights.items()}


def _features(backbone: Any) -> dict[str, Any]:
    """The options of a backbone that make its features what they are."""
    values = {"pooled": ["final"], **backbone} if isinstance(backbone, Mapping) else {}
    return {name: value for name, value in values.items() if name not in SAME_FEATURES}


@contextmanager
def _named() -> Iterator[None]:
    """Errors of reading a checkpoint name the option that gave it."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("ckpt_path=", "init_from=", 1)) from None
