"""Suite ``program``: what an accelerator would run, compiled for a named card without having one.

A program is bound by its number of kernels where the arrays are small, so kernels are what is counted: those of one
gradient step of all members together, of one action, of one step of the environments, of a whole round of the protocol
(a step and 128 gradient steps), and of one step of an evaluation. JAX's CUDA plugin, which brings the compiler, is
installed from the package index into a virtual environment of its own unless it is there.

``python -m experiments.benchmark.program <program> <agent of suite update, or task> <members>`` prints one row.
"""

import collections
import functools
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import envs
from envs.device import DeviceEnvironment
from envs.quiet import quietly
from experiments.benchmark import installing, timing, update
from experiments.comparing.drawing import Row
from remac.training import evaluation
from remac.training import functions as training
from remac.training.agent import Agent
from remac.training.loop import rounds, stack_members
from remac.types import Key

PLUGIN = "jax-cuda13-plugin[with-cuda]"
NUM_UPDATES = 128
PROTOCOL_CAPACITY = 1_000_000  # transitions that a member keeps
# XLA's description of the card (GpuTargetConfigProto), without which it asks a card.
CARD = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Instructions that launch nothing.
_FREE = {"parameter", "tuple", "get-tuple-element", "constant", "bitcast", "after-all", "partition-id"}
# Parts of our code, by the file and the function that an operation was written in; the innermost that fits counts.
PARTS = {
    "metrics": r"metrics$|/metrics\.py|_norms$|_add_metrics$",
    "optimisers": r"/optax/|_make_\w*optimizer$|update_targets$|target_step$|update_extra$",
    "replay": r"/experience\.py|/replay\.py|/normalization\.py",
    "critics": r" CriticNetworks|_value_with_gradient|ValueNetwork|/value_heads\.py|update_critics|\.loss$",
    "policy": r" PolicyNetwork|/distributions\.py|update_actor|actor_loss|next_action|/estimators/",
    "environments": r"/brax/|/envs/",
    "loop": r"/(remac|agents)/.*(\.update|\.member|epoch)$|/random\.py",
}


def run(size: str, repeats: int, directory: Path | None = None) -> list[Row]:
    """Compiles every program, each in a process of its own.

    Args:
        size: ``small`` takes the gradient steps of one member, and of 40 of SAC and of ReMAC. Playground's rows are
            there where Playground is.
        repeats: Not used: nothing is timed but compilation.
        directory: Of the virtual environment that the plugin is installed into.

    Returns:
        Rows with ``kernels`` (of what the row is of, all members together), of them
        ``products`` (those that keep float32: ``float32_products``), ``reductions`` and ``copies``; ``in_<part>``, what
        of our code they come from (``PARTS``; of those that XLA made itself: ``in_rest``); ``temporary_mib`` and
        ``argument_mib``, the part of it that is donated, ``donated_mib``; ``from_host``, operations that wait for the
        host; ``compile_seconds``; or ``error``.
    """
    directory = directory or installing.DIRECTORY / f"cuda-{jax.__version__}"
    there = importlib.util.find_spec("jax_cuda13_plugin") is not None
    error = None if there else installing.install(directory, [f"{PLUGIN}=={jax.__version__}"])
    cases = [("learn", agent, members) for agent in ("sac", "remac 8,4", "td3", "ppo") for members in (1, 40, 160)]
    small = [case for case in cases if case[2] == 1 or (case[2] == 40 and case[1] in ("sac", "remac 8,4"))]
    cases += [
        ("protocol", "remac 8,4", 160),
        ("act", "sac", 1),
        ("step", "brax/halfcheetah", 1),
        ("step_to_the_end", "brax/halfcheetah", 1),
        ("suite_step", "brax/halfcheetah", 1),
        ("round", "brax/halfcheetah", 1),
        ("evaluation", "brax/halfcheetah", 1),
    ]
    if importlib.util.find_spec("mujoco_playground") is not None:
        cases += [(name, "playground/CheetahRun", 1) for name in ("step", "step_to_the_end", "suite_step", "round")]
    rows = []
    for name, subject, members in timing.turns(cases if size == "full" else small, 1):
        row: Row = {"program": name, "of": subject, "members": members}
        outcome: dict[str, float] | str = error or ""
        if not error:
            path = os.pathsep.join([installing.packages(directory), *sys.path])
            outcome = timing.measure_apart(
                [sys.executable, "-m", "experiments.benchmark.program", name, subject, str(members)],
                env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            )
        rows.append(row | (outcome | {"error": ""} if isinstance(outcome, dict) else {"error": outcome}))
    return rows


