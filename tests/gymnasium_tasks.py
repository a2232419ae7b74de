"""Small Gymnasium environments with every way to end, to fail and to be measured; importing this registers them."""

import os
import time
import warnings

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    """A point that an action in [-1, 3] x [0, 1] pushes, and that a draw of its own pushes as well.

    ``at`` is the step of an episode at which ``event`` happens.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    action_space = spaces.Box(np.float32([-1, 0]), np.float32([3, 1]))
    observation_space = spaces.Dict(
        {"position": spaces.Box(-np.inf, np.inf, (2,), np.float64), "phase": spaces.Discrete(3)}
    )

    def __init__(self, render_mode=None, event=None, at=3, period=4, mode=None):
        self.render_mode, self.event, self.at, self.period = render_mode, event, at, period

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.normal(size=2), 0
        if self.event == "noise":
            self.position[0] += time.perf_counter_ns() % 1000
        if self.event == "bad start" and self.position[0] > 0:
            self.position[0] = np.nan
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        self.position = self.position + 0.1 * action + 0.01 * self.np_random.normal(size=2)
        reward, now = float(self.position[0] - self.position[1]), self.steps == self.at
        terminated = truncated = False
        if now and self.event == "raise":
            raise ZeroDivisionError("the walk\nfell over")
        if now and self.event == "exit":
            os._exit(7)
        if now and self.event == "nan":
            self.position[1] = np.nan
        if now and self.event == "huge":
            reward = 1e11
        terminated = bool(now and self.event in ("terminate", "both"))
        terminated |= self.event == "wander" and self.position[0] > 1
        truncated = bool(now and self.event in ("truncate", "both"))
        info = {"x": self.position[0], "far": bool(abs(self.position[0]) > 1), "text": "no number", "two": np.ones(2)}
        if self.event == "odd info" and self.steps > 8:
            info["x"] = np.inf
            del info["far"]
        if self.event == "own metric":
            info["diverged"] = info["é"] = info["a,b"] = info["new\nline"] = 1.0
        if self.steps % 2:
            info["sometimes"] = 1.0
        return self._observation(), reward, terminated, truncated, info

    def render(self):
        return np.full((40, 80, 3), self.steps, np.uint8)

    def _observation(self):
        return {"position": self.position.copy(), "phase": self.steps % 3}


class OneNumber(Walk):
    """A walk whose action is an array of no axes, one number."""

    action_space = spaces.Box(-1.0, 3.0, ())

    def step(self, action):
        assert isinstance(action, np.ndarray) and self.action_space.contains(action), action
        self.position += 0.1 * action
        return self._observation(), -float(action), False, False, {}


class Saved(Walk):
    """A walk that saves its state; ``forgets`` leaves out what it draws from."""

    def __init__(self, forgets=False, **options):
        super().__init__(**options)
        self.forgets = forgets

    def get_state(self):
        words = self.np_random.bit_generator.state["state"]
        words = [words[name].to_bytes(16) for name in ("state", "inc")]
        return np.frombuffer(b"".join([self.position.tobytes(), bytes([self.steps]), *words]), np.uint8)

    def set_state(self, state):
        content = state.tobytes()
        self.position, self.steps = np.frombuffer(content[:16]), content[16]
        if not self.forgets:
            own = self.np_random.bit_generator.state
            own["state"] = {name: int.from_bytes(content[at : at + 16]) for name, at in (("state", 17), ("inc", 33))}
            self.np_random.bit_generator.state = own


class Otherwise(Walk):
    """A walk whose methods of these names mean something else: ``which`` says what."""

    def __init__(self, which, **options):
        super().__init__(**options)
        self.which = which

    def get_state(self):
        if self.which == "structured":
            return np.array((self.position[0],), [("x", "f8")])
        return [[0.0], [0.0, 1.0]] if self.which == "ragged" else self.position

    def set_state(self, state, *others):
        if self.which == "two":
            (others[0],)
        self.position = np.zeros(2)


class Spaces(Walk):
    """A walk with other spaces, by name; it is never begun."""

    def __init__(self, which):
        super().__init__()
        self.metadata = {}
        box = self.action_space
        self.action_space = {
            "discrete": spaces.Discrete(2),
            "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
            "integers": spaces.Box(0, 3, (2,), np.int32),
            "empty range": spaces.Box(0.0, 0.0, (2,)),
        }.get(which, box)
        if which == "sequence":
            self.observation_space = spaces.Sequence(spaces.Box(0, 1, (2,)))


class Careless(gymnasium.Env):
    """An environment in which ``which`` is missing, or is not what it is to be."""

    def __init__(self, which):
        self.which, box = which, spaces.Box(-1, 1, (1,))
        if which == "warning":
            warnings.warn("it has been made", stacklevel=1)
        if which != "action_space":
            self.action_space = box
        if which != "observation_space":
            self.observation_space = box
        self.metadata = {
            "metadata": None, "render_fps": {"render_fps": "20"}, "render_modes": {"render_modes": None},
        }.get(which, {})  # fmt: skip

    def reset(self, *, seed=None, options=None):
        observation = np.full(1, np.nan if self.which == "start" else 0.5, np.float32)
        return observation if self.which == "reset" else (observation, {})

    def step(self, action):
        reward = {"reward": None, "rewards": np.ones(2), "one reward": np.array([0.5])}.get(self.which, 0.5)
        return np.zeros(1, np.float32), reward, False, False, {}


class Tasked(Walk):
    """A walk from where two arguments say that have the names of options."""

    def __init__(self, task, num_envs, render_mode=None):
        super().__init__(render_mode)
        self.first = np.array([task, num_envs], np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.first
        return self._observation(), {}


gymnasium.register("Tasked-v0", Tasked, max_episode_steps=10)
gymnasium.register("Careless-v0", Careless, max_episode_steps=5)
gymnasium.register("Walk-v0", Walk, max_episode_steps=10)


def walks(num_envs, max_episode_steps, mode="SAME_STEP", **options):
    """A vector entry point, with each mode of resetting."""
    if mode == "text":
        made = walks(num_envs, max_episode_steps, **options)
        made.metadata = made.metadata | {"autoreset_mode": "SAME_STEP"}
        return made
    makes = [lambda: gymnasium.wrappers.TimeLimit(Walk(**options), max_episode_steps)] * num_envs
    return gymnasium.vector.SyncVectorEnv(makes, autoreset_mode=gymnasium.vector.AutoresetMode[mode])


gymnasium.register("Walks-v0", Walk, vector_entry_point=walks, max_episode_steps=10, kwargs={"mode": "SAME_STEP"})
gymnasium.register("OneNumber-v0", OneNumber, max_episode_steps=10)
gymnasium.register("Saved-v0", Saved, max_episode_steps=10)
gymnasium.register("Otherwise-v0", Otherwise, max_episode_steps=10)
gymnasium.register("tests/Endless-v0", Walk)
gymnasium.register("Spaces-v0", Spaces, max_episode_steps=10)
