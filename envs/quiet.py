"""Keeps back what the code of others says, to the screen or into files."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator

from envs.engine import mujoco


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Goes around the code of others on the device, imported or traced.

    Keeps back what Brax, MJX and Playground say about devices, optional packages and their own future. They broadcast
    arrays of unequal rank, also where the caller has forbidden that.
    """
    import jax  # not for worker processes, which only simulate

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with (
            jax.numpy_rank_promotion("allow"),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),  # not None: some write to it themselves
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)


# Who is told of MuJoCo's warnings: first what holds for the process, then those who have asked for a while. MuJoCo
# cannot be asked who it was before.
_listeners: list[Callable[[str], object] | None] = [None]


@contextlib.contextmanager
def told_by_mujoco(listener: Callable[[str], object]) -> Iterator[None]:
    """Hands MuJoCo's warnings to a function; they are not printed, nor written to MUJOCO_LOG.TXT where one works."""
    _listeners.append(listener)
    mujoco.set_mju_user_warning(listener)
    try:
        yield
    finally:
        _listeners.pop()
        mujoco.set_mju_user_warning(_listeners[-1])


def quiet_mujoco() -> contextlib.AbstractContextManager[None]:
    """Keeps MuJoCo's warnings back for a while."""
    return told_by_mujoco(lambda message: None)


def silence_mujoco() -> None:
    """Keeps MuJoCo's warnings back from now on."""
    _listeners[0] = lambda message: None
    mujoco.set_mju_user_warning(_listeners[-1])
