"""Takes a policy away: ``python -m experiments.export <run directory> format=numpy|onnx|stablehlo``.

Writes what leads from the task's raw observation to the policy's mean action in the task's own units, with the
normalisation of observations, and ``contract.json``, which says what goes in and what comes out, each number with its
name and unit where the suite knows them:

| format | files | runs with |
|---|---|---|
| `numpy` | `policy.npz`, `policy.py` | NumPy alone |
| `onnx` | `policy.onnx` | any ONNX runtime |
| `stablehlo` | `policy.stablehlo` | `jax.export`, on any of its platforms |

The last two take `pip install -c constraints.txt -e '.[export]'`. The files are run on 1,000 observations of the task
before they are kept, and must give the policy's own actions to 1e-5 of half the actions' range.

| key | default | meaning |
|---|---|---|
| `policy` | `last` | or `best`: of the best evaluation, of a run that kept it (`checkpoint.keep_best=true`) |
| `out` | `<run directory>/export/<format>`, or `<format>_best` | the folder that is written to |

Exit statuses: 0 done, 1 a file cannot be written or does not give the policy's actions, 2 bad input (one line on
stderr).
"""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.console.key_value import exit_with, parse, require_folder, split_folders
from experiments.console.messages import leave
from experiments.console.pasting import as_path
from experiments.exporting.formats import BATCH, FORMATS, INPUT, OUTPUT, Act, require_packages
from experiments.exporting.steps import ActionRange
from experiments.records.checkpoints import sums
from experiments.records.files import PROVENANCE, read_config, read_json
from experiments.records.provenance import provenance
from experiments.running import compilation_cache
from experiments.running.jax_settings import require_usable_jax
from experiments.running.saved_runs import SavedRun, load_run
from remac.files import write_whole
from remac.policies.policy import Policy
from remac.types import Environment
from remac.validation import InvalidValueError, require_one_of

CONTRACT = "contract.json"
NUM_ENVS, NUM_STEPS = 20, 50  # of the observations on which files are compared with the policy
TOLERANCE = 1e-5


def main(arguments: Sequence[str]) -> None:
    """Writes a policy in one format, and compares what was written with the policy."""
    folders, others = split_folders(arguments)
    arguments = [*(f"run={folder}" for folder in folders), *others]
    _, settings = parse(arguments, {"run": "", "format": "", "out": "", "policy": "last"}, with_directories=False)
    if not settings["run"]:
        raise InvalidValueError("run", "''", "must be given: a run directory")
    name = settings["format"]
    require_one_of("format", name, FORMATS)
    require_packages(name)
    require_usable_jax()
    compilation_cache.enable()
    run = as_path(settings["run"])
    saved = load_run(run, settings["policy"])
    env, policy = saved.env, saved.policy
    chosen = FORMATS[name]
    own = run / "export" / (name if settings["policy"] == "last" else f"{name}_{settings['policy']}")
    out = as_path(settings["out"]) if settings["out"] else own
    require_folder("out", out)

    ones = np.ones(env.action_size)
    action_range = ActionRange(*np.asarray(getattr(env, "action_range", (-ones, ones)), np.float32))
    files = chosen.write(policy, action_range)
    observation = observations(env, policy)
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            Path(folder, file).write_bytes(content)
        difference = largest_difference(chosen.load(Path(folder)), policy, action_range, observation)
    if not difference <= TOLERANCE:
        leave(
            1,
            f"{out}: not written, since its actions would differ from the policy's by {difference:.2g} of half "
            f"their range on {len(observation)} observations; {TOLERANCE:g} is allowed",
        )
    out.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        write_whole(out / file, content)
    contract = make_contract(saved, action_range, observation) | {
        "format": name,
        "use": chosen.use,
        "files": {file: sums(out / file) for file in files},
        "check": {
            "observations": len(observation),
            "largest_difference": difference,
            "allowed": TOLERANCE,
            "unit": "half of the action's range",
        },
    }
    write_whole(out / CONTRACT, (json.dumps(contract, indent=2) + "\n").encode())
    print("\n".join(str(out / file) for file in (*files, CONTRACT)))
    seen = f"{len(observation):,} observations of {env.name}"
    print(f"the policy's actions to {difference:.1g} of half their range, on {seen}")


