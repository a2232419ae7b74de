"""A persistent cache of compiled programs, so that the second start is quick.

On unless ``JAX_ENABLE_COMPILATION_CACHE=false``. It is in ``JAX_COMPILATION_CACHE_DIR``, which stands if the user has
set it, or else in ``remac/programs`` under ``XDG_CACHE_HOME`` or ``~/.cache``. Without write access there is
no cache; JAX turns an error of reading or writing an entry into a warning.
"""

import os
import tempfile
from pathlib import Path

import jax

from experiments.running.jax_settings import JAX_CONFIG

MAX_BYTES = 2**30
MIN_COMPILE_SECONDS = 0.2


def enable() -> Path | None:
    """Turns the cache on before the first compilation; returns its directory, or None where it turned none on."""
    if JAX_CONFIG.jax_compilation_cache_dir is not None or not JAX_CONFIG.jax_enable_compilation_cache:
        return None
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache")).expanduser() / "remac" / "programs"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))  # fails where the disk is full
    except (OSError, RuntimeError):
        return None
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    return directory
