"""Logs a run to Weights & Biases, without ever holding up or stopping its training."""

import contextlib
import hashlib
import json
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from experiments.console.messages import one_line, shorten, warn
from experiments.console.pasting import key_of
from experiments.records.files import FREE_KEYS

# The client may spend it twice, on asking for an earlier run and on making this one; with the clean-up 15 s in all.
INIT_TIMEOUT_SECONDS = 6.5
CLEANUP_SECONDS = 2.0
FINISH_TIMEOUT_SECONDS = 60.0
_TAG_LENGTH, _NAME_LENGTH = 64, 128
_JOURNAL = Path("wandb", "rows.jsonl")  # in the run directory


def make_logger(config: Mapping[str, Any], directory: Path, origin: Mapping[str, Any]) -> "WandbLogger | None":
    """Returns the logger of a run, started, or None if W&B is switched off.

    Args:
        config: The resolved configuration, as plain data.
        directory: The run directory.
        origin: As ``experiments.records.run_directory.RunDirectory.origin``.
    """
    if config["logger"]["mode"] == "disabled":
        return None
    overrides = origin["overrides"]
    told = [text for text in overrides if key_of(text).partition(".")[0] not in ("seed", *FREE_KEYS)]
    # A preset's arm is one of each task; an arm named by hand is among the overrides.
    env = config["env"]
    arm = f"{env['suite']}/{env['task']} {config['arm']}" if config["experiment"] else ",".join(told) or "default"
    return WandbLogger(
        config["logger"],
        dict(config),
        directory,
        run_id=origin.get("id") or old_run_id(origin["sweep"], arm, config["seed"]),
        sweep=origin["sweep"],
        arm=arm,
        seed=config["seed"],
        overrides=overrides,
    )


def old_run_id(sweep: str, arm: str, seed: int) -> str:
    """Returns the id of a run that was begun before each had its own, by which it can still be continued."""
    return hashlib.sha256(json.dumps([sweep, arm, int(seed)]).encode()).hexdigest()[:16]


