"""Which library each name in `backbone.library` stands for."""

from ctl_lightning.models.components.libraries.library import Library, LibraryName
from ctl_lightning.models.components.libraries.small import Small
from ctl_lightning.models.components.libraries.timm_networks import Timm
from ctl_lightning.models.components.libraries.torchvision_networks import Torchvision

LIBRARIES: dict[LibraryName, Library] = {"small": Small(), "torchvision": Torchvision(), "timm": Timm()}
