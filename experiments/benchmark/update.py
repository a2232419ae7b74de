"""Suite ``update``: one gradient step inside ``remac.training.functions.learn``, against the FLOPs that it needs."""

import functools
import itertools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents import AGENTS as AGENTS_BY_NAME
from agents import ReMAC
from agents.actor_critic import StochasticActorCritic
from agents.base import BaseAgent
from experiments.benchmark import timing
from experiments.comparing.drawing import Row
from remac.hyperparameters import hyperparameters
from remac.machine import on_accelerator
from remac.training import functions as training
from remac.training.loop import stack_members
from remac.types import Transition

# Half cheetah.
OBSERVATION_SIZE, ACTION_SIZE, NUM_ENVS, CAPACITY = 17, 6, 128, 100_000
init_state = functools.partial(
    training.init_train_state,
    observation_size=OBSERVATION_SIZE,
    action_size=ACTION_SIZE,
    num_envs=NUM_ENVS,
    replay_capacity=CAPACITY,
)
# SAC, and ReMAC with N and M.
AGENTS = ("sac", "remac 8,4", "remac 16,8")
# What networks have beside plain layers.
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer norm": {"critic_norm": "layer", "policy_norm": "layer"},
    "batch renorm": {"critic_norm": "batch"},
    "categorical": {"critic_head": "categorical"},
}


def run(size: str, repeats: int) -> list[Row]:
    """Times SAC and ReMAC by N and M, batch, width, networks and members; on an accelerator by more members.

    Returns:
        Rows with the time per gradient step of one member, and ``times_limit``: that time over the step's FLOPs
        divided by the GEMM rate measured in the same turn. On an accelerator also the kernels of one gradient step of
        all members together, and the share of the time in which one runs.
    """
    full = size == "full"
    width = 64 if full else 8
    cases = [(name, batch_size, width, 1, "plain") for name in AGENTS for batch_size in ((256, 512) if full else (16,))]
    if full:
        both = ("sac", "remac 8,4")
        cases += [(name, 512, 256, 1, "plain") for name in both]
        members = (10, 40, 160) if on_accelerator() else (4,)
        cases += [(name, 512, 64, number, "plain") for number in members for name in both]
        cases += [(name, 512, 64, 1, networks) for networks in tuple(NETWORKS)[1:] for name in both]
    num_updates = (128 if on_accelerator() else 32) if full else 2
    programs = {case: make_program(*case, num_updates) for case in cases}
    gemm = timing.make_gemm()
    measured: dict[Any, list[float]] = {case: [] for case in cases}
    rates: dict[Any, list[float]] = {case: [] for case in cases}
    for measure in (gemm, *programs.values()):
        timing.seconds(measure)  # compiles
    for case in timing.turns(cases, repeats):
        rate, elapsed = gemm(), timing.seconds(programs[case])
        measured[case].append(elapsed / num_updates / case[3])
        rates[case].append(rate)
    rows = []
    for case in cases:
        name, batch_size, width, num_members, networks = case
        flops = update_flops(make_agent(name, batch_size, width, networks))
        limit = [elapsed * rate / flops for elapsed, rate in zip(measured[case], rates[case], strict=True)]
        rows.append(
            {"agent": name, "networks": networks, "batch": batch_size, "width": width, "members": num_members}
            | {"mflop": flops / 1e6}
            | timing.summary([elapsed * 1e3 for elapsed in measured[case]], "ms")
            | {"gflops": flops / np.median(measured[case]) / 1e9, "gemm_gflops": float(np.median(rates[case])) / 1e9}
            | timing.summary(limit, "times_limit")
            | _profile(programs[case], num_updates)
        )
    return rows


def _profile(program: Callable[[], Any], num_updates: int) -> dict[str, float]:
    if not on_accelerator():
        return {}
    with tempfile.TemporaryDirectory() as directory:
        with timing.device_trace(Path(directory)):
            timing.seconds(program)
        return timing.kernel_summary(Path(directory), num_updates)


