"""python -m ctl_lightning.sweep_table folder=DIR: what a sweep has found, setting by setting, over the seeds."""

from pathlib import Path

from omegaconf import DictConfig

from ctl_lightning.runtime.config import check_options
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program


@program("sweep_table")
def main(config: DictConfig) -> None:
    """Prints and writes the table of one sweep."""
    sweep_table(config)


def sweep_table(config: DictConfig) -> None:
    """Reads the jobs below `folder`; leaves sweep.csv and sweep.png there.

    Raises:
        InputError: no sweep; an unknown metric; at the end, how many jobs failed.
    """
    from ctl_lightning.models.checkpoint import MONITOR
    from ctl_lightning.reports.paper_rows import check_metrics
    from ctl_lightning.reports.sweep import draw_sweep, print_sweep, read_sweep, sweep_csv
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.errors import only_warned
    from ctl_lightning.runtime.files import write_text

    check_options({"metrics": list(config.metrics), "folder": config.folder}, {"metrics": list[str], "folder": str})
    check_metrics(config.metrics)
    folder = Path(config.folder).expanduser()
    settings = read_sweep(folder)
    metrics = [MONITOR, *config.metrics]
    print_sweep(settings, metrics)
    write_text(folder / "sweep.csv", sweep_csv(settings, metrics))
    written = [folder / "sweep.csv"]
    if any(setting.finished for setting in settings):
        with only_warned(f"{folder / 'sweep.png'}: not drawn"):
            draw_sweep(folder / "sweep.png", settings, config.metrics)
            written.append(folder / "sweep.png")
    for path in written:
        console.print(f"  {path}")
    failed = [job for setting in settings for job in setting.jobs if job.why_not]
    if failed:
        count = sum(len(setting.jobs) for setting in settings)
        again = f"the command of the sweep with hydra.sweep.dir={folder} ckpt_path=auto runs them again"
        if (folder / "optuna.journal").exists():
            again = f"the command of the search with hydra.sweep.dir={folder} goes on with what was running, and with other trials"
        raise InputError(
            f"{len(failed)} of {count} jobs have no results (first: {failed[0].folder.name}: {failed[0].why_not}); {again}"
        )


if __name__ == "__main__":
    main()