def main(name: str, subject: str, num_members: int) -> None:
    """Compiles one program and prints what it is."""
    card = topologies.get_topology_desc(
        platform="cuda", topology_name="", topology="1x1x1", target_config=CARD
    ).devices[0]
    makes: dict[str, Callable[[str, int], Made]] = {
        "learn": _learn,
        "protocol": functools.partial(_learn, capacity=PROTOCOL_CAPACITY),
        "act": _act,
        "step": _step,
        "step_to_the_end": functools.partial(_step, draws_starts=False),
        "suite_step": _suite_step,
        "round": _round,
        "evaluation": _evaluation,
    }
    jax.default_backend = lambda: "gpu"
    function, arguments, donated, loop_length = makes[name](subject, num_members)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(card)), arguments
    )
    lowered = jax.jit(function, donate_argnums=donated).lower(*placed)
    started = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - started
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None
    kinds, parts = kernels(text, loop_length), origins(text, loop_length)
    mib = 2**20
    row = {
        "kernels": sum(kinds.values()) - kinds["float32_products"],
        **{kind: kinds[kind] for kind in ("products", "float32_products", "reductions", "copies", "from_host")},
        **{f"in_{part}": parts[part] for part in (*PARTS, "rest")},
        "temporary_mib": memory.temp_size_in_bytes / mib,
        "argument_mib": memory.argument_size_in_bytes / mib,
        "donated_mib": memory.alias_size_in_bytes / mib,
        "compile_seconds": seconds,
    }
    print(json.dumps(row))


Launches = collections.Counter[tuple[str, str]]  # by operation and line
Made = tuple[Callable[..., Any], tuple[Any, ...], tuple[int, ...], int]


def _learn(agent: str, num_members: int, capacity: int = update.CAPACITY) -> Made:
    agents, state, new = _training(agent, num_members, capacity)
    num_updates = 1 if agents.experience.on_policy else NUM_UPDATES
    function = functools.partial(training.learn, num_updates=num_updates)
    return function, (agents, state, new), (1,), getattr(agents.experience, "num_minibatches", num_updates)


def _act(agent: str, num_members: int) -> Made:
    agents, state, new = _training(agent, num_members)
    observation = jax.eval_shape(lambda steps: steps.transition.observation[:, 0], new)
    return training.act, (agents, state.agent, state.key, observation), (), 1


def _training(
    agent: str, num_members: int, capacity: int = update.CAPACITY
) -> tuple[Any, training.TrainState, training.Steps]:
    """Returns agents of half cheetah's sizes, their state, and a round's steps, as shapes."""
    agents = stack_members([update.make_agent(agent, 512, 64)] * num_members)
    init_state = functools.partial(update.init_state, replay_capacity=capacity)
    state, _ = jax.eval_shape(init_state, agents, jax.random.split(jax.random.key(0), num_members))

    def make_steps(state: training.TrainState) -> training.Steps:
        one = update.make_steps(num_members)
        _, extras, _ = training.act(agents, state.agent, state.key, one.transition.observation[:, 0])
        one = one._replace(transition=one.transition._replace(extras=jax.tree.map(lambda leaf: leaf[:, None], extras)))
        return jax.tree.map(lambda leaf: jax.numpy.repeat(leaf, agents.experience.steps_per_round, axis=1), one)

    return agents, state, jax.eval_shape(make_steps, state)


