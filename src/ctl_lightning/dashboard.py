"""python -m ctl_lightning.dashboard entity=... project=...: a dashboard at Weights & Biases, or a report of a sweep."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ctl_lightning.runtime.config import check_options, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

OPTIONS: dict[str, Any] = {
    "entity": str,
    "project": str,
    "folder": str | None,
    "name": str | None,
    "metrics": list[str],
    "output": str | None,
}


@program("dashboard")
def main(config: DictConfig) -> None:
    """Makes one dashboard."""
    dashboard(config)


def dashboard(config: DictConfig) -> None:
    """Saves a view of the project, or a report of the sweep in `folder`; with `output`, writes what it would send.

    Raises:
        InputError: what the user can mend.
    """
    options = resolved(config)
    check_options({name: options[name] for name in OPTIONS}, OPTIONS)
    for name in ("entity", "project", "name"):
        if options[name] == "":
            raise InputError(f"{name}= is empty; give {name}=NAME" + (", or leave it out" if name == "name" else ""))
    if find_spec("wandb_workspaces") is None:
        raise InputError("wandb-workspaces is not installed; pip install 'ctl_lightning[dashboard]'")
    from ctl_lightning.reports.paper_rows import check_metrics
    from ctl_lightning.reports.sweep import read_sweep
    from ctl_lightning.reports.workspace import saved, specification, sweep_report, workspace
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.files import write_text

    place = options["entity"], options["project"]
    if options["folder"] is None:
        made: Any = workspace(*place, options["name"] or "Complete the look")
    else:
        check_metrics(options["metrics"])
        folder = Path(options["folder"]).expanduser()
        title = options["name"] or folder.resolve().name
        made = sweep_report(*place, title, folder, read_sweep(folder), options["metrics"])
    if options["output"] is None:
        console.print(saved(made))
        return
    path = Path(options["output"]).expanduser()
    try:
        write_text(path, specification(made))
    except OSError as error:
        raise InputError(f"output={path}: {error.strerror}; give another output=FILE") from None
    console.print(f"written, and nothing is sent: {path}")


if __name__ == "__main__":
    main()
