"""What others have published stands in grey beside curves of the same task, with its source."""

import dataclasses
import itertools
import re

import pytest
from matplotlib.text import Text
from synthetic_runs import write_run

import envs
from experiments import plot, report
from experiments.comparing import published
from experiments.comparing.comparisons import draw_all, make_look
from experiments.comparing.loading import load
from remac.validation import InvalidValueError

FINAL = {"eval/return": 100.0, "eval/return_stochastic": 90.0, "actor/entropy": -3.0}
HEADER = "env_name,method,env_steps,seeds,interquartile_mean,source\n"
SOURCE = "A repository, <results>.csv"
ROWS = [("Hopper-v4", "SAC", 100, 10, 40), ("Hopper-v4", "SAC", 1000, 10, 80), ("Hopper-v4", "SAC", 2000, 10, 999)]
ROWS += [("Hopper-v4", "SimbaV2 (two)", 1000, 3, 81), ("Ant-v4", "SAC", 1000, 10, 5), ("hopper-hop", "XQC", 500, 10, 7)]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "theirs.csv"
    lines = [",".join(map(str, row)) + f',"{SOURCE}"' for row in ROWS]
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


def draw(folder, table, **settings):
    """Returns the figure of curves, and what was noted."""
    runs = load([folder])
    look = make_look(runs, {"published": str(table), **settings}, "a command")
    notes = list(runs.notes)
    return next(drawing for drawing in draw_all(runs, look, notes) if drawing.name == "curves"), notes


def theirs(panel):
    """Returns the points of the grey lines, by the names at their ends."""
    lines = {line.get_xydata()[-1].tobytes(): line for line in panel.lines if line.get_color() == published.GREY}
    texts = {text.get_text(): text.xy for text in panel.texts}
    ends = {
        name: next(line for line in lines.values() if tuple(line.get_xydata()[-1]) == xy) for name, xy in texts.items()
    }
    assert len(ends) == len(lines)
    return {name: line.get_xydata().tolist() for name, line in ends.items()}


def test_published_returns_are_drawn_up_to_where_ours_end(tmp_path, table):
    write_run(tmp_path / "runs/0", final=FINAL)  # 1,000 env steps of hopper
    drawing, notes = draw(tmp_path / "runs", table, metric="eval/return,actor/entropy")
    returns, entropy = drawing.figure.axes
    expected = {"SAC, published": [[100, 40], [1000, 80]], "SimbaV2, published": [[1000, 81]]}
    assert theirs(returns) == expected and theirs(entropy) == {} and notes == []
    both = published.read_published(table)[:2]  # what stands in brackets is left out where names stay apart
    both = [dataclasses.replace(both[0], method=method) for method in ("SimbaV2 (one)", "SimbaV2 (two)")]
    published.draw_published(entropy, both)
    assert [" ".join(text.get_text().split()) for text in entropy.texts] == [
        "SimbaV2 (one), published",
        "SimbaV2 (two), published",
    ]
    places = [Text.get_window_extent(text).get_points() for text in returns.texts]
    assert all(low[1][1] <= high[0][1] or low[0][1] >= high[1][1] for low, high in itertools.combinations(places, 2))
    small_print = " ".join(drawing.figure.get_supxlabel().split())
    for text in (small_print, drawing.description):
        assert f"SAC on Hopper-v4 ({SOURCE}); SimbaV2 (two) on Hopper-v4 ({SOURCE})" in text and "Ant" not in text
    lines = {line.name: line.points for line in drawing.panels[0].lines}
    assert lines["SAC, published"] == [[100, 1000], [40, 80], [None, None], [None, None], [10, 10]]
    assert [line.name for line in drawing.panels[1].lines] == ["SAC"]


def test_an_action_that_is_held_is_the_same_task(tmp_path, table):
    options = {"env": {"suite": "dmc", "task": "hopper-hop", "options": {"action_repeat": 2}}}
    write_run(tmp_path / "runs/0", final=FINAL, top=options)
    drawing, _ = draw(tmp_path / "runs", table, metric="eval/return")
    assert theirs(drawing.figure.axes[0]) == {"XQC, published": [[500, 7]]}


