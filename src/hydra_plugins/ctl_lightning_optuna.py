"""A Hydra sweeper that lets Optuna choose the options of the jobs: hydra/sweeper=optuna.

The released hydra-optuna-sweeper needs an Optuna of 2022, whose storage fails with today's SQLAlchemy. This one reads
search spaces written in the same way, keeps the study in a journal file in the sweep's folder, and goes on with it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ctl_lightning.runtime.errors import InputError

if TYPE_CHECKING:  # Hydra imports every plugin at every start, and Optuna takes a second
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

JOURNAL = "optuna.journal"
"""File of the study, in the sweep's folder."""


class OptunaSweeper(Sweeper):
    """Maximises what the program returns.

    A job has the number of its trial, so a search that was stopped finds the folders of the jobs that were running, and
    goes on with them from their checkpoints (`ckpt_path=auto`). A trial that fails counts, and is not run again; the
    search goes on with others.

    Args:
        trials: number of trials to finish in all.
        parallel: number of jobs that are launched together.
        seed: random seed of the sampler, Optuna's default: tree-structured Parzen estimators (Bergstra et al. 2011).
        params: name of an option -> values to choose from, in Hydra's grammar.
    """

    def __init__(self, trials: int, parallel: int, seed: int, params: DictConfig) -> None:
        self._trials, self._parallel, self._seed, self._params = trials, parallel, seed, params
        self._launcher: Launcher
        self._context: HydraContext
        self._config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's Sweeper."""
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs the trials that are left.

        Raises:
            InputError: Optuna is not installed, options out of range, nothing to search, another search space than that
                of the study, a trial that failed (after all have ended).
        """
        for name, value in (("trials", self._trials), ("parallel", self._parallel)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"hydra.sweeper.{name}={value}: give a whole number, 1 at least")
        words = [*(f"{name!s}={value}" for name, value in self._params.items()), *arguments]
        overrides = OverridesParser.create(config_loader=self._context.config_loader).parse_overrides(words)
        last = {override.get_key_element(): override for override in overrides}  # the command line comes last, and wins
        fixed = [f"{key}={one.get_value_element_as_str()}" for key, one in last.items() if not one.is_sweep_override()]
        searched = {key: one for key, one in last.items() if one.is_sweep_override()}
        if not searched:
            raise InputError("hydra/sweeper=optuna: there is nothing to search; give hydra.sweeper.params")
        try:
            space = {key: _distribution(one) for key, one in searched.items()}
        except ImportError:
            raise InputError("sweep=optuna needs Optuna: pip install 'ctl_lightning[optuna]'") from None
        except (ValueError, TypeError) as error:
            raise InputError(f"hydra.sweeper.params: {error}") from None
        folder = Path(str(self._config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self._config, folder / "multirun.yaml")
        study = _study(folder / JOURNAL, self._seed)
        self._run(study, space, fixed, folder)

    def _run(self, study: "Study", space: "dict[str, BaseDistribution]", fixed: Sequence[str], folder: Path) -> None:
        from optuna.trial import TrialState

        before = study.get_trials(deepcopy=False)
        for trial in before:
            if trial.distributions and trial.distributions != space:
                raise InputError(
                    f"{folder / JOURNAL} searches another space ({', '.join(sorted(trial.distributions))}); choose another "
                    "hydra.sweep.dir, or give the same hydra.sweeper.params"
                )
        running: list[FrozenTrial] = [trial for trial in before if trial.state == TrialState.RUNNING]
        stopped = {trial.number for trial in running} if not any("ckpt_path=" in word for word in fixed) else set()
        failures: dict[int, object] = {}
        while True:
            ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
            batch = running[: self._parallel]
            running = running[len(batch) :]
            while len(batch) < min(self._parallel, self._trials - len(ended)):
                batch.append(study.ask(space))  # type: ignore[arg-type]
            if not batch:
                break
            for group in _in_a_row(batch):
                jobs = [
                    [
                        *fixed,
                        *(["ckpt_path=auto"] if trial.number in stopped else []),
                        *(f"{name}={value!s}" for name, value in trial.params.items()),
                    ]
                    for trial in group
                ]
                for trial, job in zip(group, self._launcher.launch(jobs, initial_job_idx=group[0].number), strict=True):
                    value = _value(job)
                    if value is None:
                        failures[trial.number] = job._return_value
                        study.tell(trial.number, state=TrialState.FAIL)
                    else:
                        study.tell(trial.number, value)
        done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        if done:
            best = study.best_trial
            chosen = " ".join(f"{name}={value}" for name, value in best.params.items())
            print(f"best of {len(done)} trials: {best.value:.4f}, trial {best.number}: {chosen}")
        failed = [trial.number for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.FAIL]
        if failed:
            why = f": {failures[failed[0]]}" if failed[0] in failures else ""
            raise InputError(
                f"{len(failed)} of {len(failed) + len(done)} trials failed (first: {failed[0]}{why}); all are told of by python -m "
                f"ctl_lightning.sweep_table folder={folder}"
            )


def _study(journal: Path, seed: int) -> "Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
    )
    # The sampler's own state is not kept: a search that goes on shall not draw what it drew before.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)), constant_liar=True)
    return study


def _distribution(override: Override) -> "BaseDistribution":
    """What Optuna may choose from, of an override in Hydra's grammar. Raises ValueError."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(int(value.start), int(value.end), log=log)
        return FloatDistribution(float(value.start), float(value.end), log=log)
    if isinstance(value, RangeSweep) and isinstance(value.start, int) and isinstance(value.step, int):
        assert value.stop is not None
        return IntDistribution(value.start, int(value.stop) - 1, step=value.step, log=log)
    # As they were written, quotes included, because a job is given them back like that.
    return CategoricalDistribution(tuple(override.sweep_string_iterator()))


def _in_a_row(trials: Sequence[Any]) -> list[list[Any]]:
    """Groups of trials with consecutive numbers, because a launcher numbers its jobs consecutively."""
    groups: list[list[Any]] = []
    for trial in sorted(trials, key=lambda trial: int(trial.number)):
        if groups and groups[-1][-1].number + 1 == trial.number:
            groups[-1].append(trial)
        else:
            groups.append([trial])
    return groups


def _value(job: JobReturn) -> float | None:
    """The number that a job returned; None: it failed, or returned no number."""
    if job.status != JobStatus.COMPLETED or not isinstance(job._return_value, (int, float)):
        return None
    return float(job._return_value)