def _environments(task: str) -> tuple[DeviceEnvironment, jax.ShapeDtypeStruct]:
    """Returns the protocol's number of environments, and their actions as shapes."""
    env = envs.make(task, num_envs=update.NUM_ENVS)
    assert isinstance(env, DeviceEnvironment)
    return env, jax.ShapeDtypeStruct((update.NUM_ENVS, env.action_size), "float32")


def _step(task: str, num_members: int, draws_starts: bool = True) -> Made:
    """A step of ours; of the loop that draws starts, which hardly any step makes a turn of, one turn counts."""
    env, action = _environments(task)
    step = env.step if draws_starts else env.step_to_the_end
    return step, (jax.eval_shape(env.reset, jax.random.key(0)), action), (0,), 1


def _suite_step(task: str, num_members: int) -> Made:
    """Brax's or Playground's own step, without resets, time limits and statistics."""
    env, action = _environments(task)
    theirs = cast(Any, env.task).env
    keys = jax.eval_shape(lambda: jax.random.key_data(jax.random.split(jax.random.key(0), update.NUM_ENVS)))
    with quietly():
        state = jax.eval_shape(jax.vmap(theirs.reset), keys)

    def step(state: Any, action: jax.Array) -> Any:
        with quietly():
            return jax.vmap(theirs.step)(state, action)

    return step, (state, action), (0,), 1


def _round(task: str, num_members: int) -> Made:
    env, _ = _environments(task)
    agents, keys = _agents_on(env, num_members)
    init = functools.partial(
        training.init_train_state,
        observation_size=env.observation_size,
        action_size=env.action_size,
        num_envs=env.num_envs,
        replay_capacity=update.CAPACITY,
        metric_names=env.metric_names,
    )
    state, env_keys = jax.eval_shape(init, agents, keys)
    env_state = jax.eval_shape(functools.partial(training.reset, env=env), env_keys)
    function = functools.partial(rounds, env=env, num_updates=NUM_UPDATES)
    return function, (agents, state, env_state, jax.ShapeDtypeStruct((), "int32")), (1, 2), 1


def _evaluation(task: str, num_members: int) -> Made:
    env, _ = _environments(task)
    env = env.for_evaluation(env.num_envs)
    agents, keys = _agents_on(env, num_members)
    policies = jax.eval_shape(lambda: agents.policy(jax.vmap(lambda agent, key: agent.init(key))(agents, keys)))
    state, episodes = jax.eval_shape(lambda: evaluation.begin(training.reset(keys, env=env)))
    number = jax.ShapeDtypeStruct((), "int32")
    function = functools.partial(evaluation.steps, env=env)
    return function, (policies, keys[0], state, episodes, number, number), (), 1


def _agents_on(env: DeviceEnvironment, num_members: int) -> tuple[Agent, Key]:
    """Returns ReMAC's agents of the protocol, and a key for each."""
    agent = update.make_agent("remac 8,4", 512, 64, sizes=(env.observation_size, env.action_size))
    return stack_members([agent] * num_members), jax.random.split(jax.random.key(0), num_members)


def kernels(text: str, loop_length: int = 1) -> collections.Counter[str]:
    """Counts what a compiled program launches, by kind; loops as often as they turn.

    Args:
        text: The program as ``jax.stages.Compiled.as_text`` gives it.
        loop_length: With more than 1, one turn is counted of the largest loop that turns so often.

    Returns:
        Kinds ``products``, ``reductions``, ``copies``, ``from_host`` and ``others``; and ``float32_products``, those
        among the products whose operands keep float32.
    """
    computations, _ = _computations(text)
    found: collections.Counter[str] = collections.Counter()
    for (operation, line), number in _launches(text, loop_length).items():
        found[kind := _kind(operation, line)] += number
        if kind == "products" and _is_float32(line, computations):
            found["float32_products"] += number
    return found


