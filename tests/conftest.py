import os

# Before JAX is imported: tests run on the CPU, also where there is an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import signal
import sys

import absl.logging
import jax
import pytest

from remac.training.devices import MemberSplit

jax.config.update("jax_numpy_rank_promotion", "raise")
# Hydra's logging set-up closes the handlers that exist, and absl's would close pytest's own capture file with it.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Programs that several tests build alike are compiled once a session, in subprocesses too."""
    base = tmp_path_factory.getbasetemp()
    # Under xdist every worker has a folder of its own beside the others'.
    directory = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "jax_cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = directory
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def fresh_programs():
    """For what is observed or changed while programs are traced."""
    MemberSplit.program.cache_clear()
    yield
    MemberSplit.program.cache_clear()


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command in this process, ``train`` or a module with ``main``, from an empty directory."""
    from hydra.core.global_hydra import GlobalHydra

    from experiments import train
    from experiments.running import hydra_main

    def run(arguments, config_name="train", main=train.main):
        GlobalHydra.instance().clear()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", [f"{config_name}.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            hydra_main.run(config_name, main)
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)
