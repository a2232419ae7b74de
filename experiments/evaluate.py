"""Evaluates saved policies: ``python -m experiments.evaluate <run directory> render=true``.

| key | default | meaning |
|---|---|---|
| `run` | | a run directory, or a folder that holds some at any depth; needs no key; or a list, `'run=[a,"b,c"]'` |
| `policy` | `last` | or `best`: of the best evaluation, of runs that kept it (`checkpoint.keep_best=true`) |
| `num_episodes`, `num_retries` | 16, 1 | episodes by the mean action, and by sampled ones; how many from each start |
| `eval_seed` | 1000003 | all that happens by chance depends on it |
| `+env.options.<name>` | the run's own | another option of the environment |
| `episodes` | null | a CSV file for the outcome of every episode |
| `render`, `render_steps`, `render_size` | false, 300, 320 | film an episode of each run; its steps and pixels |
| `film` | null | the file of the film of several runs |

Several runs that are filmed are also shown side by side, at most 16 of them, or of more the median seed of each arm:
in ``film``, by default ``video.gif`` in the folder that ``run`` names, or here if it names several. Brax's films are
pages, which are not put together.

Prints metrics, and writes them to ``evaluation.json`` in every run directory. Exit statuses: 0 done, 1 a file cannot be
written, 2 bad input (one line on stderr).
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from experiments.comparing.films import FILM, choose, side_by_side
from experiments.console.messages import counted, one_line
from experiments.console.pasting import as_path
from experiments.records.files import csv_text, require_output
from experiments.records.run_directory import OutputError
from experiments.running import hydra_main
from experiments.running.config import as_dict
from experiments.running.jax_settings import require_usable_jax
from experiments.running.saved_runs import POLICIES, SavedRun, find_runs, load_run
from remac.files import write_whole
from remac.policies.policy import Policy
from remac.training.devices import MemberSplit
from remac.training.evaluation import Evaluator, Outcomes, close, summarize
from remac.training.loop import stack_members
from remac.training.pacing import Pacer
from remac.types import Environment
from remac.validation import InvalidValueError, require_divisor, require_int, require_one_of

FRAME_SECONDS = 0.04
ACTIONS = ("mean", "sampled")  # in the order of an evaluation's modes
EPISODE_COLUMNS = ("run", "env_steps", "actions", "start", "retry", "return", "length")


@dataclasses.dataclass
class EvaluateEnvironment:
    """``options`` of the environment, in the place of the run's own."""

    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class EvaluateConfig:
    """What to evaluate and how long: ``num_retries`` episodes from each start.

    ``run`` is a run directory or a folder that holds some, or a list of these; ``policy`` is the ``last``, or the
    ``best`` of runs that kept it (``checkpoint.keep_best=true``). ``episodes`` is a CSV file for the outcome of every
    episode. ``render_steps`` and ``render_size`` (pixels) are the video's; ``film`` is the file of the one of
    several runs.
    """

    run: Any = "???"
    policy: str = "last"
    env: EvaluateEnvironment = dataclasses.field(default_factory=EvaluateEnvironment)
    num_episodes: int = 16
    num_retries: int = 1
    eval_seed: int = 1_000_003
    episodes: str | None = None
    render: bool = False
    render_steps: int = 300
    render_size: int = 320
    film: str | None = None


