"""rejax on Brax's tasks: ``python rejax.py <agent> <num_envs> <width> <task> speed <seconds>``."""

import json
import sys
import time
from pathlib import Path
from typing import Any

# This file has the name of the library, and Python looks beside the script first.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
import jax  # noqa: E402
import rejax  # noqa: E402

ROUNDS = 4


def main() -> None:
    """Trains a few rounds at a time until the time is over; evaluations are left out."""
    name, _, _, task, _, seconds = sys.argv[1:]
    num_envs, width = map(int, sys.argv[2:4])
    settings: dict[str, Any]
    if name == "sac":
        round_steps = num_envs
        settings = {"num_epochs": num_envs, "batch_size": 512, "fill_buffer": 0, "buffer_size": 100_096}
        settings["hidden_layer_sizes"] = (width, width)
    else:
        round_steps = 128 * num_envs
        settings = {"num_steps": 128, "num_epochs": 10, "num_minibatches": round_steps // 64}
        settings["agent_kwargs"] = {"hidden_layer_sizes": (width, width)}
    algorithm = getattr(rejax, name.upper()).create(
        env=task,
        env_params={"backend": "generalized"},
        num_envs=num_envs,
        learning_rate=3e-4,
        total_timesteps=ROUNDS * round_steps,
        eval_freq=ROUNDS * round_steps,
        skip_initial_evaluation=True,
        normalize_observations=True,
        **settings,
    )
    agent = algorithm.replace(eval_callback=lambda *_: ())
    train = jax.jit(lambda state: agent.train(train_state=state)[0], donate_argnums=0)
    state = jax.block_until_ready(train(jax.jit(agent.init_state)(jax.random.PRNGKey(0))))
    first_step_at = time.time()
    rounds, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < float(seconds):
        state = jax.block_until_ready(train(state))
        rounds += ROUNDS
    print(json.dumps({"env_steps_per_second": rounds * round_steps / elapsed, "first_step_at": first_step_at}))


if __name__ == "__main__":
    main()
