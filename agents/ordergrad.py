"""OrderGrad: order statistics of the returns of whole episodes (Parmas et al., 2026, arXiv 2606.06096)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct

from agents.on_policy import OnPolicyAgent, OnPolicyState
from remac.estimators.group_coefficients import ESTIMATORS, GapWeights, gap_weights, group_coefficients
from remac.estimators.sign_certificate import certificate_weights, radii
from remac.hyperparameters import Hyperparameter, anything, choice, integer, number, redeclared
from remac.policies.networks import outputs_of
from remac.training.experience import Episodes
from remac.types import Array, Metrics, Transition
from remac.validation import InvalidValueError, require_int


@struct.dataclass
class OrderGrad(OnPolicyAgent):
    """Maximises an order statistic of the returns of K = ``num_retries`` episodes from the same start.

    Every round plays N = ``num_samples`` whole episodes from each of E / N starts. With the coefficients c_i that
    ``estimator`` finds from the N returns (``remac.estimators.group_coefficients``), the gradient is

        mean over starts of sum_i c_i sum_t grad log pi(a_t | s_t),

    unbiased for every estimator but ``mean`` and ``grpo``. That is one gradient step a round, the default; with more
    epochs or minibatches they are those of ``OnPolicyAgent``, clipped.

    With ``baseline=value`` a network learns to predict an episode's coefficient from its observations, and what it said
    before the round is taken off at every step. An action's probability does not depend on it, so this does not change
    the expected gradient. With ``sign_certificate`` steps count less, or not at all, where a small change of that
    network's last layer would flip the sign of what is left (``remac.estimators.sign_certificate``), which is biased.
    Returns are sums over the first ``episode_length`` steps, discounted by ``return_gamma``. An entropy bonus, and
    metrics of the policy, are of all steps of a round, those of later episodes among them.

    Attributes:
        weights: The estimator, the objective and K, as numbers.
    """

    weights: GapWeights = struct.field(default=())
    return_gamma: Array = number(1.0, "discount factor of an episode's return", 0, 1).field()
    num_epochs: int = redeclared(OnPolicyAgent, "num_epochs", 1)
    num_minibatches: int = redeclared(OnPolicyAgent, "num_minibatches", 1)
    max_gradient_norm: Array = redeclared(OnPolicyAgent, "max_gradient_norm", 1e9)
    episode_length: int = integer(None, "T, steps that an episode is judged by; null: the task's time limit").field()
    num_samples: int = integer(8, "N, episodes from each start").field()
    baseline: str = choice("none", "what is taken off a step's coefficient", ("none", "value")).field()

    sign_certificate: float | None = number(
        None,
        "baseline=value: share of steps that count, by how sure the sign of their advantage is; null: all",
        0,
        1,
        open_minimum=True,
        is_leaf=False,
    ).field()

    ARGUMENTS: ClassVar[dict[str, Hyperparameter]] = {
        "num_retries": integer(4, "K: the objective is over the returns of K episodes, estimated from N", is_leaf=True),
        "estimator": choice("ordergrad", "how the gradient is estimated from the N returns", ESTIMATORS, is_leaf=True),
        "objective": anything(
            None,
            "order statistic of the K returns that is maximised; null: the best, or the mean if the estimator is of it",
            "name of a preset, with its parameters after a colon, or a list of K weights",
            is_leaf=True,
        ),
    }

    @classmethod
    def make_fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the numbers of the estimator."""
        if values["episode_length"] is None:
            raise InvalidValueError("episode_length", None, "must be given: the task's time limit, or less")
        if values["sign_certificate"] is not None and values["baseline"] != "value":
            raise InvalidValueError(
                "sign_certificate", values["sign_certificate"], "must be null unless baseline=value"
            )
        require_int("num_retries", values["num_retries"], 1, values["num_samples"] - 1, "num_samples - 1")
        names = ("estimator", "objective", "num_retries", "num_samples")
        return super().make_fields(values) | {"weights": gap_weights(*(values[name] for name in names))}

    @property
    def gamma(self) -> Array:
        """Discount factor, ``return_gamma``."""
        return self.return_gamma

    @property
    def experience(self) -> Episodes:
        """What the agent learns from."""
        return Episodes(self.episode_length, self.num_minibatches, on_policy=True, group_size=self.num_samples)

    def rows(self, state: OnPolicyState, experience: Transition) -> tuple[dict[str, Array], Metrics]:
        """Returns observations and what the steps count, `[T, E, ...]`: 0 after the end of a first episode."""
        observation = self._normalize(state, experience.observation)
        length, num_envs = experience.reward.shape
        ended = experience.ended()
        counts = (jnp.cumsum(ended, axis=0) - ended == 0).astype(jnp.float32)
        discounts = self.return_gamma ** jnp.arange(length, dtype=jnp.float32)
        returns = jnp.sum(counts * discounts[:, None] * experience.reward, axis=0)
        coefficients = group_coefficients(returns.reshape(-1, self.num_samples), self.weights).reshape(1, num_envs)
        metrics = {"actor/episode_return": jnp.mean(returns), "actor/coefficient": jnp.mean(jnp.abs(coefficients))}
        # The gradient steps take the mean over all steps, where the sum over those of a start is wanted.
        scale = length * self.num_samples
        if self.baseline == "none":
            return {"observation": observation, "advantage": scale * counts * coefficients}, metrics
        target = jnp.broadcast_to(self.num_samples * coefficients, counts.shape)
        expected = outputs_of(self.value_network, state.value, self.of_critics(observation))
        advantage = length * counts * (target - expected)
        if self.sign_certificate is not None:
            radius = self._radii(state, observation, target - expected)
            certificate = certificate_weights(radius, self.sign_certificate, counts > 0)
            advantage = certificate * advantage
            metrics["actor/certificate"] = jnp.sum(counts * certificate) / jnp.sum(counts)
        weight = counts / jnp.mean(counts)
        return {"observation": observation, "advantage": advantage, "target": target, "weight": weight}, metrics

    def _radii(self, state: OnPolicyState, observation: Array, advantage: Array) -> Array:
        """Returns how far the value network's last layer is from flipping the sign of advantages `[T, E]`."""
        params = state.value["params"]
        width = params["value"]["kernel"].shape[0]
        # With ones in the place of the last layer the network gives what goes into it.
        ones = {"value": {"kernel": jnp.eye(width), "bias": jnp.zeros((width,))}}
        network = self.value_network.clone(num_outputs=width, precision="highest")
        features = outputs_of(network, {"params": params | ones}, self.of_critics(observation))
        return radii(advantage, 1.0 + jnp.sum(features**2, axis=-1))  # the bias' feature is 1