def origins(text: str, loop_length: int = 1) -> collections.Counter[str]:
    """Counts what a compiled program launches by the part of our code that it comes from: ``PARTS``, and ``rest``."""
    computations, _ = _computations(text)
    frames = _frames(text)
    found: collections.Counter[str] = collections.Counter()
    for (_, line), number in _launches(text, loop_length).items():
        called = re.search(r"calls=%?([\w.\-]+)", line)
        inside = [inner for _, inner in computations[called[1]]] if called else []
        ids = (re.search(r"stack_frame_id=(\d+)", candidate) for candidate in (line, *reversed(inside)))
        stack = next((frames[int(found_id[1])] for found_id in ids if found_id), [])
        parts = (part for frame in stack for part, pattern in PARTS.items() if re.search(pattern, frame))
        found[next(parts, "rest")] += number
    return found


def _frames(text: str) -> dict[int, list[str]]:
    """Returns for every stack frame that a program names ``file function``, of itself and of its callers."""
    names = {key: dict(re.findall(r'^(\d+) "(.*)"$', body, re.M)) for key, body in _tables(text).items()}
    tables = _tables(text)
    location = r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+)"
    places = {
        number: f"{names['FileNames'][file]} {names['FunctionNames'][function]}"
        for number, file, function in re.findall(location, tables.get("FileLocations", ""), re.M)
    }
    frames: dict[int, list[str]] = {0: []}
    frame = r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?\}"
    for number, place, parent in re.findall(frame, tables.get("StackFrames", ""), re.M):
        frames[int(number)] = [places[place], *frames[int(parent or 1) - 1]]
    return frames


def _tables(text: str) -> dict[str, str]:
    """Returns the numbered tables at a program's end by name."""
    return dict(re.findall(r"^(FileNames|FunctionNames|FileLocations|StackFrames)\n((?:\d+ .*\n?)*)", text, re.M))


def _launches(text: str, loop_length: int) -> Launches:
    """Counts how often each instruction is launched, as operation and line; see ``kernels``."""
    computations, entry = _computations(text)

    @functools.cache
    def count(name: str) -> Launches:
        found = Launches()
        for operation, line in computations[name]:
            if operation == "while":
                turns, body = _loop(line)
                for launched, number in count(body).items():
                    found[launched] += turns * number
            elif operation == "conditional":
                branches = re.findall(r"(?:\w+_computation=|branch_computations=\{)%?([\w.\-]+)", line)
                longest: Launches = max((count(branch) for branch in branches), key=Launches.total)
                found += longest
            elif operation in ("call", "async-start"):
                found += count(_named("to_apply|calls", line))
            elif operation not in _FREE:
                found[operation, line] += 1
        return found

    if loop_length == 1:
        return count(entry)
    loops = [_loop(line) for lines in computations.values() for operation, line in lines if operation == "while"]
    return max((count(body) for turns, body in loops if turns == loop_length), key=Launches.total)


def _computations(text: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    """Splits a program into its computations' instructions, each with its operation; also names the first to run."""
    computations: dict[str, list[tuple[str, str]]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif name and (instruction := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", line)):
            computations[name].append((instruction[1], line))
    return computations, entry


def _loop(line: str) -> tuple[int, str]:
    """Returns how often a loop turns, as far as XLA knows, and the computation that it repeats."""
    turns = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    return int(turns[1]) if turns else 1, _named("body", line)


def _named(attribute: str, line: str) -> str:
    name = re.search(rf"(?:{attribute})=%?([\w.\-]+)", line)
    assert name is not None
    return name[1]


def _kind(operation: str, line: str) -> str:
    name = line.split(" = ")[0]
    if operation in ("infeed", "outfeed", "send", "recv") or "callback" in line:
        return "from_host"
    if "__triton" in line or "cublas" in line or operation == "dot":
        return "products"
    if "reduce" in name:
        return "reductions"
    return "copies" if re.search("copy|transpose|wrapped_slice", name) else "others"


def _is_float32(line: str, computations: dict[str, list[tuple[str, str]]]) -> bool:
    """Whether a product's operands keep float32, where the card's default is 11 bits of them."""
    called = re.search(r"calls=%?([\w.\-]+)", line)
    lines = [line, *(text for operation, text in computations[called[1]] if operation == "dot")] if called else [line]
    return any("operand_precision={highest,highest}" in text for text in lines)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
