"""MuJoCo, on machines too where it cannot render.

It fails to be imported where the OpenGL that MUJOCO_GL names is not there; simulating needs none, and ``Renderer`` says
what is missing where something is to be drawn.
"""

import os
import sys

__all__ = ["mujoco"]

try:
    import mujoco
except Exception:  # whatever a loader or a missing library throws
    if (_chosen := os.environ.get("MUJOCO_GL")) is None:
        raise
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        import mujoco
    finally:
        os.environ["MUJOCO_GL"] = _chosen
    for _name, _module in list(sys.modules.items()):  # those of the first time, which the second does not put there
        if _name.startswith("mujoco.") and _name.count(".") == 1:
            setattr(mujoco, _name.partition(".")[2], _module)
