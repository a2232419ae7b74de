"""What of the machine this process may use, and which kind of device computes.

Jobs share nodes, so a machine's own numbers are only the upper limits.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import psutil

T = TypeVar("T")


def on_accelerator() -> bool:
    """Whether programs run on an accelerator, where many small operations are dear and wide ones cheap.

    On the CPU it is the other way round, and members have to come out bit for bit as they do alone. Everything that is
    computed in another order there asks this.
    """
    return jax.default_backend() != "cpu"


def choose(condition: jax.Array, function: Callable[..., T], other: Callable[..., T], *arguments: Any) -> T:
    """Returns what a function gives where a scalar condition holds, and elsewhere what another one gives.

    On an accelerator both are computed: members that are mapped over need both anyway, and a branch copies what passes
    it.
    """
    if on_accelerator():
        chosen: T = jax.tree.map(lambda a, b: jax.numpy.where(condition, a, b), function(*arguments), other(*arguments))
        return chosen
    return jax.lax.cond(condition, function, other, *arguments)


def available_cpus(root: Path = Path("/")) -> int:
    """Returns the number of CPUs by the process's affinity and its cgroup's quota, at least 1.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    # The affinity is Linux's.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroups("cpu", root):
        for quota_file, period_file in (("cpu.max", "cpu.max"), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with contextlib.suppress(OSError, ValueError):  # no such file, or no limit ("max")
                quota = int((folder / quota_file).read_text().split()[0])
                period = int((folder / period_file).read_text().split()[-1])
                if quota > 0:
                    cpus = min(cpus, max(quota // period, 1))
    return cpus


def available_bytes(root: Path = Path("/")) -> int:
    """Returns the main memory that is left, by the machine and by the process's cgroup.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    available = int(psutil.virtual_memory().available)
    for folder in _cgroups("memory", root):
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with contextlib.suppress(OSError, ValueError):
                used = int((folder / usage).read_text())
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                reclaimable = int(statistics.get("inactive_file", 0))  # page cache, which gives way
                available = min(available, int((folder / limit).read_text()) - used + reclaimable)
    return max(available, 0)


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yields the folders of the process's own cgroup and of those above it; each of them may set a limit."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            names = controllers.split(",")
            if controllers and controller not in names:
                continue
            # Version 2 has one tree and no controllers here.
            tree = root / "sys/fs/cgroup" / (controllers if controllers else "")
            if controllers and not tree.is_dir():
                tree = tree.with_name(controller)
            own = tree / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(tree))