def main(config: DictConfig) -> float:
    """Prints and stores the evaluations, and returns the deterministic return, averaged over runs."""
    for key in ("num_episodes", "render_steps", "render_size"):
        require_int(key, config[key], 1)
    require_divisor("num_retries", config.num_retries, config.num_episodes, "num_episodes")
    require_int("eval_seed", config.eval_seed, 0, 2**32 - 1)
    table = None if config.episodes is None else as_path(config.episodes)
    if table is not None:
        require_output("episodes", table)
    if config.film is not None:
        require_output("film", as_path(config.film))
        if not config.render:
            raise InvalidValueError("film", config.film, "needs render=true")
    require_one_of("policy", config.policy, POLICIES)
    require_usable_jax()
    plain = as_dict(config, resolve=True, throw_on_missing=True)
    options = plain["env"]["options"]
    paths = _paths(plain["run"])
    runs = [load_run(directory, config.policy, options) for directory in find_runs(paths)]
    if config.film is not None and len(runs) == 1:
        raise InvalidValueError("film", config.film, f"is of several runs; that of one is {runs[0].directory / FILM}")
    film = Path(paths[0] if len(paths) == 1 else ".", FILM) if config.film is None else as_path(config.film)
    if config.render and len(runs) > 1 and film.resolve() in [(run.directory / FILM).resolve() for run in runs]:
        raise InvalidValueError("film", film, "is the film of one of these runs; must be another file for that of all")
    for run in runs:
        if config.render and not (hasattr(run.env, "render") or _showing_task(run.env)):
            allowed = f"{run.env.name} has nothing to see; must be a run on another suite"
            raise InvalidValueError("render", True, allowed)
    rows: list[tuple[Any, ...]] = [EPISODE_COLUMNS]
    returns, filmed = [], {}
    for run in runs:
        result, episodes = evaluate(run, config.num_episodes, config.num_retries, config.eval_seed)
        rows += [(run.directory, run.env_steps, *row) for row in _episode_rows(episodes, config.num_retries)]
        returns.append(result["eval/return"])
        _print(run, config.num_episodes, result, is_only=len(runs) == 1)
        settings = {name: plain[name] for name in ("policy", "num_episodes", "num_retries", "eval_seed")} | {
            "options": options
        }
        content = {"env_steps": run.env_steps} | settings | {"metrics": result}
        _write(run.directory / "evaluation.json", (json.dumps(content, indent=2) + "\n").encode())
        if config.render:
            try:
                print(f"video: {render(run.directory, run.env, run.policy, config.render_steps, config.render_size)}")
                if hasattr(run.env, "render"):
                    filmed[run.directory] = result["eval/return"]
            except Exception as error:
                reason = str(error) if isinstance(error, RuntimeError) else one_line(error)
                print(f"no video: {reason}", file=sys.stderr)
    if len(runs) > 1:
        print(f"eval/return: mean {np.mean(returns):,.3f}, median {np.median(returns):,.3f}, of {len(runs)} runs")
    if len(filmed) > 1:
        _film_all(filmed, film)
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        _write(table, csv_text(rows))
        print(table)
    return float(np.mean(returns))


def _film_all(returns: dict[Path, float], file: Path) -> None:
    """Shows the films of several runs side by side."""
    titles, left_out = choose(returns)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        seconds = side_by_side(titles, file)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror or error})") from None
    print(f"video of {len(titles)} runs side by side{left_out}: {file} ({seconds:.2f} s)")


def _paths(value: Any) -> list[Path]:
    """Returns the paths that ``run`` names."""
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str | int | float) or not str(name):  # Hydra reads a name of digits as a number
            raise InvalidValueError("run", value, "must be a directory, or a list [a,b] of some")
    if not names:
        raise InvalidValueError("run", "[]", "must name at least one directory")
    return [as_path(str(name)) for name in names]


def evaluate(run: SavedRun, num_episodes: int, num_retries: int, seed: int) -> tuple[dict[str, float], Outcomes]:
    """Plays episodes, ``num_retries`` from each start.

    Returns:
        Metrics ``eval/...``, and the outcome of every episode, `[2, E]`: by the mean action, and by sampled ones.
    """
    env = run.env.for_evaluation(num_episodes)
    evaluator = Evaluator(env, MemberSplit(1), num_retries)
    try:
        episodes = evaluator.episodes(stack_members([run.policy]), jax.random.key(seed), Pacer(lambda: None))
    finally:
        evaluator.close()
    result = {name: float(values[0]) for name, values in summarize(episodes, num_retries).items()}
    return result, jax.tree.map(lambda leaf: leaf[0], episodes)


def _episode_rows(episodes: Outcomes, num_retries: int) -> Iterator[tuple[Any, ...]]:
    """Yields the rows of ``EPISODE_COLUMNS`` without the run's."""
    for actions, values, lengths in zip(ACTIONS, episodes.episode_return, episodes.length, strict=True):
        for number, (value, length) in enumerate(zip(values, lengths, strict=True)):
            yield actions, number // num_retries, number % num_retries, float(value), int(length)


