"""Optuna's search on top of the launchers: a bad trial does not end it, and what has been found is kept.

It takes the place of Hydra's plugin where ``hydra/sweeper=optuna`` is asked for. The trials are in ``search.db`` in
the sweep's directory, unless ``hydra.sweeper.storage`` says where; with ``resume=auto`` those that have ended are not
run again, those that were stopped go on with the values they had, and ``hydra.sweeper.n_trials`` counts all of them.
"""

import contextlib
import math
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl, create_params_from_overrides
from omegaconf import DictConfig
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from experiments.records.files import FREE_KEYS, is_begun
from remac.training.loop import StoppedError
from remac.validation import InvalidValueError

STORAGE, STUDY = "search.db", "search"


class OptunaSearch(OptunaSweeperImpl):
    """Hydra's sweeper for Optuna with a storage, and with trials that may fail."""

    config: DictConfig
    launcher: Any  # the search itself: the loop of the base class launches its trials here
    storage: Any

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra has composed."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        # To learn what became of the trials.
        self._inner: Launcher = self.launcher
        self.launcher = self
        self._errors: list[Exception] = []
        self._worst = math.inf if "minimize" in self._get_directions() else -math.inf

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a batch of trials; one whose training stopped counts as the worst possible, so that it is avoided."""
        returns = self._inner.launch(job_overrides, initial_job_idx=initial_job_idx)
        for one in returns:
            if one.status == JobStatus.FAILED:
                self._errors.append(one._return_value)
                if isinstance(one._return_value, StoppedError):
                    one.status, one.return_value = JobStatus.COMPLETED, self._worst
        return returns

    def sweep(self, arguments: list[str]) -> None:
        """Runs the trials that are missing, and writes ``optimization_results.yaml``.

        Raises:
            InvalidValueError: If the directory holds another search, or one that cannot be continued.
            Exception: What ended the first trial, if none has come to its end.
        """
        directory = Path(self.config.hydra.sweep.dir).absolute()
        is_resumed = self.config.get("resume") is not None
        is_own = self.storage is None
        if is_own and is_resumed and not (directory / STORAGE).exists() and _holds_runs(directory):
            allowed = f"{directory} holds runs and no {STORAGE}, so its search cannot be continued; choose another one"
            raise InvalidValueError("resume", self.config.resume, allowed)
        self.storage = _open_storage(self.storage, directory / STORAGE)
        self.study_name = self.study_name or (STUDY if is_own else str(directory))
        if is_own or is_resumed:
            self._continue(arguments, directory, is_resumed)
        try:
            super().sweep(arguments)
        except ValueError as error:  # there is no best trial
            if isinstance(error, InvalidValueError) or self._has_result():
                raise
        if not self._has_result():
            none = StoppedError(f"no trial of the search in {directory} has come to its end")
            raise next(iter(self._errors), none)

    def _continue(self, arguments: list[str], directory: Path, is_resumed: bool) -> None:
        """Takes up the trials of an earlier process."""
        trials = self._trials()
        if not trials:
            return
        if not is_resumed:
            allowed = "holds a search already; must be a new directory, or resume=auto to go on with it"
            raise InvalidValueError("hydra.sweep.dir", directory, allowed)
        space, fixed = create_params_from_overrides([*self._parse_sweeper_params_config(), *arguments])
        self._require_same(trials[0], space, fixed)
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                # It is asked for again before any new one, with its number and the values that it has.
                self.storage.set_trial_state(trial._trial_id, TrialState.WAITING)
        num_ended = sum(trial.state.is_finished() for trial in trials)
        print(f"{directory}: {num_ended} trials have ended already", flush=True)
        self.job_idx = num_ended  # a batch is told to Optuna in order, so these are the first
        if isinstance(self.sampler, optuna.samplers.BaseSampler):
            self.sampler.reseed_rng()  # the first values of a fixed seed have been used
        else:  # a grid, whose sampler is made from the space
            sizes = (len(self._to_grid_sampler_choices(one)) for one in space.values())
            self.n_trials = min(self.n_trials, math.prod(sizes))
        self.n_trials = max(self.n_trials - num_ended, 0)

    def _require_same(self, trial: Any, space: dict[str, Any], fixed: dict[str, Any]) -> None:
        """Requires that a trial of the earlier process was drawn from the same space, and was the same otherwise."""
        free = re.compile(rf"[+~]*({'|'.join(FREE_KEYS)})\b")
        earlier, now = (
            {key: str(value) for key, value in told.items() if not free.match(key)}
            for told in (trial.user_attrs | trial.distributions, fixed | space)
        )
        for key in (*now, *earlier):
            if earlier.get(key) != now.get(key):
                allowed = f"the search that is resumed has {earlier.get(key)}; give the same command again"
                raise InvalidValueError(key, now.get(key), allowed)

    def _trials(self) -> list[Any]:
        with contextlib.suppress(KeyError):
            return self.storage.get_all_trials(self.storage.get_study_id_from_name(self.study_name))
        return []

    def _has_result(self) -> bool:
        return any(one.state == TrialState.COMPLETE and math.isfinite(one.value) for one in self._trials())


def _open_storage(asked: Any, file: Path) -> Any:
    """Opens Optuna's storage: what was asked for, or a file of SQLite's.

    Raises:
        InvalidValueError: If it cannot be opened.
    """
    if asked is not None and not (isinstance(asked, str) and asked.startswith("sqlite")):
        return optuna.storages.get_storage(asked)
    # Optuna before 3 leaves its schema's version uncommitted under SQLAlchemy 2.
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
    if asked is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Not in the address, where some characters of a path have a meaning.
        options["creator"] = lambda: sqlite3.connect(file, check_same_thread=False)
    try:
        return optuna.storages.get_storage(optuna.storages.RDBStorage(asked or "sqlite://", engine_kwargs=options))
    except (SQLAlchemyError, AssertionError, RuntimeError, sqlite3.Error) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is incomplete"
        raise InvalidValueError("hydra.sweeper.storage", asked or file, f"cannot be opened ({reason})") from None


def _holds_runs(directory: Path) -> bool:
    return directory.is_dir() and any(is_begun(path) for path in directory.iterdir())