def test_returns_of_the_mean_action_stand_beside_published_ones_alone(tmp_path, table):
    write_run(tmp_path / "runs/0", final=FINAL)
    drawing, _ = draw(tmp_path / "runs", table)
    assert drawing.metrics[0] == "eval/return" and "eval/return_stochastic" not in drawing.metrics
    for settings, words in (
        ({"metric": "eval/return_stochastic"}, "published: they are the mean action's, which metric=eval/return draws"),
        ({"metric": "eval/return", "x": "gradient_steps"}, "published: they are known by env steps alone"),
    ):
        drawing, notes = draw(tmp_path / "runs", table, **settings)
        assert notes == [words] and "published" not in drawing.description
    drawing, _ = draw(tmp_path / "runs", "false")
    assert drawing.metrics[0] == "eval/return_stochastic" and theirs(drawing.figure.axes[0]) == {}


def test_tasks_of_which_nothing_is_known_are_named(tmp_path, table):
    for number, task in enumerate(("mujoco/hopper", "mujoco/reacher", "brax/ant")):
        write_run(tmp_path / f"runs/{number}", task=task, final=FINAL)
    drawing, notes = draw(tmp_path / "runs", table)
    assert notes[0] == "published: none is known, at as few steps, on brax/ant, mujoco/reacher"
    assert [len(theirs(panel)) for panel in drawing.figure.axes[::2]] == [0, 2, 0]


def test_the_commands_take_our_table(tmp_path, capsys):
    """It names tasks that there are, and where each number is from."""
    curves = published.read_published(published.TABLE)
    assert {curve.task.partition("/")[0] for curve in curves} == {"mujoco", "dmc"}
    assert all(envs.may_be(curve.task) and "repository, results/" in curve.source for curve in curves)
    found = {(curve.task, curve.method): curve for curve in curves}
    cheetah = found["mujoco/half_cheetah", "SAC"]
    assert (cheetah.env_steps[0], cheetah.returns[0], cheetah.seeds[0]) == (100_000, 6106.5, 10)
    write_run(tmp_path / "run", task="mujoco/half_cheetah", final=FINAL, steps=range(0, 100_001, 20_000))
    assert plot.main([str(tmp_path / "run"), "published=true", f"out={tmp_path}"]) == 0
    report.main([str(tmp_path / "run"), "published=true", f"out={tmp_path / 'page.html'}"])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"CrossQ, published"' in page and "CrossQ on HalfCheetah-v4 (SimbaV2 repository, results" in page


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("a,b\n1,2\n", "is no table of published returns, it has no column env_name, method, env_steps"),
        (HEADER, "holds no return"),
        (f"{HEADER}Ant-v4,SAC,1,2,much,x\n", "line 2: interquartile_mean must be a number, not 'much'"),
        (f"{HEADER}Ant-v4,SAC,1.5,2,3,x\n", "line 2: env_steps must be a whole number of at least 0, not '1.5'"),
        (f"{HEADER}Ant-v4,SAC,1,2,3,\n", "line 2: source is empty"),
        (f"{HEADER}{'Ant-v4,SAC,1000,2,3,x' + chr(10)}" * 2, "line 3"),
        (f"{HEADER}Ant-v4,SAC,1000,2,3,x\nAnt-v4,SAC,1000,2,4,x\n", "line 3: has 1,000 env steps of SAC on Ant-v4"),
    ],
)
def test_bad_input(tmp_path, content, words):
    write_run(tmp_path / "run", final=FINAL)
    path = tmp_path / "theirs.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        InvalidValueError, match=f"^published={re.escape(str(path))}: .*{re.escape(words)}.*must be true"
    ):
        plot.main([str(tmp_path / "run"), f"published={path}", f"out={tmp_path}"])
    assert not (tmp_path / "curves.png").exists()
