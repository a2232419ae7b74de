"""Films run in real time, whatever the task's time step."""

import base64
import json
import re
import zlib
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from synthetic_runs import write_run, write_sweep

import envs
from envs.mujoco import TASKS
from experiments import evaluate, report
from experiments.comparing import films
from experiments.records.run_directory import RunDirectory
from experiments.running.config import compose_job
from remac.policies.policy import save_policy


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
    state = SimpleNamespace(physics=(namedtuple("Physics", "pipeline_state")(pose),))
    monkeypatch.setattr(evaluate, "_states", lambda env, policy, num_steps: [state] * num_steps)
    said = evaluate.render(tmp_path, env, None, 3, 8)
    page = (tmp_path / "video.html").read_text(encoding="utf-8")
    system = json.loads(zlib.decompress(base64.b64decode(max(re.findall(r"[A-Za-z0-9+/=]+", page), key=len))))
    assert system["opt"]["timestep"] == pytest.approx(0.02) and len(system["states"]["x"]) == 3
    assert "0.06 s in real time, 50.0 frames a second" in said


def write_film(directory, colours, milliseconds, size=(60, 40)):
    frames = [Image.new("RGB", size, colour) for colour in colours]
    frames[0].save(
        directory / films.FILM, save_all=True, append_images=frames[1:], duration=[milliseconds] * len(frames), loop=0
    )


def tile(frame, number, columns=2, size=(60, 40)):
    """The colour in the middle of a tile's picture."""
    height = size[1] + films.TITLE_HEIGHT
    left, top = number % columns * size[0], number // columns * height
    return frame.getpixel((left + size[0] // 2, top + films.TITLE_HEIGHT + size[1] // 2))


def test_films_run_side_by_side_in_real_time(tmp_path):
    """Three in two rows: one of them is of other times, one is smaller, and one ends before the others."""
    runs = [write_run(tmp_path / str(m), retries=m) for m in (1, 4)] + [write_run(tmp_path / "sac")]
    write_film(runs[0], ["#ff0000", "#00ff00", "#0000ff"], 100)
    write_film(runs[1], ["#000000", "#ffffff"], 40, size=(30, 40))
    write_film(runs[2], ["#ffff00", "#00ffff"], 200)
    titles, left_out = films.choose(dict.fromkeys(runs, 0.0))
    assert titles == {runs[2]: "SAC", runs[0]: "ReMAC M=1", runs[1]: "ReMAC M=4"} and left_out == ""
    assert films.side_by_side(titles, tmp_path / "all.gif") == pytest.approx(0.4)
    shown, now = {}, 0
    with Image.open(tmp_path / "all.gif") as film:
        assert film.size == (120, 2 * (40 + films.TITLE_HEIGHT))
        for number in range(film.n_frames):
            film.seek(number)
            shown[now] = film.convert("RGB")
            now += film.info["duration"]
    assert now == 400

    def at(time):
        return shown[max(start for start in shown if start <= time)]

    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert [tile(at(time), 1) for time in (0, 90, 130, 210, 390)] == [red, red, green, blue, blue]
    assert [tile(at(time), 0) for time in (0, 190, 210)] == [(255, 255, 0), (255, 255, 0), (0, 255, 255)]
    title = np.asarray(at(0).convert("L"))[: films.TITLE_HEIGHT, 60:]
    assert title.min() < 60, "a title"
    assert not np.array_equal(title, np.asarray(at(390).convert("L"))[: films.TITLE_HEIGHT, 60:]), "it is over"


def test_of_many_runs_the_median_seed_of_each_arm_is_shown(tmp_path):
    runs = {}
    for m in (1, 4):
        for seed in range(9):
            runs[write_run(tmp_path / f"{m}_{seed}", retries=m, seed=seed)] = float(seed * 5 % 9)
    titles, left_out = films.choose(runs)
    assert [runs[directory] for directory in titles] == [4.0, 4.0] and "median" in left_out
    assert list(titles.values()) == ["ReMAC M=1, seed 8", "ReMAC M=4, seed 8"]
    few = {directory: value for directory, value in runs.items() if value < 2}
    few[write_run(tmp_path / "ant", retries=4, seed=9, task="mujoco/ant")] = 0.0
    assert set(films.choose(few)[0].values()) == {
        *("Hopper, ReMAC M=1, seed 0", "Hopper, ReMAC M=1, seed 2"),
        *("Hopper, ReMAC M=4, seed 0", "Hopper, ReMAC M=4, seed 2", "Ant, ReMAC M=4"),
    }


def test_a_sweep_is_filmed(tmp_path, run_module):
    """Drawn by OpenGL, where there is one."""
    for m in (1, 4):
        job = compose_job(["env=mujoco/hopper", "agent.hidden_sizes=[4]", f"agent.num_retries={m}"])
        RunDirectory(tmp_path / f"sweep/{m}", job.config).close()
        policy = job.agent.policy(jax.eval_shape(job.agent.init, jax.random.key(0)))
        zeros = {
            name: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), getattr(policy, name))
            for name in ("parameters", "normalizer")
        }
        save_policy(replace(policy, **zeros), tmp_path / f"sweep/{m}/policy", env_steps=8)
    sizes = ["num_episodes=1", "render_steps=12", "render_size=48"]
    status, out, err = run_module("evaluate", "run=sweep", "render=true", *sizes)
    if "cannot render" in err:
        pytest.skip(err)
    assert status == 0 and "video of 2 runs side by side: sweep/video.gif (0.12 s)" in out, out + err
    with Image.open(tmp_path / "sweep/video.gif") as film:
        assert film.size == (96, 48 + films.TITLE_HEIGHT)
        picture = np.asarray(film.convert("L"))[films.TITLE_HEIGHT :]
        assert np.ptp(picture[:, :48]) > 50 and np.ptp(picture[:, 48:]) > 50
    status, out, err = run_module("evaluate", "run=[sweep/1,sweep/4]", "render=true", "film=out/two.gif", *sizes)
    assert status == 0 and "out/two.gif" in out and (tmp_path / "out/two.gif").is_file(), err
    status, _, err = run_module("evaluate", "run=sweep", "film=a.gif")
    assert status == 2 and err == "film=a.gif: needs render=true\n"


def test_the_report_shows_the_best_and_the_median_run(tmp_path, browser):
    arms = [{"retries": m, "final": {"eval/return": 100.0 * m}} for m in (1, 2, 4)]
    folder = write_sweep(tmp_path / "runs", arms, seeds=(1,))
    out = tmp_path / "report.html"
    report.main([str(folder), f"out={out}"])
    assert "Films" not in out.read_text(encoding="utf-8")
    write_film(folder / "2_mujoco_hopper_1", ["#ff0000", "#00ff00", "#0000ff"], 100)
    report.main([str(folder), f"out={out}"])
    browser.open(out)
    seen = browser.run("""
      const film = await until(() => document.querySelector("#films img"));
      const text = document.querySelector("#films").innerText;
      film.scrollIntoView();
      await film.decode();
      return [film.naturalWidth, text];
    """)
    assert seen[0] == 60
    assert "Best: Hopper, ReMAC M=4, seed 1. Final return of the mean action 400" in seen[1]
    assert "Median: Hopper, ReMAC M=2, seed 1." in seen[1] and "1_mujoco_hopper_1 render=true" in seen[1]
    (folder / "1_mujoco_hopper_1" / films.FILM).write_bytes(b"GIF89a and no more")
    report.main([str(folder), f"out={out}"])
    assert "its film cannot be read" in out.read_text(encoding="utf-8")