def make_agent(
    name: str,
    batch_size: int,
    width: int,
    networks: str = "plain",
    sizes: tuple[int, int] = (OBSERVATION_SIZE, ACTION_SIZE),
) -> BaseAgent:
    """Returns an agent by its name, with N and M after it as in ``AGENTS``; for half cheetah or other sizes."""
    kind, *numbers = re.split("[ ,]", name)
    options: dict[str, Any] = {"hidden_sizes": (width, width)} | NETWORKS[networks]
    if "batch_size" in hyperparameters(AGENTS_BY_NAME[kind]):
        options["batch_size"] = batch_size
    options |= dict(zip(("num_samples", "num_retries"), map(int, numbers), strict=False))
    agent: BaseAgent = AGENTS_BY_NAME[kind].create(*sizes, **options)
    return agent


def make_program(
    name: str, batch_size: int, width: int, num_members: int, networks: str, num_updates: int
) -> Callable[[], Any]:
    """Returns a function that makes ``num_updates`` gradient steps from made-up experience, going on each time."""
    stacked = stack_members([make_agent(name, batch_size, width, networks)] * num_members)
    keys = jax.random.split(jax.random.key(0), num_members)
    state, _ = jax.jit(init_state)(stacked, keys)
    learn = jax.jit(training.learn, static_argnames="num_updates", donate_argnums=1)
    new = make_steps(num_members)
    for _ in range(CAPACITY // NUM_ENVS // 10):
        state = learn(stacked, state, new, num_updates=0)

    def program() -> Any:
        nonlocal state
        state = learn(stacked, state, new, num_updates=num_updates)
        return state

    return program


def make_steps(num_members: int) -> training.Steps:
    """Returns a round's steps of half cheetah's sizes, of normal numbers."""
    keys = jax.random.split(jax.random.key(1), 4)
    shape = (num_members, 1, NUM_ENVS)
    transition = Transition(
        observation=jax.random.normal(keys[0], (*shape, OBSERVATION_SIZE)),
        action=jnp.tanh(jax.random.normal(keys[1], (*shape, ACTION_SIZE))),
        reward=jax.random.normal(keys[2], shape),
        discount=jnp.ones(shape),
        next_observation=jax.random.normal(keys[3], (*shape, OBSERVATION_SIZE)),
        truncation=jnp.zeros(shape, bool),
    )
    return training.Steps(transition, jnp.zeros(shape), *(jnp.zeros(shape, bool),) * 2, {})


def update_flops(agent: BaseAgent) -> int:
    """Counts the floating-point operations of the matrix products that a gradient step of SAC or ReMAC needs at least.

    The observation's part of the critics' first layer is computed once per state, samples whose weight is zero get no
    backward pass, and there is no gradient by observations. Without target networks the critics' pass is of both
    states, forwards and backwards.
    """
    assert isinstance(agent, StochasticActorCritic)
    widths = agent.hidden_sizes
    hidden = sum(a * b for a, b in itertools.pairwise(widths))
    policy_input = agent.observation_size * widths[0]
    policy = policy_input + hidden + widths[-1] * 2 * agent.action_size
    of_state, of_action_input = agent.observation_size * widths[0], agent.action_size * widths[0]
    of_action = of_action_input + hidden + widths[-1] * (agent.value_head.num_outputs or 1)
    num_samples, num_differentiated = agent.num_actor_samples(), 1
    if isinstance(agent, ReMAC):
        num_differentiated = int(np.count_nonzero(agent.rank_weights)) if agent.reparameterizes() else 0
    actor = 3 * policy - policy_input
    actor += agent.num_critics * (of_state + (num_samples + num_differentiated) * of_action)
    next_value = policy
    critics = agent.num_critics * (2 * (of_state + of_action) + of_action - of_action_input)
    if agent.has_target_networks:
        next_value += agent.num_critics * (of_state + of_action)
    else:
        critics *= 2
    return 2 * agent.batch_size * (actor + next_value + critics)
