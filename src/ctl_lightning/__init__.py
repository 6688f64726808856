"""Complete the look: learn how well a product goes with a scene. The public names; each is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctl_lightning.data.datamodule import TripletDataModule as TripletDataModule
    from ctl_lightning.metrics.batch_metrics import HitRate as HitRate
    from ctl_lightning.metrics.batch_metrics import Lift as Lift
    from ctl_lightning.metrics.batch_metrics import MatchedAUC as MatchedAUC
    from ctl_lightning.metrics.ranking import CatalogueRanking as CatalogueRanking
    from ctl_lightning.models.components.network import Network as Network
    from ctl_lightning.models.components.style_network import StyleNetwork as StyleNetwork
    from ctl_lightning.serving.compatibility import Compatibility as Compatibility
    from ctl_lightning.serving.recommender import Recommender as Recommender
    from ctl_lightning.training.module import CompleteTheLook as CompleteTheLook

    __version__: str

_MODULES = {
    "CatalogueRanking": "metrics.ranking",
    "Compatibility": "serving.compatibility",
    "CompleteTheLook": "training.module",
    "HitRate": "metrics.batch_metrics",
    "Lift": "metrics.batch_metrics",
    "MatchedAUC": "metrics.batch_metrics",
    "Network": "models.components.network",
    "Recommender": "serving.recommender",
    "StyleNetwork": "models.components.style_network",
    "TripletDataModule": "data.datamodule",
}
"""Public name -> the module that it is in."""

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module(f"{__name__}.runtime.environment").own_version()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "__version__"})