def _print(run: SavedRun, num_episodes: int, result: dict[str, float], *, is_only: bool) -> None:
    age = "" if run.env_steps is None else f"policy after {run.env_steps:,} env steps, "
    if is_only:
        print(f"{age}{counted(num_episodes, 'episode')}")
        for name, value in result.items():
            print(f"{name:24} {value:12.3f}")
        return
    values = ", ".join(f"{name} {result[name]:,.3f}" for name in ("eval/return", "eval/return_stochastic"))
    print(f"{run.directory}: {age}{counted(num_episodes, 'episode')}: {values}", flush=True)


def _write(file: Path, content: bytes) -> None:
    try:
        write_whole(file, content)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror}); what was to be in it is above") from None


def render(directory: Path, env: Environment, policy: Policy, num_steps: int, size: int) -> str:
    """Films one episode of the deterministic policy in real time: a GIF, or a page of HTML where a task makes one.

    Returns:
        The file, and how long and at which rate it shows the episode.

    Raises:
        RuntimeError: If this machine cannot render; the message says why.
    """
    # Some environments have what the interface does not ask for: a film's frames, and the time between them.
    one: Any = env.for_rendering() if hasattr(env, "for_rendering") else env.for_evaluation(1)
    states = _states(one, policy, num_steps)
    if hasattr(one, "render"):
        from PIL import Image

        dt, every, frames, num_states = one.dt, film_skip(one.dt), [], 0
        for num_states, state in enumerate(states, 1):  # some environments draw only the state that they are in
            if (num_states - 1) % every == 0:
                frames.append(Image.fromarray(one.render(state, (0, 0), size, size)))
        shown, milliseconds = film_times(num_states, dt)
        first, *others = frames[: len(shown)]
        file = directory / FILM
        first.save(file, save_all=True, append_images=others, duration=milliseconds, loop=0)
    else:
        task = _showing_task(env)
        physics = [jax.tree.map(lambda leaf: leaf[0], state.physics[0]) for state in states]
        num_states, dt = len(physics), task.dt
        shown, file = list(range(num_states)), directory / "video.html"
        file.write_text(task.page(physics), encoding="utf-8")
    seconds = num_states * dt
    return f"{file} ({seconds:.2f} s in real time, {len(shown) / seconds:.1f} frames a second)"


def _showing_task(env: Environment) -> Any:
    """Returns the task of an environment on the device if it shows episodes as pages of HTML, as Brax's do, or None."""
    task = getattr(env, "task", None)
    return task if hasattr(task, "page") else None


def film_skip(dt: float) -> int:
    """Chooses of how many states a film shows one, ``dt`` seconds apart."""
    return max(1, round(FRAME_SECONDS / dt))


def film_times(num_states: int, dt: float) -> tuple[list[int], list[int]]:
    """Chooses which states a GIF shows and for how long, so that it runs in real time.

    A GIF counts in hundredths of a second, and what is shown for less than two of them browsers show for ten.

    Args:
        num_states: At least 1.
        dt: From one state to the next, in seconds.

    Returns:
        The states' indices, about 25 in a second or all if there are fewer, and the milliseconds of each; together
        they last as long as the simulation, to 10 ms.
    """
    skip = film_skip(dt)
    shown = [skip * number for number in range(max(1, num_states // skip))]
    ends = np.round(np.array([*shown, num_states]) * dt * 100).astype(int)  # the last one takes the rest
    return shown, [10 * max(2, int(time)) for time in np.diff(ends)]


def _states(env: Environment, policy: Policy, num_steps: int) -> Iterator[Any]:
    """Yields the states of one episode, at most ``num_steps`` of them, and then closes the environment."""
    reset, step = (jax.jit(env.reset), jax.jit(env.step)) if env.on_device else (env.reset, env.step)
    act = jax.jit(lambda policy, observation: policy(observation))
    key = jax.random.key(0)
    try:
        state = reset(key if env.on_device else key[None])
        for _ in range(num_steps):
            yield state
            state = step(state, np.asarray(act(policy, state.observation)))
            if (state.termination | state.truncation).any():
                return
    finally:
        close(env)


if __name__ == "__main__":
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
    hydra_main.run("evaluate", main, folders_key="run")
