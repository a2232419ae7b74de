"""Keeps back what the code of others says, to the screen or into files."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import mujoco


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


@contextlib.contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Keeps MuJoCo from printing warnings, and from writing them to MUJOCO_LOG.TXT in the working directory."""
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(None)
