"""Suite ``estimators``: value, gradient and advantages of order statistics, against sorting."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import timing
from experiments.comparing.drawing import Row
from remac.estimators.advantages import lstat_advantage
from remac.estimators.order_statistics import lstat, rank_weights


def run(size: str, repeats: int) -> list[Row]:
    """Times groups of N samples with K retries: value and gradient by ``lstat`` and by a sort, and advantages."""
    sizes = ((512, 8, 4), (4096, 16, 8), (4096, 64, 8)) if size == "full" else ((8, 4, 2),)
    length = 50 if size == "full" else 2
    rows = []
    for groups, num_samples, num_retries in sizes:
        weights = jnp.asarray(rank_weights("max", num_retries, num_samples), jnp.float32)
        values = jax.random.normal(jax.random.key(0), (groups, num_samples))

        def by_rank(x: jax.Array, weights: jax.Array = weights) -> jax.Array:
            return jnp.sum(lstat(x, weights))

        def by_sort(x: jax.Array, weights: jax.Array = weights) -> jax.Array:
            return jnp.sum(jnp.sort(x, axis=-1) * weights[None])

        def advantage(x: jax.Array, num_retries: int = num_retries) -> jax.Array:
            return lstat_advantage(x, "max", num_retries)

        forms = {
            "value by ranks": _chain(by_rank, values, length),
            "value by sort": _chain(by_sort, values, length),
            "value and gradient by ranks": _chain(jax.value_and_grad(by_rank), values, length),
            "value and gradient by sort": _chain(jax.value_and_grad(by_sort), values, length),
            "advantage": _chain(advantage, values, length),
        }
        measured = timing.interleave(forms, repeats)
        for name, times in measured.items():
            baseline = measured[name.replace("ranks", "sort")]
            rows.append(
                {"groups": groups, "samples": num_samples, "retries": num_retries, "what": name}
                | timing.summary([seconds * 1e6 for seconds in times], "us")
                | {"speedup_over_sort": float(np.median(baseline) / np.median(times)) if name != "advantage" else ""}
            )
    return rows


def _chain(function: Callable[[jax.Array], Any], values: jax.Array, length: int) -> Callable[[], float]:
    """Returns a measurement of one call, in a program of many calls, each on what the one before it left."""

    def step(values: jax.Array, _: None) -> tuple[jax.Array, None]:
        # Every output has to be computed; the values hardly change.
        total = sum(leaf * 1e-6 if leaf.ndim else jnp.full_like(values, leaf * 1e-9) for leaf in _leaves(values))
        return values + total, None

    def _leaves(values: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(function(values))

    program = jax.jit(lambda values: jax.lax.scan(step, values, None, length)[0])
    return lambda: timing.seconds(lambda: program(values)) / length
