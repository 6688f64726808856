"""The library `timm`: any of its image networks by name, CNN, ViT or hybrid; nobody has to name a layer."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ctl_lightning.models.components.libraries.installed import INSTALLED, load_installed
from ctl_lightning.models.components.libraries.library import BackboneOptions, Library, Maps, pooled_parts
from ctl_lightning.models.components.preprocessing import Preprocessing, of_timm, of_values
from ctl_lightning.runtime.errors import InputError, suggestion

HUB = "hub"
"""Name of the weights that timm has of a network on the Hugging Face Hub."""

STRIDE = 16
"""Pixels between two regions, at most, of the map that is taken unless `backbone.layers` says otherwise: the paper's conv4."""

ALL_THE_WAY: dict[str, Any] = {"output_fmt": "NCHW", "stop_early": False}
"""Options of `forward_intermediates`; some networks else stop at the last map that is asked for, before their end."""

MOST_STAGES = 6
"""Of a network with more maps, such as a ViT with one for each block, every so many-th stands for a stage."""


class TimmNetwork(nn.Module):
    """A network of timm -> its pooled vector, and the maps of some of its layers side by side.

    The pooled vector is what the network's own head pools, before its classifier. A map of a ViT has its final norm, no
    class and no register tokens. Maps of several layers are brought to the size of the smallest.

    Args:
        model: network without classifier.
        layers: numbers of the maps, as `forward_intermediates` counts them; None: the last with a stride of 16 or less.
        name: name of the network, for messages.
        staged: whether it also gives a map of each of its stages.

    Raises:
        InputError: a network that gives no maps; a number that no map has.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int] | None, name: str, staged: bool = False) -> None:
        super().__init__()
        self.model: Any = model
        self.size = _size_of(model)
        with torch.no_grad(), _evaluating(model):
            maps = self._maps(torch.zeros(1, 3, self.size, self.size), name)
        if layers is None:
            fine = [number for number, one in enumerate(maps) if one.shape[-1] * STRIDE >= self.size]
            layers = [fine[-1] if fine else len(maps) - 1]
        for number in layers:
            if not -len(maps) <= number < len(maps):
                raise InputError(
                    f"backbone.layers={list(layers)}: {name} has {len(maps)} maps, numbered from 0 (or from -1 at the end); "
                    f"their channels and sides are {', '.join(f'{one.shape[1]} x {one.shape[2]}' for one in maps)}"
                )
        if not layers:
            raise InputError("backbone.layers=[]: give at least one number, or null")
        self.layers = [number % len(maps) for number in layers]
        step = math.ceil(len(maps) / MOST_STAGES)
        self.stages = list(range(len(maps) - 1, -1, -step))[::-1] if staged else []

    def _maps(self, pixels: Tensor, name: str) -> list[Tensor]:
        """All maps that the network can give; finds out whether it can put its final norm on them."""
        for self.norm in (True, False):
            try:
                _, maps = self.model.forward_intermediates(pixels, norm=self.norm, **ALL_THE_WAY)
                return list(maps)
            except AssertionError:  # such as of Hiera, whose last norm is of another width than its maps
                continue
            except AttributeError:
                break
        raise InputError(f"backbone.name={name}: timm gives no maps of this network; choose another one")

    def forward(self, pixels: Tensor) -> Maps:
        """Normalised pixels (B, 3, S, S) -> `pooled` (B, F), `regions` (B, C, H, W), and a map of each stage."""
        wanted = sorted({*self.layers, *self.stages})
        features, maps = self.model.forward_intermediates(pixels, indices=wanted, norm=self.norm, **ALL_THE_WAY)
        by_number = dict(zip(wanted, maps, strict=True))
        chosen = [by_number[number] for number in self.layers]
        smallest = min((one.shape[2:] for one in chosen), key=tuple)
        same = [one if one.shape[2:] == smallest else F.adaptive_avg_pool2d(one, smallest) for one in chosen]
        stages = {f"stage{number}": by_number[number] for number in self.stages}
        return {"pooled": self.model.forward_head(features), "regions": torch.cat(same, 1), **stages}


class Timm(Library):
    """Networks of timm by their name, with a tag or without: vit_base_patch16_siglip_384.v2_webli."""

    def make(self, options: BackboneOptions) -> nn.Module:
        """See `Library.make`."""
        name = options["name"]
        config(name)
        return TimmNetwork(_network(name), options.get("layers"), name, "stages" in pooled_parts(options))

    def stages(self, network: nn.Module) -> list[str]:
        """See `Library.stages`."""
        assert isinstance(network, TimmNetwork)
        return [f"stage{number}" for number in network.stages]

    def probed_size(self, network: nn.Module) -> int:
        """See `Library.probed_size`: the size that it was trained at."""
        assert isinstance(network, TimmNetwork)
        return network.size

    def memory_format(self, frozen: bool) -> torch.memory_format:
        """See `Library.memory_format`. Of a tuned one not channels last: FastViT's backward pass ends torch 2.15 on a CPU."""
        return torch.channels_last if frozen else torch.contiguous_format

    def identity(self, options: BackboneOptions) -> dict[str, Any]:
        """See `Library.identity`."""
        return {"library": "timm", "name": options["name"], "layers": options.get("layers")}

    def preprocessing(self, options: BackboneOptions) -> Preprocessing:
        """See `Library.preprocessing`."""
        values = of_timm(config(options["name"]))
        assert values is not None
        return of_values(values, f"timm's config of {options['name']}")

    def named_weights(self, name: str) -> list[str]:
        """See `Library.named_weights`: on the Hub, and in a package that is installed."""
        bare = name.partition(".")[0]
        return [*([HUB] if _on_hub(name) else []), *(["installed"] if bare in INSTALLED else [])]

    def load_named(self, network: nn.Module, name: str, weights: str) -> None:
        """See `Library.load_named`."""
        model = self.in_file(network)
        if weights == "installed":
            load_installed(model, name.partition(".")[0])
            return
        try:
            found = _network(name, pretrained=True)
        # The Hub's client and what it is built on have classes of their own for no network, no access, a broken file.
        except Exception as error:
            raise InputError(
                f"backbone.weights={weights}: could not be fetched from the Hugging Face Hub ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); give a file with backbone.weights=FILE"
            ) from None
        model.load_state_dict(found.state_dict())

    def in_file(self, network: nn.Module) -> nn.Module:
        """See `Library.in_file`."""
        assert isinstance(network, TimmNetwork)
        model: nn.Module = network.model
        return model

    def recomputed(self, network: nn.Module) -> Callable[[Tensor], Maps]:
        """See `Library.recomputed`."""
        assert isinstance(network, TimmNetwork)
        return _Recomputed(network)


