"""What of JAX's own settings, which come from the environment, the programs cannot run with."""

import os
from typing import Any

import jax

from remac.validation import InvalidValueError

JAX_CONFIG: Any = jax.config  # its attributes are made when JAX is imported, which type checkers do not see


def require_usable_jax(*, x64: bool = False) -> None:
    """Requires that JAX finds its devices, and settings with which the programs run.

    Args:
        x64: Whether the caller computes in float64 where it wants to, and so does not mind that as the default.

    Raises:
        InvalidValueError: Naming the variable.
    """
    for name, is_wrong, allowed in (
        ("jax_enable_x64", not x64 and JAX_CONFIG.jax_enable_x64, "training is in float32; must be unset or 0"),
        ("jax_disable_jit", JAX_CONFIG.jax_disable_jit, "nothing would be compiled; must be unset or 0"),
        (
            "jax_numpy_dtype_promotion",
            JAX_CONFIG.jax_numpy_dtype_promotion != "standard",
            "must be unset or standard",
        ),
        (
            "jax_transfer_guard",
            str(JAX_CONFIG.jax_transfer_guard).startswith("disallow"),
            "numbers go to and fro between host and device; must be unset, allow or log",
        ),
    ):
        if is_wrong:
            raise InvalidValueError(name.upper(), os.environ.get(name.upper(), getattr(jax.config, name)), allowed)
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # the second, without a word, where a known platform is not there
        name = next((name for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME") if os.environ.get(name)), "JAX_PLATFORMS")
        reason = (str(error).partition(" (set JAX_PLATFORMS")[0].splitlines() or ["there is no such device"])[0]
        allowed = f"JAX cannot start there ({reason}); must be unset, cpu, or what this machine has"
        raise InvalidValueError(name, os.environ.get(name, ""), allowed) from None
