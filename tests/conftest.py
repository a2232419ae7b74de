"""What all tests share: the CPU, one cache of compiled programs, and workers that stay small.

How to write a cheap test. Nearly all that a training costs here is tracing and compiling its programs, whatever their
size, so what counts is how many different programs a test makes:

- Train on ``env=probe/action`` or ``probe/truncation`` and with SAC, unless the test is about another one; with the
  sizes, ``TrainConfig`` and environment object of the tests beside it, and by a fixture of the module where several
  tests look at one training. Another ``total_env_steps`` or ``num_envs`` is another program.
- A process costs 5 s before it does anything. Run a command in this process (``run_module`` below, or ``run_jobs``),
  and start one only where signals, exit statuses or what is imported are the subject.
- For a path around the training (statuses, messages, files), replace the training by what it would return.
- Nothing depends on seconds: await an event by ``waiting.wait_until``, and put the test's own clock in the place of the
  real one.
- What needs over 10 s of processor time and is not the only guard of something is marked ``slow``.
- Fast tests are compiled with few of the compiler's optimisations and by the older of its code generators, since they
  compile more than they run. What is about the optimised program (equal bits in different programs, how fast something
  is) is marked ``optimized``; only slow tests are compiled just as a user's programs are.
"""

import os

# Before JAX is imported, and for subprocesses too: tests run on the CPU, also where there is an accelerator, and on one
# device, so that all of them can share their compiled programs; those about several devices ask for them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "1"

import contextlib
import ctypes
import gc
import runpy
import signal
import sys
import warnings

import absl.logging
import hypothesis
import jax
import psutil
import pytest
from browser import Browser, find_browser

from remac.training.devices import MemberSplit

jax.config.update("jax_numpy_rank_promotion", "raise")
# Hydra's logging set-up closes the handlers that exist, and absl's would close pytest's own capture file with it.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
# The same examples every time, however long one takes.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

# With fusion emitters test_agents, test_replay and test_divergence took 99 s of processor time, and 57 s without; and a
# program that is compiled in parts takes a quarter longer. What XLA is told holds for the process, and a flag that it
# does not know, as JAX 0.11's does not know the first one, ends it.
HAS_FUSION_EMITTERS = jax.__version_info__ < (0, 11)
COMPILE_SOON = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
FEW_OPTIMIZATIONS = "JAX_DISABLE_MOST_OPTIMIZATIONS"  # in the environment of subprocesses
MIN_COMPILE_SECONDS = 0.1
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # as malloc.h has them
MAX_MIB = 900  # of a process between two tests, or
MAX_GROWTH_MIB = 300  # since it last forgot its programs: what libraries and modules take stays


def pytest_configure(config):
    """Before any backend is made, and for subprocesses too."""
    with contextlib.suppress(OSError, AttributeError):
        # Else glibc keeps much of what was freed: for every thread by itself, and what is of middling size.
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_ARENA_MAX, 2)
        libc.mallopt(M_MMAP_THRESHOLD, 2**18)
    # Tracing makes so many objects that looking for cycles among them took a tenth of the processor time.
    gc.set_threshold(50_000, 20, 20)
    flags = os.environ.get("XLA_FLAGS", "")
    if HAS_FUSION_EMITTERS and "not slow" in config.option.markexpr and COMPILE_SOON not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {COMPILE_SOON}".strip()


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Programs that several tests build alike are compiled once a session, also for other workers and subprocesses."""
    base = tmp_path_factory.getbasetemp()
    # Under xdist every worker has a folder of its own beside the others'.
    directory = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "jax_cache")
    settings = {
        "jax_compilation_cache_dir": directory,
        "jax_compilation_cache_max_size": 2**31,  # with a limit, JAX locks the files that the workers share
        "jax_persistent_cache_min_compile_time_secs": MIN_COMPILE_SECONDS,
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Decides, before any fixture of the test, how its programs are compiled; slow tests run more than they compile."""
    few = not any(item.get_closest_marker(name) for name in ("optimized", "slow"))
    if jax.config.read("jax_disable_most_optimizations") != few:
        _forget_programs()
        jax.config.update("jax_disable_most_optimizations", few)
        os.environ[FEW_OPTIMIZATIONS] = str(int(few))
    return (yield)


@pytest.fixture(autouse=True)
def _let_programs_go():
    """A worker that has grown large forgets its programs, or it would hold those of all tests."""
    yield
    if _mib() > max(MAX_MIB, _least_mib + MAX_GROWTH_MIB):
        _forget_programs()


_least_mib = 0.0


def _mib():
    return psutil.Process().memory_info().rss / 2**20


def _forget_programs():
    global _least_mib
    MemberSplit.program.cache_clear()
    if (config := sys.modules.get("experiments.running.config")) is not None:
        config._environments.clear()
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # glibc keeps what was freed
    _least_mib = _mib()


@pytest.fixture
def fresh_programs():
    """For what is observed or changed while programs are traced."""
    MemberSplit.program.cache_clear()
    yield
    MemberSplit.program.cache_clear()


@pytest.fixture
def run_module(monkeypatch, capsys, tmp_path):
    """Runs ``python -m experiments.<name> <arguments>`` in this process: returns its exit status and what it printed.

    The working directory is ``tmp_path`` unless another is given.
    """
    from hydra.core.global_hydra import GlobalHydra

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(name, *arguments, cwd=tmp_path):
        GlobalHydra.instance().clear()
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, about what is imported already
            patch.chdir(cwd)
            patch.setenv("HYDRA_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR", ""))
            patch.setattr(sys, "argv", [name, *map(str, arguments)])
            capsys.readouterr()
            try:
                runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
                status = 0
            except SystemExit as stop:
                status = stop.code or 0
        return (status, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


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


@pytest.fixture
def browser(tmp_path):
    """A real browser."""
    program = find_browser()
    if program is None:
        pytest.skip("no browser on this machine")
    browser = Browser(program, tmp_path / "profile")
    yield browser
    browser.close()