class _Recomputed:
    """Runs a network with timm's own gradient checkpointing, which knows its blocks; counts no batch twice.

    Raises:
        InputError: timm cannot do it for this network.
    """

    def __init__(self, network: TimmNetwork) -> None:
        self._network = network
        try:
            network.model.set_grad_checkpointing(False)
        except (AssertionError, AttributeError) as error:
            raise InputError(
                f"backbone.checkpointing=true: timm cannot for this network ({error}); give false"
            ) from None
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                module.register_forward_pre_hook(_hold_statistics)
                module.register_forward_hook(
                    _release_statistics, always_call=True
                )  # torch stops a block when it has enough

    def __call__(self, pixels: Tensor) -> Maps:
        """Same outputs as `network(pixels)`."""
        self._network.model.set_grad_checkpointing(True)
        try:
            outputs: Maps = self._network(pixels)
            return outputs
        finally:
            self._network.model.set_grad_checkpointing(False)


def config(name: str) -> dict[str, Any]:
    """timm's config of the weights of a network: size, mean, licence and so on. Raises InputError: no such network."""
    import timm

    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        near = suggestion(bare, timm.list_models())
        raise InputError(f"backbone.name: timm has no network {name!r}{near}; `timm.list_models()` lists them")
    try:
        found = timm.get_pretrained_cfg(name) if "." in name or timm.is_model_pretrained(bare) else None
    except RuntimeError:
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{bare}.*")]
        raise InputError(
            f"backbone.name: {bare} has no weights {tag!r}{suggestion(tag, tags)}; there are: {', '.join(tags) or 'none'}"
        ) from None
    plain: Any = _network(bare).pretrained_cfg if found is None else found.to_dict()  # type: ignore[no-untyped-call]
    return dict(plain)


def _network(name: str, pretrained: bool = False) -> nn.Module:
    """A network without classifier, for pictures of any size if it can be."""
    import timm

    # Where the size is that of its training, position embeddings are not resampled: the same numbers.
    for options in ({"dynamic_img_size": True}, {}):
        try:
            network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)  # type: ignore[arg-type]
            return network
        except TypeError:
            if not options:
                raise
    raise AssertionError


def _on_hub(name: str) -> bool:
    import timm

    found = timm.get_pretrained_cfg(name)
    return found is not None and found.has_weights


def _size_of(model: nn.Module) -> int:
    return int(model.pretrained_cfg["input_size"][-1])  # type: ignore[index]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


def _recomputing() -> bool:
    """Whether a backward pass is at work, which calls a module only to compute its activations again."""
    return torch._C._current_graph_task_id() != -1


def _hold_statistics(norm: nn.Module, _: Any) -> None:
    """Holds running statistics fixed, so that a batch that goes through a second time does not count twice."""
    if _recomputing():
        norm.held = norm.momentum, norm.num_batches_tracked  # type: ignore[assignment]
        norm.momentum = 0.0  # type: ignore[assignment]
        norm.num_batches_tracked = norm.num_batches_tracked.clone()  # type: ignore[operator]


def _release_statistics(norm: nn.Module, _: Any, __: Any) -> None:
    if _recomputing():
        norm.momentum, norm.num_batches_tracked = norm.__dict__.pop("held")