def make_tags(tags: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Returns the given tags and those made from overrides, each once, and of a length that W&B takes."""
    untold = ("hydra", "logger", "checkpoint", "resume")
    told = [text for text in overrides if re.split("[./]", key_of(text))[0] not in untold]
    stripped = [text.strip() for text in (*tags, *told)]
    return list(dict.fromkeys(shorten(text, _TAG_LENGTH) for text in stripped if text))


class WandbLogger:
    """One W&B run: in a population each member has its own, and several may be alive in one process.

    An online run that cannot start becomes an offline one, and so do all later runs of the process, which then do
    not wait again. What fails later ends the logging of this run with one warning. The group is the sweep and the job
    type the arm, since W&B's workspace groups by these two: seeds of an arm come together as their mean.

    Note:
        wandb before 0.27 has no limit on the time in which the end of an online run is uploaded.
    """

    _is_unreachable: ClassVar[bool] = False
    _is_client_broken: ClassVar[bool] = False
    _alive: ClassVar[set["WandbLogger"]] = set()

    def __init__(
        self,
        settings: Mapping[str, Any],
        config: dict[str, Any],
        directory: Path,
        *,
        run_id: str,
        sweep: str,
        arm: str,
        seed: int,
        overrides: Sequence[str],
    ) -> None:
        """Starts the run; never raises on W&B's account.

        Args:
            settings: As ``experiments.running.config.LoggerConfig``.
            config: The resolved configuration, as plain data.
            directory: The run directory; W&B's files go to ``wandb`` inside it.
            run_id: By which W&B knows the run; no other run has it.
            sweep: What the run belongs to; also the group, unless the settings name one.
            arm: Which variant of the sweep the run is.
            seed: The run's seed.
            overrides: What the command line changed; each becomes a tag.
        """
        self._id = run_id
        self._journal = Path(directory) / _JOURNAL
        self._run: Any = None
        self._env_steps = 0
        self._sync_command = ""
        self._arguments = {
            "project": settings["project"],
            "entity": settings["entity"],
            "dir": str(Path(directory).absolute()),
            "id": self._id,
            # The seed stays readable even where the arm has to be cut.
            "name": f"{shorten(arm, _NAME_LENGTH - 16)} seed {seed}",
            "group": shorten(settings["group"] or sweep, _NAME_LENGTH),
            "job_type": shorten(arm, _TAG_LENGTH),
            "tags": make_tags(settings["tags"], overrides),
            "config": config,
            "resume": "allow",
            "reinit": "create_new",
        }
        self._is_offline = settings["mode"] != "online"
        self._logged = -1
        self._attempt(self._start, exit_code=1)

    def log(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Logs all metrics of one evaluation as one row; a row that is there already is not logged again.

        A resumed run comes to some evaluations for the second time, with other times and on a GPU with other values,
        and of the rows of a process that was killed, W&B may have all or none. So each row is written down first:
        what may have been logged is logged again as it was.
        """
        if self._run is None or env_steps <= self._logged:
            return
        self._env_steps = self._logged = int(env_steps)
        self._attempt(lambda: self._write_down_and_log(metrics), exit_code=1)

    def finish(self, summary: Mapping[str, Any], plots: Sequence[Path], exit_code: int) -> None:
        """Logs what is known at the end, closes the run, and prints how to upload it, or its address if it is there."""
        if self._run is None:
            return
        self._attempt(lambda: self._end(summary, plots, exit_code), exit_code)
        if self._run is not None:
            print(self._sync_command if self._is_offline else f"W&B run: {self._run.url}", flush=True)
            self._release()

    def _start(self) -> None:
        reason = None
        self._is_offline |= WandbLogger._is_unreachable
        if not self._is_offline:
            try:
                self._run = self._init("online")
            except Exception as error:
                reason = one_line(error)
                self._fall_back()
        if self._run is None:
            self._run = self._init("offline")
        WandbLogger._alive.add(self)
        id_option = "" if self._arguments["id"] == self._id else f"--id {self._id} "
        self._sync_command = f"wandb sync {id_option}{shlex.quote(str(Path(self._run.dir).parent))}"
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")
        self._log_again()
        if reason is not None:
            warn(f"W&B is out of reach, so runs of this process are logged offline ({reason})")

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        # The client reports its own errors to the server; without a server that holds up the exit for 20 s.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        wanted: dict[str, Any] = {
            "console": "off",
            "symlink": False,
            "init_timeout": INIT_TIMEOUT_SECONDS,
            "finish_timeout": FINISH_TIMEOUT_SECONDS,
            "finish_timeout_raises": True,
        }
        settings = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
        with _no_terminal():
            # For all runs, since not all of the client's messages belong to one; a client torn down forgets it.
            wandb.setup(wandb.Settings(silent=True))
            return wandb.init(**self._arguments, mode=mode, settings=wandb.Settings(**settings))

    def _fall_back(self) -> None:
        """Makes way for an offline run: in the client, a run that could not start keeps its id."""
        WandbLogger._is_unreachable = self._is_offline = True
        if WandbLogger._alive:
            # Tearing the client down would end the other runs; the right id is given when this one is uploaded.
            WandbLogger._is_client_broken = True
            self._arguments["id"] = f"{self._id}-offline"
        else:
            _tear_down()

    def _end(self, summary: Mapping[str, Any], plots: Sequence[Path], exit_code: int) -> None:
        import wandb

        self._run.summary.update(dict(summary))
        if plots:
            images = {f"plots/{Path(path).stem}": wandb.Image(str(path)) for path in plots}
            self._log_row(images)
        self._run.finish(exit_code=exit_code)

    def _write_down_and_log(self, metrics: Mapping[str, float]) -> None:
        row = {name: float(value) for name, value in metrics.items()}
        self._journal.parent.mkdir(exist_ok=True)
        with self._journal.open("a") as file:
            file.write(json.dumps({"env_steps": self._env_steps, **row}) + "\n")
        self._log_row(row)

    def _log_again(self) -> None:
        """Logs the rows of earlier processes; those that the server has already it tells by its summary."""
        known = -1 if self._is_offline else self._run.summary.get("env_steps", -1)
        for row in _read_rows(self._journal):
            self._env_steps = self._logged = row.pop("env_steps")
            if self._logged > known:
                self._log_row(row)

    def _log_row(self, values: Mapping[str, Any]) -> None:
        self._run.log({"env_steps": self._env_steps, **values})

    def _attempt(self, action: Callable[[], Any], exit_code: int) -> None:
        """Runs an action of the client's; if it fails, warns once and ends the logging of this run."""
        try:
            action()
        except (Exception, SystemExit) as error:  # the client exits where its service process failed
            after = f"; upload what there is with: {self._sync_command}" if self._sync_command else ""
            warn(f"W&B logging of this run stopped, the run directory goes on ({one_line(error)}){after}")
            run, self._run = self._run, None
            if run is not None:
                _run_briefly(lambda: run.finish(exit_code=exit_code))
            WandbLogger._is_client_broken = True
            self._release()

    def _release(self) -> None:
        """Ends this run's part; the last run alive takes a broken client with it, so that later ones get a new one."""
        self._run = None
        WandbLogger._alive.discard(self)
        if WandbLogger._is_client_broken and not WandbLogger._alive:
            WandbLogger._is_client_broken = False
            _tear_down()


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows that were written down, each with ``env_steps``; the last may have been cut short."""
    if not path.exists():
        return []
    content = path.read_text()
    if content and not content.endswith("\n"):
        content = content[: content.rfind("\n") + 1]
        path.write_text(content)
    return [json.loads(line) for line in content.splitlines()]


def _tear_down() -> None:
    """Ends the client and its service process; the next run starts new ones."""
    client = sys.modules.get("wandb")
    if client is not None:
        _run_briefly(lambda: client.teardown())


def _run_briefly(action: Callable[[], Any]) -> None:
    """Runs an action for a limited time, after which a thread that cannot hold up the exit is left with it."""

    def quietly() -> None:
        with contextlib.suppress(BaseException):
            action()

    thread = threading.Thread(target=quietly, daemon=True, name="wandb-cleanup")
    thread.start()
    thread.join(CLEANUP_SECONDS)


@contextlib.contextmanager
def _no_terminal() -> Iterator[None]:
    """Hides the terminal's input, since W&B asks for a missing API key where somebody could answer."""
    stdin = sys.stdin
    with open(os.devnull) as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = stdin
