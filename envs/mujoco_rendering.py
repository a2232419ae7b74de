"""Pictures of MuJoCo environments, drawn off screen."""

import atexit
import importlib
import os
import weakref
from typing import Any

import numpy as np

from envs.engine import mujoco


class Renderer:
    """Draws one model at one size, seen by the camera that is given, or by its camera ``track`` if it has one.

    mujoco.Renderer would take the OpenGL backend from MUJOCO_GL as it was when mujoco was imported, and without it
    one that needs a display. Here MUJOCO_GL is read when it is needed, and without it EGL is tried first.

    Attributes:
        size: Width and height in pixels.
    """

    def __init__(
        self, model: mujoco.MjModel, width: int, height: int, view: dict[str, Any], camera: int | None = None
    ) -> None:
        """Makes an OpenGL context.

        Args:
            model: The model; its off-screen buffer grows to the size where it is smaller.
            width: In pixels.
            height: In pixels.
            view: Attributes of the camera that is used where the model has none of these.
            camera: Number of one of the model's cameras.

        Raises:
            RuntimeError: This machine cannot render; the message says why.
        """
        self.size, self._drawer = (width, height), None
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        chosen = os.environ.get("MUJOCO_GL", "").lower()
        reasons = []
        for backend in [chosen] if chosen in ("egl", "osmesa", "glfw") else ["egl", "glfw"]:
            try:
                self._context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
                self._context.make_current()
                self._drawer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
                break
            except Exception as error:  # whatever a driver, a loader or a missing library throws
                reasons.append(f"{backend}: {error}")
        else:
            reason = "; ".join(reasons)
            raise RuntimeError(
                f"this machine cannot render ({reason}); MUJOCO_GL=osmesa renders without a GPU, by libOSMesa"
            )
        # Registered after the backend's own exit handler, so run before it, while there is something to free it with.
        atexit.register(_close, weakref.ref(self))
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawer)
        self._model, self._scene = model, mujoco.MjvScene(model, maxgeom=1000)
        self._camera, self._option = mujoco.MjvCamera(), mujoco.MjvOption()
        mujoco.mjv_defaultFreeCamera(model, self._camera)
        for name, value in view.items():
            setattr(self._camera, name, value)
        track = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA.value, "track") if camera is None else camera
        if 0 <= track < model.ncam:
            self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED.value, track

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        """Draws a state on which mj_forward has run: RGB, uint8 `[height, width, 3]`."""
        width, height = self.size
        self._context.make_current()
        for field in range(self._model.nhfield):  # which a task may draw at every start
            mujoco.mjr_uploadHField(self._model, self._drawer, field)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        frame, image = mujoco.MjrRect(0, 0, width, height), np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(frame, self._scene, self._drawer)
        mujoco.mjr_readPixels(image, None, frame, self._drawer)
        return image[::-1].copy()  # OpenGL's rows go upwards

    def close(self) -> None:
        """Frees what OpenGL holds; drawing afterwards is an error."""
        if self._drawer is not None:
            self._context.make_current()  # or the objects of whichever context is current would be freed
            self._drawer.free()
            self._drawer = None
            self._context.free()

    def __del__(self) -> None:
        self.close()


def _close(reference: weakref.ref[Renderer]) -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()
