"""python -m ctl_lightning.export: the two encoders of a checkpoint as files that run without this package."""

from pathlib import Path

from omegaconf import DictConfig

from ctl_lightning.runtime.config import check_switches
from ctl_lightning.runtime.program import program


@program("export")
def main(config: DictConfig) -> None:
    """Writes them, and compares what they say with the network."""
    check_switches(config, "onnx")
    from ctl_lightning.runtime.console import console
    from ctl_lightning.serving.encoder import Encoder
    from ctl_lightning.serving.export import export

    encoder = Encoder(Path(str(config.ckpt_path)).expanduser())
    written = export(encoder, Path(str(config.output)).expanduser(), config.onnx)
    console.print("written, read back, and equal to the network on random pictures:")
    for path in written:
        console.print(f"  {path}")


if __name__ == "__main__":
    main()
