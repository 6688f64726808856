"""Makes from a checkpoint the network that was trained, and the data that it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctl_lightning.data.category_names import CategoryMap
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.other_pairs import AS_A_TEST_SPLIT, OtherPairs
from ctl_lightning.data.scene_inputs import CONTROLS
from ctl_lightning.data.sources.registry import source_hints
from ctl_lightning.metrics.classification import Classifier
from ctl_lightning.models.checkpoint import checkpoint_of, network_of, read_checkpoint
from ctl_lightning.models.components.network import Network
from ctl_lightning.runtime.config import check_options
from ctl_lightning.runtime.errors import InputError


class Trained:
    """A checkpoint of `train`: what it was trained with, and the network and the data made from it.

    Args:
        path: checkpoint file, or its run directory; a published model: its folder, or hf://OWNER/NAME.

    Attributes:
        path: checkpoint file; of a published model, that of its weights.
        checkpoint: content of the checkpoint file.
        config: resolved config of the run, as plain values.
        method: name of the method, as in the tables.
        protocol: name of the protocol.
        seed: random seed of the run.
        precision: numeric precision of the training, such as "bf16-mixed".
        classifier: threshold and probability that the run chose on the validation split; None: it chose none.
        train_counts: product id -> number of training pairs that it is in, more than 0; ids of one photo each have that of the photo;
            None: it is not the one that the run has chosen, or older than that.

    Raises:
        InputError: missing, unreadable, foreign, or of a revision that wrote less.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path = checkpoint_of(Path(path))
        self.checkpoint = read_checkpoint(path)
        try:
            self.config: dict[str, Any] = self.checkpoint["config"]
            self.method: str = self.config["method"]
            self.protocol: str | None = self.config["protocol"]
            self.seed: int = self.config["seed"]
            self.precision: Any = self.config["trainer"]["precision"]
            self._pairs: dict[str, str] = self.checkpoint["TripletDataModule"]["pairs"]
            self._split_file: str | None = self.config["data"]["split_file"]
            found = self.checkpoint.get("classifier")
            self.classifier = Classifier(**found) if found else None
            self.train_counts: dict[str, int] | None = self.checkpoint.get("train_counts")
        except (KeyError, TypeError):
            raise InputError(
                f"ckpt_path={path}: it does not say how it was trained; give one that this revision's `train` wrote"
            ) from None
        self._check_data()

    def _check_data(self) -> None:
        """Raises InputError: an option of the data that is of another type; a folder may be a stranger's."""
        data = self.config["data"]
        source = data.get("source", {})
        try:
            check_options(data, TripletDataModule.option_hints({}) | {"source": Mapping}, "data.")
            check_options(source, source_hints(source), "data.source.")
        except InputError as error:
            raise InputError(f"ckpt_path={self.path}: {error}") from None

    def network(self) -> Network:
        """The network with its weights, in eval mode. Raises InputError: another revision wrote it."""
        return network_of(self.checkpoint, self.path)

    @property
    def learned_from_drawings(self) -> bool:
        """Whether it was last trained on the looks that `data=synthetic` draws, and not on photos."""
        return bool(self.config["data"].get("source", {}).get("name") == "synthetic")

    @property
    def options(self) -> dict[str, Any]:
        """Options of the model: those of its method, and those that all methods have."""
        return self.checkpoint["hyper_parameters"]

    @property
    def categories(self) -> list[str]:
        """Names of the categories, in the order of their indices."""
        return list(self.checkpoint["hyper_parameters"]["categories"])

    def data(self, changed: Mapping[str, Any]) -> TripletDataModule:
        """The data of its protocol, not yet read.

        Args:
            changed: new values for options of the data, such as `root` and `cache_dir`; None: as in training.

        Raises:
            InputError: a source that is not one of ours; an option that the data refuse.
        """
        try:
            options = dict(self.config["data"])
            options.pop("_target_", None)
            new = {option: value for option, value in changed.items() if value is not None}
            if options["source"].get("name") == "synthetic" and "cache_dir" in new and "root" not in new:
                new["root"] = str(Path(new["cache_dir"]) / "synthetic")  # as in conf/data/synthetic.yaml
            return TripletDataModule(**options | new)
        except InputError as error:
            raise InputError(f"ckpt_path={self.path}: {error}") from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"ckpt_path={self.path}: data: {' '.join(str(error).split())}") from None

    def other_pairs(self, changed: Mapping[str, Any], given: CategoryMap, strict: bool = True) -> OtherPairs:
        """All pairs of other data as its test split, not yet read: cut, resized and drawn as its own test split.

        Args:
            changed: options of these data, with `root` and `source`; None: as in training.
            given: map of categories of the user's.
            strict: whether a category in the map that this checkpoint does not know is an error.

        Raises:
            InputError: options that the data refuse; a checkpoint that does not say which products it was trained on, or has no
                classifier.
        """
        if self.train_counts is None or self.classifier is None:
            raise InputError(
                f"ckpt_path={self.path}: it does not say which products it was trained on, or has no classifier: `train` adds both at its end "
                "to the checkpoint that it has chosen; give the run directory or its best-*.ckpt; a stopped run goes on with ckpt_path=auto; "
                "if an older revision wrote it, train again"
            )
        own = {name: value for name, value in self.config["data"].items() if name != "_target_"}
        new = {option: value for option, value in changed.items() if value is not None}
        try:
            return OtherPairs(self.categories, self.train_counts, given, strict, **own | AS_A_TEST_SPLIT | new)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"data: {' '.join(str(error).split())}") from None

    def check_categories(self, data: TripletDataModule) -> None:
        """Raises InputError if the data (their table must be read) have other categories than the network knows."""
        if data.categories == self.categories:
            return
        odd = sorted({*data.categories} ^ {*self.categories})
        raise InputError(
            f"ckpt_path={self.path}: it was trained under protocol {self.protocol} and knows {len(self.categories)} categories, "
            f"{data.root} has {len(data.categories)} ({odd[0]!r} is in one of them only); give data.root=DIR of the data that it "
            "was trained on"
        )

    def check_serves(self) -> None:
        """Raises InputError: it is shown of scenes what no user has, to find out what other methods are worth."""
        if (scene := self.config["data"]["scene"]) in CONTROLS:
            raise InputError(
                f"ckpt_path={self.path}: it was trained with data.scene={scene}, which is to compare others with; give a checkpoint of "
                "another run"
            )

    def check_pairs(self, data: TripletDataModule) -> str | None:
        """Compares the splits of data that are set up with those of the checkpoint's training.

        Returns:
            Warning to print; None: the splits are the same.

        Raises:
            InputError: pairs that the network was trained or chosen on may be among those to be measured.
        """
        if data.pair_hashes() == self._pairs:
            return None
        if data.split_file or self._split_file:
            raise InputError(
                f"ckpt_path={self.path}: the pairs of {data.split_file or self._split_file} are not split as in its training, so what is "
                "measured may be what it was trained or chosen on; give the split and the data of its training"
            )
        return (
            f"{data.root} has other pairs than it was trained with; the split is the same rule, so no test scene was learned "
            f"from{' (unless a new one is the same photo as a scene of its training)' if data.twins else ''}, but the numbers are not those of its own data"
        )
