"""python -m ctl_lightning.paper: methods x protocols x seeds (x folds), trained as jobs of their own, and one table of them all."""

import os
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from ctl_lightning.runtime.config import Config, check_options, check_switches, resolved
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.program import program

OPTIONS = {
    "methods": list[str],
    "protocols": list[str],
    "seeds": list[int],
    "folds": int | None,
    "variants": dict[str, list[str]] | None,
    "compared": list[str],
    "clean_by": str | None,
    "overrides": dict[str, list[str]],
    "workers": int,
    "docs": str | None,
}


@program("paper")
def main(config: DictConfig) -> None:
    """Runs what is not finished, and makes the tables."""
    paper(config)


def paper(config: DictConfig) -> None:
    """Trains the cells of the table that are not finished; leaves tables, csv and pictures in `paths.run_dir`.

    A cell that fails is not the end: its row says why, and the exit code is 1.

    Raises:
        InputError: what the user can mend; at the end, how many cells failed.
    """
    plain = resolved(config)
    check(plain)
    from ctl_lightning.reports.cells import cells_of, run_cells
    from ctl_lightning.reports.paper_rows import read_rows
    from ctl_lightning.reports.paper_table import check_docs, write_paper_table
    from ctl_lightning.runtime.console import console

    docs = Path(plain["docs"]) if plain["docs"] else None
    if docs is not None:
        check_docs(docs, plain["protocols"], plain["methods"], len(plain["seeds"]), plain["folds"])
    run_dir = Path(os.path.realpath(config.paths.run_dir))
    cells = cells_of(plain, run_dir)
    for cell in cells:
        if cell.is_another():
            raise InputError(
                f"{cell.folder} holds a training with other options; choose another hydra.run.dir, or delete that folder"
            )
    waiting = [cell for cell in cells if not cell.is_finished()]
    console.print(f"{len(cells)} trainings, {len(cells) - len(waiting)} of them finished before; all in {run_dir}")
    failures = run_cells(waiting, plain["workers"])
    rows = read_rows(plain, cells, failures)
    written = write_paper_table(run_dir, rows, docs, console, plain["compared"], plain["clean_by"])
    for path in written:
        console.print(f"  {path}")
    if failures:
        raise InputError(
            f"{len(failures)} of {len(cells)} trainings failed (first: {next(iter(failures.values()))}); the table says why, train.log "
            "in their folders says more; the same command runs them again"
        )


def check(plain: Config) -> None:
    """Raises InputError: an option of another type, or out of its range."""
    check_switches(plain, "product_visible")
    check_options(plain, OPTIONS)
    for name in ("methods", "protocols", "seeds"):
        counts: Counter[object] = Counter(plain[name])
        twice = [value for value, count in counts.items() if count > 1]
        if twice or not plain[name]:
            raise InputError(f"{name}={plain[name]}: {f'{twice[0]} is there twice' if twice else 'give one at least'}")
    if plain["folds"] is not None and plain["folds"] < 2:
        raise InputError(f"folds={plain['folds']}: give 2 at least, or null for one split")
    for name, words in (plain["variants"] or {}).items():
        if not words:
            raise InputError(f"variants.{name}=[]: give a method first, then further words for its trainings")
    if plain["clean_by"] is not None and plain["clean_by"] not in plain["methods"]:
        known = ", ".join(plain["methods"])
        raise InputError(
            f"clean_by={plain['clean_by']}: there is no such row{suggestion(plain['clean_by'], plain['methods'])}; there are: {known}"
        )
    if plain["workers"] < 1:
        raise InputError(f"workers={plain['workers']}: give 1 at least")


if __name__ == "__main__":
    main()
