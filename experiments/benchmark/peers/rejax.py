"""rejax's SAC on Brax's half cheetah: ``python rejax.py <num_envs> <seconds>``."""

import json
import sys
import time
from pathlib import Path

# This file has the name of the library, and Python looks beside the script first.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
import jax  # noqa: E402
from rejax import SAC  # noqa: E402

ROUNDS = 4


def main() -> None:
    """Trains a few rounds at a time until the time is over; evaluations are left out."""
    num_envs, seconds = int(sys.argv[1]), float(sys.argv[2])
    agent = SAC.create(
        env="brax/halfcheetah",
        env_params={"backend": "generalized"},
        num_envs=num_envs,
        num_epochs=num_envs,
        batch_size=512,
        fill_buffer=0,
        buffer_size=100_096,
        learning_rate=3e-4,
        total_timesteps=ROUNDS * num_envs,
        eval_freq=ROUNDS * num_envs,
        skip_initial_evaluation=True,
        normalize_observations=True,
        agent_kwargs={"hidden_layer_sizes": (64, 64)},
    ).replace(eval_callback=lambda *_: ())
    train = jax.jit(lambda state: agent.train(train_state=state)[0], donate_argnums=0)
    state = jax.block_until_ready(train(jax.jit(agent.init_state)(jax.random.PRNGKey(0))))
    rounds, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        state = jax.block_until_ready(train(state))
        rounds += ROUNDS
    print(json.dumps({"env_steps_per_second": rounds * num_envs / elapsed}))


if __name__ == "__main__":
    main()
