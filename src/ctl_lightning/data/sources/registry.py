"""Which format of data has which name. Configs and checkpoints have that name, never a class."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_type_hints

from ctl_lightning.data.sources.deepfurniture import DeepFurniture
from ctl_lightning.data.sources.folder import LooksFolder
from ctl_lightning.data.sources.source import Source
from ctl_lightning.data.sources.stl import ShopTheLook
from ctl_lightning.data.sources.street2shop import Street2Shop
from ctl_lightning.data.sources.synthetic import SyntheticLooks
from ctl_lightning.runtime.errors import InputError, suggestion

SOURCES: dict[str, type[Source]] = {
    "synthetic": SyntheticLooks,
    "shop_the_look": ShopTheLook,
    "street2shop": Street2Shop,
    "deepfurniture": DeepFurniture,
    "folder": LooksFolder,
}


def make_source(options: Mapping[str, Any]) -> Source:
    """Makes a source from its options, with `name`, a key of SOURCES, among them.

    Raises:
        InputError: no source of that name.
        ValueError: an option out of its range.
        TypeError: an option that the source does not have, or a missing one.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"data.source={options}: expected options; give data.source.name, one of {', '.join(SOURCES)}")
    name = options.get("name")
    if name not in SOURCES:
        given = options.get("name", options.get("_target_"))  # a class, as version 0.1 had it: told, never imported
        raise InputError(
            f"data.source.name={given}: there is no such source{suggestion(str(given), SOURCES)}; there are: {', '.join(SOURCES)}"
        )
    return SOURCES[name](**{option: value for option, value in options.items() if option != "name"})


def source_hints(options: Mapping[str, Any]) -> dict[str, Any]:
    """Option name -> type annotation, for the source that `options` names."""
    hints: dict[str, Any] = {"name": Literal[tuple(SOURCES)]}
    kind: Any = SOURCES.get(options.get("name", ""))
    if kind is None:
        return dict.fromkeys(options, Any) | hints
    types = get_type_hints(kind)
    return hints | {field.name: types[field.name] for field in fields(kind) if field.init}
