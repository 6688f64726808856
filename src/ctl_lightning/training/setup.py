"""What must be ready before a training: data, network, features of a frozen backbone, compiler."""

import logging
import time

import lightning
from lightning import Trainer

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.runtime.config import build
from ctl_lightning.runtime.console import console
from ctl_lightning.training.compilation import compile_network
from ctl_lightning.training.feature_cache import cache_features, uses_cache
from ctl_lightning.training.module import CompleteTheLook
from ctl_lightning.training.options import short_form
from ctl_lightning.training.picture_options import warn_of_sizes
from ctl_lightning.training.run_directory import RunDirectory
from ctl_lightning.training.seen_scenes import seen_scenes
from ctl_lightning.training.starting_point import StartingPoint, in_words

log = logging.getLogger(__name__)


def make_data_and_module(run: RunDirectory) -> tuple[TripletDataModule, CompleteTheLook]:
    """Makes the data of a run, set up, and its network, with pretrained weights if there are any. Raises InputError."""
    options = run.options
    console.print(short_form(options, run.path))
    # A run that goes on has its weights in its own checkpoint.
    given = options["init_from"] if run.resumed is None else None
    start = StartingPoint(given, options) if given is not None else None
    lightning.seed_everything(options["seed"], workers=True, verbose=False)
    data: TripletDataModule = build(options["data"], "data")
    data.prepare_data()
    data.read_table()
    module: CompleteTheLook = build(options["model"], "model", categories=data.categories)
    if module.sees:
        warn_of_sizes(options)
        module.network.backbone.check_size(options["data"]["image_size"])
        if options["data"]["scene"] == "strips":
            module.network.backbone.check_strips(options["data"]["stored_size"])
    if start is not None:
        module.origin = start.give(module)
        console.print(in_words(module.origin))
    elif options["init_from"] is None:
        if module.learns and options["backbone"]["frozen"] and options["backbone"]["weights"] is None:
            log.warning(
                "backbone.frozen=true with backbone.weights=null: the features will be those of a random network"
            )
        module.load_backbone_weights()  # before packing images, which takes long: missing weights show at once
    data.setup()
    console.print(data.summary())
    if start is not None:
        source = options["data"]["source"]["name"]
        if seen := seen_scenes(start.given, start.path, start.checkpoint, data, source):
            log.warning("%s", seen)
    return data, module


def make_ready(run: RunDirectory, data: TripletDataModule, module: CompleteTheLook, trainer: Trainer) -> float | None:
    """Does what comes between a trainer and its training: cached features, the compiler. Raises InputError.

    Returns:
        Seconds until the features were there; None if it trains on pictures.
    """
    options, seconds = run.options, None
    if module.learns:
        data.check_processes(trainer.world_size, run.checkpoint.get("TripletDataModule"))
    if module.sees and uses_cache(options["backbone"], options["data"]["augment"]):
        began = time.monotonic()
        path = cache_features(module, data, trainer.strategy.root_device)
        seconds = time.monotonic() - began
        console.print(f"trains on the features in {path}, ready after {seconds:.0f} s")
        if module.network.on_features and run.resumed is None:
            taken = (module.origin or {}).get("taken", ())  # heads of another run have what its inputs looked like
            inputs = data.pooled_features()
            module.network.fit_inputs({part: blocks for part, blocks in inputs.items() if part not in taken})
    elif module.learns and uses_cache(options["backbone"], "none"):
        console.print(
            "the backbone is frozen, but random pictures keep it at work; data.augment=none, or data.augment=crop with "
            "backbone.cache_views=4, computes features once, and an epoch takes seconds",
        )
    if options["compile"] and module.sees:
        console.print("compiling the network: the first steps take a minute")
        compile_network(module)
    return seconds
