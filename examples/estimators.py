"""The estimators by themselves: unbiased values and gradients of order statistics of a batch.

Run: ``python examples/estimators.py``. Needs JAX alone.
"""

import jax
import jax.numpy as jnp

from remac.estimators import expected_max, lstat, lstat_advantage, max_at_k, maxpo_advantage, rank_weights

# 1,000 groups of 8 standard normal numbers: what is the expected best of 4 of them? By quadrature it is 1.02938.
values = jax.random.normal(jax.random.key(0), (1_000, 8))
print(f"best of 4, from 8: {max_at_k(values, 4).mean():.3f}")

# The mean of the worst quarter of 8 (CVaR) has its weights on the two lowest ranks.
weights = rank_weights("cvar:0.25", 8, 8)
print(f"weights of CVaR by rank: {weights}")
print(f"CVaR: {lstat(values, weights).mean():.3f}")

# Pathwise: values are differentiable functions of parameters. Here a = mean + std * noise is worth -a^2; with four
# tries a wider policy is better where the mean is off.
noise = jax.random.normal(jax.random.key(1), (1_000, 8))


def objective(parameters, k):
    mean, std = parameters
    return max_at_k(-((mean + std * noise) ** 2), k).mean()


for k in (1, 4):
    by_mean, by_std = jax.grad(objective)(jnp.array([-1.5, 1.0]), k)
    print(f"best of {k}: gradient by the mean {by_mean:+.2f}, by the standard deviation {by_std:+.2f}")

# Score function: values are numbers, and log-probabilities carry the gradient. Advantages of a group sum to zero.
group = jnp.array([0.0, 1.0, 3.0, 2.0, -1.0])
print(f"advantages for the best of 2: {maxpo_advantage(group, 2)}")
print(f"the same as an L-statistic:   {lstat_advantage(group, 'max', 2)}")
print(f"advantages for the median of 3: {lstat_advantage(group, 'median', 3)}")

# Exact values of known distributions, for any real number of tries.
coin = expected_max(jnp.array([0.0, 1.0]), jnp.array([0.9, 0.1]), 2.5)
print(f"a coin that pays 1 with probability 0.1, best of 2.5: {coin:.4f}")
