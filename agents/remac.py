"""ReMAC: the actor maximises the expected best of several retries (Nishimori and Parmas, 2026, arXiv 2606.05888)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from agents.actor_critic import AgentState, StochasticActorCritic
from agents.base import policy_metrics
from remac.estimators.advantages import score_coefficients
from remac.estimators.order_statistics import lstat, rank_weights
from remac.estimators.rescaling import with_length_of
from remac.estimators.sign_certificate import certificate_weights, radii
from remac.hyperparameters import Hyperparameter, anything, choice, integer, number
from remac.policies.distributions import Distribution, TanhGaussian
from remac.policies.networks import outputs_of
from remac.types import Array, Key, Metrics, Transition
from remac.validation import InvalidValueError, require_int

GRADIENTS = ("pathwise", "score_function")
GRADIENT_LENGTHS = ("own", "mean")
TARGETS = ("plain", "entropy")


@struct.dataclass
class ReMAC(StochasticActorCritic):
    """Maximises an order statistic of the critics' value over retries, without an entropy bonus.

    Actor: at each state draw N = ``num_samples`` actions, value each by min_c Q_c (or the mean: ``critic_aggregate``),
    and maximise sum_m w_m Q_(m), where Q_(1) <= ... <= Q_(N) and w are the rank weights of the unbiased estimate, from
    N samples, of the objective over K = ``num_retries`` draws (for the maximum, w_m = C(m-1, K-1) / C(N, K)). The
    gradient is pathwise: the weights are constants found from the ranks. Next value: that of one action of the policy
    just updated.

    With ``gradient=score_function`` the actor instead follows sum_i c_i grad log pi(a_i|s), where c_i are the
    leave-one-out advantages of the same objective (Parmas et al., 2026, arXiv 2606.06096) times K/N; neither actions
    nor critics are differentiated. ``actor/loss`` is then the surrogate, whose value means nothing.

    The gradient gets shorter as K grows, since the best sample is near a maximum of Q, where Q is flat: that damps the
    actor's step wherever its length counts (Adam's epsilon, SGD, clipping). With ``gradient_length=mean`` it has at
    each state the length that the gradient of the mean over the same samples has (K = 1); its direction stays. Lengths
    are Euclidean, over the mean and the log standard deviation of every action dimension.

    With ``sign_certificate`` a sample of the score function counts less, or not at all, where a small change of the
    critics' last layers would flip the sign of its Q minus the mean (``remac.estimators.sign_certificate``); how large
    changes are is found from all samples of a minibatch.

    With ``num_retries_end`` the weights go in a straight line, over ``num_retries_steps`` gradient steps, from those of
    ``num_retries`` to its own, and stay there: a mixture of the two objectives on the way.

    With ``target=entropy`` the critics' target has SAC's entropy term at a temperature that is held; the published code
    offers that as a switch.

    Since every K and every objective is a vector of numbers, agents that differ in them are the same program.

    Note: the source treats time limits as terminations; here they bootstrap.

    Attributes:
        rank_weights: w over ascending ranks, `[N]`; for the score function those of K-subsets of N-1 samples, `[N-1]`.
        rank_weights_end: Likewise, at the end of the schedule.
    """

    rank_weights: Array = struct.field(default=())
    rank_weights_end: Array = struct.field(default=())
    num_samples: int = integer(8, "N, actions that the actor draws at each state").field()
    gradient: str = choice(
        "pathwise", "how the order statistic is differentiated: through actions and critics, or by the score", GRADIENTS
    ).field()
    gradient_length: str = choice(
        "own",
        "how long the actor's gradient is at each state: as it is, or as that of the samples' mean value",
        GRADIENT_LENGTHS,
    ).field()
    target: str = choice("plain", "whether the critics' target has an entropy term", TARGETS).field()
    target_temperature: Array = number(0.2, "temperature of the entropy term of target=entropy", 0).field()
    sign_certificate: float | None = number(
        None,
        "gradient=score_function: share of samples that count, by how sure the sign of their advantage is; null: all",
        0,
        1,
        open_minimum=True,
        is_leaf=False,
    ).field()
    num_retries_steps: Array = number(
        100_000.0, "gradient steps until M is num_retries_end, where that is given", 0, open_minimum=True
    ).field()

    ARGUMENTS: ClassVar[dict[str, Hyperparameter]] = {
        "num_retries": integer(
            4, "M: the actor maximises the expected best of M actions, estimated from N", is_leaf=True
        ),
        "num_retries_end": integer(None, "M at the end of a schedule; null: num_retries all along", is_leaf=True),
        "objective": anything(
            "max",
            "order statistic of the M values that the actor maximises instead of the best",
            "name of a preset, with its parameters after a colon, or a list of M weights",
            is_leaf=True,
        ),
    }

    @classmethod
    def make_fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the rank weights of the objectives, of ``remac.estimators.order_statistics``."""
        is_score = values["gradient"] == "score_function"
        if is_score and values["gradient_length"] != "own":
            allowed = "must be own for gradient=score_function"
            raise InvalidValueError("gradient_length", values["gradient_length"], allowed)
        if values["sign_certificate"] is not None and not (is_score and values["critic_head"] == "scalar"):
            allowed = "must be null unless gradient=score_function and critic_head=scalar"
            raise InvalidValueError("sign_certificate", values["sign_certificate"], allowed)

        def weights(name: str) -> np.ndarray:
            num_samples, num_retries = values["num_samples"], values[name]
            require_int(name, num_retries, 1, num_samples, "num_samples")
            if is_score and num_retries == num_samples:
                allowed = f"must be below num_samples={num_samples} for gradient=score_function"
                raise InvalidValueError(name, num_retries, allowed)
            return rank_weights(values["objective"], num_retries, num_samples - is_score)

        end = "num_retries" if values["num_retries_end"] is None else "num_retries_end"
        fields = {"rank_weights": weights("num_retries"), "rank_weights_end": weights(end)}
        return super().make_fields(values) | fields

    def num_actor_samples(self) -> int:
        """Returns ``num_samples``."""
        return self.num_samples

    def actor_loss(
        self, distribution: Distribution, state: AgentState, key: Key, batch: Transition
    ) -> tuple[Array, Metrics]:
        """Returns minus the objective, averaged over states, whose gradient ``gradient_length`` may change."""
        if self.gradient_length == "own":
            return super().actor_loss(distribution, state, key, batch)

        def both(distribution: TanhGaussian) -> tuple[tuple[Array, Array], Metrics]:
            objective, mean, metrics = self.sampled_objective(distribution, state, key, batch)
            return (objective, mean), metrics

        (objective, mean), pullback, metrics = jax.vjp(both, jax.lax.stop_gradient(distribution), has_aux=True)
        one, nothing = jnp.ones_like(mean), jnp.zeros_like(mean)
        (own,), (of_mean,) = pullback((one, nothing)), pullback((nothing, one))
        gradient = with_length_of(own, of_mean)
        # Zero, with this gradient by the distribution.
        shift = jax.tree.map(lambda leaf, by: by * (leaf - jax.lax.stop_gradient(leaf)), distribution, gradient)
        return -jnp.mean(objective + sum(jnp.sum(leaf, axis=-1) for leaf in jax.tree.leaves(shift))), metrics

    def sampled_objective(
        self, distribution: TanhGaussian, state: AgentState, key: Key, batch: Transition
    ) -> tuple[Array, Array, Metrics]:
        """Draws actions and values them; see the base. With ``sign_certificate`` they count differently."""
        if self.sign_certificate is None:
            return super().sampled_objective(distribution, state, key, batch)
        action, log_prob = distribution.sample(key, self.num_samples, reparameterize=False)
        q_values, radius = self.certified_values(state, batch.observation, action)
        certificate = certificate_weights(radius, self.sign_certificate)
        objective = self.actor_objective(state, q_values, certificate * log_prob)
        metrics = policy_metrics(distribution, action, log_prob) | {"actor/certificate": jnp.mean(certificate)}
        return objective, jnp.mean(q_values, axis=0), metrics

    def certified_values(self, state: AgentState, observation: Array, action: Array) -> tuple[Array, Array]:
        """Returns the values of actions `[N, B, action_dim]`, and the radii of their advantages, `[N, B]` each.

        A sample's value is a product of the last layers' weights of all critics, biases among them, with features of
        which those of critics that do not give the minimum are 0.
        """
        params, last = state.critics["params"], f"_{len(self.critic_networks.hidden_sizes)}"
        kernel, bias = params[f"kernel{last}"], params[f"bias{last}"]
        num_critics, width, _ = kernel.shape
        # With ones in the place of the last layer the networks give what goes into it.
        ones = {f"kernel{last}": jnp.broadcast_to(jnp.eye(width), (num_critics, width, width))}
        ones[f"bias{last}"] = jnp.zeros((num_critics, width))
        networks = self.critic_networks.clone(num_outputs=width, precision="highest")
        observation = self.of_critics(observation)
        features = outputs_of(networks, {**state.critics, "params": params | ones}, observation, action)
        features = jnp.concatenate([features, jnp.ones_like(features[..., :1])], axis=-1)
        weights = jnp.concatenate([kernel[..., 0], bias], axis=-1)
        values = jnp.einsum("cnbd,cd->cnb", features, weights, precision="highest")
        if self.critic_aggregate == "min":
            shares = jax.nn.one_hot(jnp.argmin(values, axis=0), num_critics, axis=0)
        else:
            shares = jnp.full_like(values, 1.0 / num_critics)
        q_values = jnp.sum(shares * values, axis=0)
        features = shares[..., None] * features
        centred = features - jnp.mean(features, axis=1, keepdims=True)
        return q_values, radii(q_values - jnp.mean(q_values, axis=0, keepdims=True), jnp.sum(centred**2, axis=(0, 3)))

    def actor_objective(self, state: AgentState, q_values: Array, log_prob: Array) -> Array:
        """Returns the order statistic of the values `[N, B]` over the samples, `[B]`, or its surrogate."""
        done = jnp.minimum(state.gradient_steps / self.num_retries_steps, 1.0)
        weights = self.rank_weights + done * (self.rank_weights_end - self.rank_weights)
        if self.gradient == "score_function":
            coefficients = score_coefficients(jax.lax.stop_gradient(q_values).T, weights).T
            return jnp.sum(coefficients * log_prob, axis=0)
        return lstat(q_values, weights, axis=0)

    def reparameterizes(self) -> bool:
        """Returns whether the gradient is pathwise."""
        return self.gradient == "pathwise"

    def sample_value(self, state: AgentState, q_value: Array, log_prob: Array) -> Array:
        """Returns the value itself, or with ``target=entropy`` q - temperature * log_prob, `[B]`."""
        return q_value if self.target == "plain" else q_value - self.target_temperature * log_prob
