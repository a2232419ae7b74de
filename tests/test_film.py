"""Films run in real time, whatever the task's time step."""

import base64
import json
import re
import zlib
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import envs
from envs.mujoco import TASKS
from experiments import evaluate


@pytest.mark.parametrize("num_states", [1, 2, 7, 300, 1000])
@pytest.mark.parametrize("dt", [0.0005, 0.002, 0.005, 0.008, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.1, 1.0])
def test_a_film_lasts_as_long_as_what_it_shows(num_states, dt):
    shown, milliseconds = evaluate.film_times(num_states, dt)
    assert len(shown) == len(milliseconds) and shown[0] == 0 and shown[-1] < num_states
    assert all(time >= 20 and time % 10 == 0 for time in milliseconds), "what a GIF can hold and viewers keep to"
    assert sum(milliseconds) / 1000 == pytest.approx(max(num_states * dt, 0.02), abs=0.006)
    # Nor does it run faster or slower in between.
    starts = np.concatenate([[0], np.cumsum(milliseconds)[:-1]]) / 1000
    np.testing.assert_allclose(starts, np.array(shown) * dt, atol=0.006)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_films_in_real_time(task):
    env = envs.make(f"mujoco/{task}", num_envs=1)
    assert env.dt == pytest.approx(env.model.opt.timestep * env.task.frame_skip)
    shown, milliseconds = evaluate.film_times(300, env.dt)
    assert sum(milliseconds) / 1000 == pytest.approx(300 * env.dt, abs=0.006)
    assert 20 <= len(shown) / (300 * env.dt) <= 28


@pytest.mark.parametrize("steps", [40, 1])
def test_the_file_has_these_times(tmp_path, monkeypatch, steps):
    """Also where nothing moves, since equal pictures become one."""
    env = envs.make("mujoco/walker2d", num_envs=1)
    monkeypatch.setattr(type(env), "render", lambda self, state, index, width, height: np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(evaluate, "_states", lambda env, policy, num_steps: [None] * num_steps)
    said = evaluate.render(tmp_path, env, None, steps, 8)
    with Image.open(tmp_path / "video.gif") as film:
        total = 0
        for frame in range(film.n_frames):
            film.seek(frame)
            total += film.info["duration"]
    assert total == {40: 320, 1: 20}[steps]
    assert said.startswith(str(tmp_path / "video.gif")) and re.search(r"0\.\d\d s in real time", said)


@pytest.mark.slow
def test_the_page_of_a_brax_task_has_its_time_step(tmp_path, monkeypatch):
    from brax.base import Transform

    env = envs.make("brax/reacher", num_envs=1)
    pose = namedtuple("Pose", "x")(Transform.zero((1, env.task.env.sys.num_links())))
    state = SimpleNamespace(physics=(SimpleNamespace(pipeline_state=pose),))
    monkeypatch.setattr(evaluate, "_states", lambda env, policy, num_steps: [state] * num_steps)
    said = evaluate.render(tmp_path, env, None, 3, 8)
    page = (tmp_path / "video.html").read_text(encoding="utf-8")
    system = json.loads(zlib.decompress(base64.b64decode(max(re.findall(r"[A-Za-z0-9+/=]+", page), key=len))))
    assert system["opt"]["timestep"] == pytest.approx(0.02) and len(system["states"]["x"]) == 3
    assert "0.06 s in real time, 50.0 frames a second" in said
