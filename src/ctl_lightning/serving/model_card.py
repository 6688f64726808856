"""The README.md of a published model: front matter for the Hub, then what it is, what it learned from, how good it is, and how it is loaded."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctl_lightning.metrics.intervals import as_text
from ctl_lightning.models.checkpoint import checkpoint_of
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.reading import read_json
from ctl_lightning.runtime.words import TEXTS
from ctl_lightning.serving.trained import Trained

METRICS = {
    "auc": "how often the product of the scene is nearer than another of its category",
    "auc_matched": "the same against products that are as popular",
    "lift": "AUC gained by looking at the scene, against the same products ranked for another scene",
    "lift_geometry": "AUC gained against scenes whose boxes have a like place and shape",
    "hit@10": "how often the product is among the ten nearest of its category",
    "mrr": "mean of one over its rank",
}
"""Metric of the table -> what it means. The first, and hit@10 and mrr, are in the front matter."""

OF_ONE_MACHINE = ("ckpt_path", "hydra", "logger", "paths", "callbacks", "trainer.enable_progress_bar")
"""Options of the training command that are not repeated in a card, beside those that are paths."""


def model_card(trained: Trained, title: str | None, license_of: str, hub: str | None, picture: bool) -> str:
    """The text of a model card.

    Args:
        trained: checkpoint that is published.
        title: title; None: the method and the protocol.
        license_of: licence of the weights, by the Hub's name.
        hub: "OWNER/NAME" of the repository; None: it is a folder.
        picture: whether there is a picture.

    Raises:
        InputError: the run's results.json or split.json is broken.
    """
    run = run_of(trained)
    title = title or f"Complete the look: {trained.method} on {trained.protocol}"
    try:
        results = _read(run, "results.json")
        sections = [
            *_front_matter(trained, title, license_of, results),
            f"# {_text(title)}\n",
            *_what_it_is(trained),
            *_how_to_load(trained, hub),
            *_data(trained, results, _read(run, "split.json")),
            *_results(results, picture),
            *_recipe(trained, results),
            *_use(trained),
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{run}: its results.json or split.json is not as `train` writes it ({type(error).__name__}: {error}); give the "
            "checkpoint itself, copied elsewhere, for a card without results"
        ) from None
    return "\n".join(sections) + "\n"


def run_of(trained: Trained) -> Path | None:
    """The run directory whose results are those of a checkpoint; None: there is none, or they are of another checkpoint."""
    run = trained.path.parents[1] if trained.path.parent.name == "checkpoints" else None
    if run is None or not (run / "results.json").is_file() or checkpoint_of(run) != trained.path:
        return None
    found = read_json(run / "results.json")
    same = isinstance(found, dict) and (found.get("method"), found.get("seed")) == (trained.method, trained.seed)
    return run if same else None


def _read(run: Path | None, name: str) -> dict[str, Any]:
    return read_json(run / name) if run is not None and (run / name).is_file() else {}


def _front_matter(trained: Trained, title: str, license_of: str, results: Mapping[str, Any]) -> Iterator[str]:
    """YAML between two lines of dashes; its values are written as JSON, which YAML reads."""
    shown = [name for name in ("auc", "hit@10", "mrr") if results and results["test"]["all"][name]["value"] is not None]
    values: dict[str, Any] = {
        "library_name": "ctl_lightning",
        "license": license_of,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["complete-the-look", "fashion-compatibility", "visual-recommendation", "metric-learning"],
    }
    if shown:
        task = {"type": "image-feature-extraction", "name": "Complete the look"}
        measured = [{"type": name, "name": name, "value": results["test"]["all"][name]["value"]} for name in shown]
        entry = {
            "task": task,
            "dataset": {"type": str(trained.protocol), "name": str(trained.protocol), "split": "test"},
            "metrics": measured,
        }
        values |= {"metrics": shown, "model-index": [{"name": title, "results": [entry]}]}
    yield "---"
    yield from (f"{name}: {json.dumps(value)}" for name, value in values.items())
    yield "---\n"


def _what_it_is(trained: Trained) -> Iterator[str]:
    backbone = trained.options["backbone"]
    sees = f"It looks at photos through the network `{backbone['name']}`"
    if not trained.network().sees:
        sees = "It looks at no photo: it is a baseline"
    yield (
        f"A network of the method `{trained.method}` that says how well a product goes with a scene (Kang et al. 2019, *Complete "
        f"the Look*): the smaller the distance, the better. {sees}, and knows {len(trained.categories)} categories. It was trained "
        "and is used with `ctl_lightning`.\n"
    )


def _how_to_load(trained: Trained, hub: str | None) -> Iterator[str]:
    place = f"hf://{hub}" if hub else "DIR"
    yield "## How to use it\n"
    yield "`ckpt_path=` of every program takes it" + ("" if hub else "; DIR is the folder of this file") + ":\n"
    network = trained.network()
    commands = [f"evaluate ckpt_path={place} data.root=DATA"]
    if network.sees:
        category = shlex.quote(f"category={trained.categories[0]}")
        commands.append(f"rerank ckpt_path={place} scene=room.jpg {category} candidates=FILE")
    if network.sees and network.has_query():
        commands[1:1] = [
            f"catalogue ckpt_path={place} catalogue=CATALOGUE products=products.json images=images",
            f"recommend ckpt_path={place} catalogue=CATALOGUE scene=room.jpg",
        ]
    yield from (f"    python -m ctl_lightning.{command}" for command in commands)
    if network.sees:
        yield "\nand in Python:\n"
        yield from (
            "    from ctl_lightning import Compatibility",
            "",
            f'    compatibility = Compatibility("{place}")',
            "    print(compatibility.categories)",
            f'    ordered = compatibility.rerank("room.jpg", {json.dumps(trained.categories[0])}, ["one.jpg", "two.jpg"])',
            "    print([(found.candidate, found.distance, found.probability) for found in ordered])",
        )
    yield (
        "\nNothing in this folder is code or a pickle: weights are in `model.safetensors`, everything else in `config.json`.\n"
    )


def _data(trained: Trained, results: Mapping[str, Any], split: Mapping[str, Any]) -> Iterator[str]:
    yield "## Data\n"
    data = trained.config["data"]
    name = data.get("source", {}).get("name", "?")
    yield (
        f"Protocol `{trained.protocol}`, of the format `{name}`, split by scenes with the salt {_code(data.get('salt'))}. Hashes of the "
        "pairs of each split are in `config.json`, so that `evaluate` says when data differ from those of the training.\n"
    )
    rows = [[f"scenes, {part}", f"{count:,}"] for part, count in split.get("scenes_in_split", {}).items()]
    if results:
        rows += [[f"test pairs, {group}", f"{count:,}"] for group, count in results["pairs"].items()]
    if rows:
        yield from _table(["", "count"], rows)
    yield f"Categories: {', '.join(_text(name) for name in trained.categories)}.\n"


def _results(results: Mapping[str, Any], picture: bool) -> Iterator[str]:
    yield "## Results\n"
    if results:
        yield "On the test split, with 95 % intervals over scenes; *seen* products are in training pairs, *unseen* ones are not.\n"
        test, groups = results["test"], ("all", "seen", "unseen")
        known = {name: words for name, words in METRICS.items() if name in test["all"]}  # older results have fewer
        rows = [[name, *(as_text(test[group][name]) for group in groups), words] for name, words in known.items()]
        yield from _table(["metric", *groups, "meaning"], rows)
        yield from _table(
            ["category", "auc", "hit@10"],
            [[name, as_text(one["auc"]), as_text(one["hit@10"])] for name, one in test["by_category"].items()],
        )
        found = results["classifier"]
        yield (
            f"As a classifier (distance up to {found['threshold']:.3f}, chosen on validation): accuracy {as_text(found['accuracy'])}, "
            f"F1 {as_text(found['f1'])}, calibration error {found['expected_calibration_error']:.3f}.\n"
        )
    else:
        yield "None are beside the checkpoint that was published; `evaluate` measures it.\n"
    if picture:
        yield "![A picture of the run](picture.png)\n"


def _recipe(trained: Trained, results: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training\n"
    command = _command(results.get("environment", {}).get("command", ""))
    if command is None:
        yield "With these options in place of those of the protocol (the command itself is not known, or was that of a sweep):\n"
    yield f"    {command or f'python -m ctl_lightning.train +experiment={trained.method} protocol={trained.protocol}'}\n"
    data, trainer = trained.config["data"], trained.config["trainer"]
    model = {name: value for name, value in trained.options.items() if name not in ("categories", "backbone", "loss")}
    backbone = trained.options["backbone"]
    options = {
        **_flat({"model": model, "loss": trained.options["loss"]}),
        **_flat({"backbone": backbone | {"weights": backbone["weights"] and Path(backbone["weights"]).name}}),
        **{
            f"data.{name}": value
            for name, value in data.items()
            if f"data.{name}" not in (*TEXTS, "data._target_", "data.source")
        },
        **{f"trainer.{name}": trainer[name] for name in ("precision", "max_epochs") if name in trainer},
    }
    rows = [[name, _code(value)] for name, value in options.items() if value is not None]
    seconds = trained.checkpoint.get("train_seconds")
    if seconds is not None:
        rows.append(["time", f"{seconds:,.0f} s"])
    rows += [[name, _text(number)] for name, number in results.get("versions", {}).items()]
    yield from _table(["option", "value"], rows)


def _use(trained: Trained) -> Iterator[str]:
    yield "## Intended use, and limits\n"
    yield (
        "To order the products of a catalogue for a scene, to find what completes a photo, and to compare methods. It does not "
        "say whether a product is good, fits a person, or is for sale; a person or rules of a shop should stand between it and a buyer.\n"
    )
    yield from (
        "- What people put together is a noisy label: products that were not in the photo are counted as wrong, though many go with it.",
        "- Some products are near to every scene (hubs), and near copies of a product (twins) rank as it does.",
        f"- It knows its {len(trained.categories)} categories and no others, and photos such as those that it was trained on.",
        "- What people wore and photographed, and whose photos were collected, is in what it recommends.",
        "- The licences of its data and of the weights that it began with are not changed by that of this folder.",
    )


def _command(said: str) -> str | None:
    """A training command without what is of one machine; None: it was none that can be repeated, such as one of a sweep."""
    words = shlex.split(said)[1:]
    if not words or any(word in ("-m", "--multirun") or "=" not in word for word in words):
        return None
    kept = []
    for word in words:
        name, _, value = word.lstrip("+").partition("=")
        private = name in TEXTS - {"backbone.name"} or any(mark in value for mark in "/\\~$")
        if not (private or any(f"{name}.".startswith(f"{one}.") for one in OF_ONE_MACHINE)):
            kept.append(shlex.quote(word))
    return " ".join(["python -m ctl_lightning.train", *kept])


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`" if not isinstance(value, str) else f"`{value.replace('`', '')}`"


def _text(words: str) -> str:
    """Words as Markdown shows them: no tag, no link, one line."""
    escaped = words.replace("\\", "\\\\")
    for mark in "<[]*_`":
        escaped = escaped.replace(mark, f"\\{mark}")
    return " ".join(escaped.split())