def observations(task: Environment, policy: Policy) -> np.ndarray:
    """Returns what the policy observes while it acts with noise, `[NUM_ENVS * NUM_STEPS, obs_dim]` float32."""
    env = task.for_evaluation(NUM_ENVS)
    reset, step = (jax.jit(env.reset), jax.jit(env.step)) if env.on_device else (env.reset, env.step)
    act = jax.jit(lambda policy, observation, key: policy(observation, key))
    first, *keys = jax.random.split(jax.random.key(0), NUM_STEPS)
    state = reset(first if env.on_device else first[None])
    seen = [state.observation]
    for key in keys:
        state = step(state, np.asarray(act(policy, state.observation, key)))
        seen.append(state.observation)
    if close := getattr(env, "close", None):
        close()
    return np.concatenate([np.asarray(rows, np.float32).reshape(-1, env.observation_size) for rows in seen])


def largest_difference(act: Act, policy: Policy, action_range: ActionRange, observation: np.ndarray) -> float:
    """Returns by how much actions differ from the policy's mean actions at most, as a share of half their range.

    Alone and in a batch: the last observation is acted on by itself as well.
    """
    exact = dataclasses.replace(policy, network=policy.network.clone(precision="highest"))
    expected = action_range.centre + action_range.half * np.asarray(jax.jit(Policy.__call__)(exact, observation))
    actions = np.stack([*act(observation), *act(observation[-1:])])
    half = np.where(action_range.half > 0, action_range.half, 1)
    differences = np.abs(actions - np.concatenate([expected, expected[-1:]])) / half
    return float(differences.max())


def make_contract(saved: SavedRun, action_range: ActionRange, observation: np.ndarray) -> dict[str, Any]:
    """Returns what whoever runs a policy needs to know of it."""
    env, config = saved.env, read_config(saved.directory)
    trained = read_json(saved.directory / PROVENANCE)[0] or {}
    origins = {"trained": trained, "exported": provenance()}
    known = getattr(env, "components", None)
    observed, acted = (
        _names_and_units(name, size, known and getattr(known, name))
        for name, size in (("observation", env.observation_size), ("action", env.action_size))
    )
    return {
        "task": env.name,
        "options": config["env"]["options"],
        "action_repeat": getattr(env, "action_repeat", 1),
        "agent": config["agent"]["name"],
        "seed": config["seed"],
        "env_steps": saved.env_steps,
        **{when: {key: what.get(key) for key in ("commit", "code", "versions")} for when, what in origins.items()},
        "input": {
            "name": INPUT,
            "shape": [BATCH, env.observation_size],
            "type": "float32",
            "values": "as the task gives them, neither normalised nor clipped",
            **observed,
            "seen_low": observation.min(axis=0).tolist(),
            "seen_high": observation.max(axis=0).tolist(),
        },
        "output": {
            "name": OUTPUT,
            "shape": [BATCH, env.action_size],
            "type": "float32",
            "values": "as the task takes them: the mean action, scaled to its range",
            **acted,
            "low": action_range.low.tolist(),
            "high": action_range.high.tolist(),
        },
    }


def _names_and_units(name: str, size: int, known: Sequence[tuple[str, str | None]] | None) -> dict[str, Any]:
    """Returns what the suite knows of each number, or numbers them."""
    components = known or [(f"{name}/{index}", None) for index in range(size)]
    names, units = zip(*components, strict=True)
    return {"names": list(names), "units": list(units)}


if __name__ == "__main__":
    exit_with(main)
