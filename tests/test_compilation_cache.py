import subprocess
import sys

import jax
import pytest

from experiments.running import compilation_cache

OPTIONS = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def unset(monkeypatch):
    """No directory is set yet; afterwards everything is as before."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_is_the_users_and_bounded(unset, tmp_path):
    unset.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation_cache.enable() == tmp_path / "remac" / "programs"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "remac" / "programs")
    assert 0 < jax.config.jax_compilation_cache_max_size <= 2**30
    unset.delenv("XDG_CACHE_HOME")
    jax.config.update("jax_compilation_cache_dir", None)
    unset.setenv("HOME", str(tmp_path))
    assert compilation_cache.enable() == tmp_path / ".cache" / "remac" / "programs"


def test_what_the_user_has_set_stands(unset):
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    assert compilation_cache.enable() is None and jax.config.jax_compilation_cache_dir == "elsewhere"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert compilation_cache.enable() is None and jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def test_a_directory_that_cannot_be_made_means_no_cache(unset, tmp_path):
    (tmp_path / "remac").write_text("a file in the way")
    unset.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation_cache.enable() is None and jax.config.jax_compilation_cache_dir is None


PROGRAM = """
import jax, jax.numpy as jnp
from experiments.running import compilation_cache
compilation_cache.MIN_COMPILE_SECONDS = 0.0
compilation_cache.enable()
from agents import ReMAC
from remac.types import Transition
agent = ReMAC.create(3, 2, batch_size=8, hidden_sizes=(8, 8))
rows = lambda *shape: jax.random.normal(jax.random.key(1), (8, *shape))
batch = Transition(rows(3), jnp.tanh(rows(2)), rows(), jnp.ones(8), rows(3))
state, metrics = jax.jit(agent.update)(agent.init(jax.random.key(0)), jax.random.key(2), batch)
print([float(value).hex() for value in jax.tree.leaves((state.policy, metrics)) if value.ndim == 0])
"""


@pytest.mark.slow
def test_programs_from_the_cache_compute_bitwise_the_same(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runs = [subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True) for _ in range(2)]
    assert runs[0].returncode == runs[1].returncode == 0, runs[0].stderr
    assert list((tmp_path / "remac" / "programs").iterdir())
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout) > 50
