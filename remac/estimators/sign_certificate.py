"""How sure the signs of advantages are that a learned critic gives (SignCert-PO; Ono et al., 2026, arXiv 2604.02986).

A critic whose last layer is linear, Q = w . h, has the advantages A_j = w . (h_j - hbar), hbar the features' mean. The
nearest weights at which A_j has the other sign are at the distance

    Delta_j = |A_j| / ||h_j - hbar||_2,

its radius: no change of w that is smaller flips the sign. Samples count by rho_j = max(0, 1 - eps / Delta_j), and eps
is chosen so that 1 / eps is a quantile of 1 / Delta_j: that share of the samples counts at all.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from remac.estimators.advantages import check_samples
from remac.validation import InvalidValueError, require_number


def sign_radii(features: Array, weights: Array) -> Array:
    """Returns the radius of every sample's advantage.

    Args:
        features: h of the N samples of each group, `[..., N, D]`; of a last layer with a bias, one of them is 1.
        weights: w, `[D]`, or one for each group, `[..., D]`.

    Returns:
        Delta, `[..., N]`; infinite where the features are their mean, so that no weights give an advantage.

    Raises:
        InvalidValueError: If the numbers of features differ, or on features known to be not finite.
    """
    features = check_samples("features", features)
    if features.ndim < 2 or features.shape[-1] != jnp.shape(weights)[-1]:
        allowed = f"must be groups of samples with the {jnp.shape(weights)[-1]} features that have weights"
        raise InvalidValueError("features", f"shape {features.shape}", allowed)
    centred = features - jnp.mean(features, axis=-2, keepdims=True)
    return radii(jnp.einsum("...nd,...d->...n", centred, weights), jnp.sum(centred**2, axis=-1))


def radii(advantages: Array, squared_norms: Array) -> Array:
    """Returns |A| / ||h - hbar|| of advantages and the squared norms of their features, of one shape.

    Infinite where the norm is 0.
    """
    norms = jnp.sqrt(squared_norms)
    return jnp.where(norms > 0.0, jnp.abs(advantages) / jnp.where(norms > 0.0, norms, 1.0), jnp.inf)


def certificate_weights(radius: Array, quantile: float | Array, is_sample: Array | None = None) -> Array:
    """Returns how much samples count whose advantages have these radii.

    Args:
        radius: Delta of all samples that are compared, any shape.
        quantile: Share of them that counts at all, in (0, 1].
        is_sample: Which of them are samples, in the shape of the radii; None for all. The quantile is of these.

    Returns:
        rho in [0, 1], in the shape of the radii; 0 for an advantage of 0, 1 for an infinite radius.

    Raises:
        InvalidValueError: If the quantile is known and not in (0, 1].
    """
    if not isinstance(quantile, jax.core.Tracer):
        for known in np.ravel(quantile).tolist():
            require_number("quantile", known, 0.0, 1.0, open_minimum=True)
    doubt = 1.0 / jnp.asarray(radius)  # infinite for an advantage of 0
    compared = doubt if is_sample is None else jnp.where(is_sample, doubt, jnp.nan)
    limit = jnp.nanquantile(compared, quantile, method="lower")  # 1 / eps
    share = doubt / jnp.where((limit > 0.0) & jnp.isfinite(limit), limit, 1.0)
    certified = jnp.where(jnp.isfinite(limit), jnp.clip(1.0 - share, 0.0, 1.0), 1.0)
    return jnp.where(jnp.isfinite(doubt) & ((limit > 0.0) | (doubt <= 0.0)), certified, 0.0)
