import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_runs import write_run, write_sweep

from experiments import claims, plot, report
from experiments.comparing import figures, panels
from experiments.comparing.comparisons import draw_all, make_look
from experiments.comparing.curve_files import read_runs
from experiments.comparing.declarations import Look
from experiments.comparing.drawing import COLOURS_OF_RETRIES, colour_of, new_figure, own_style, readable
from experiments.comparing.figures import final
from experiments.comparing.figures.curves import grid
from experiments.comparing.figures.final import factors
from experiments.comparing.loading import load
from experiments.comparing.runs import MEMBERS, SPEED
from experiments.records.run_directory import RunDirectory
from remac.policies.policy_network import LOG_STD_RANGE
from remac.validation import InvalidValueError

FINAL = {"eval/return_stochastic": 100.0, "actor/entropy": -3.0, "actor/pre_tanh_std": 0.5}
ALL = {**FINAL, "actor/gaussian_entropy": 1.0, "actor/grad_norm": 1.0}


@pytest.fixture(autouse=True)
def _light_fonts(monkeypatch):
    """To put a part of a font into a PDF as publishers want it takes as long as the figure; test_toy.py does it."""
    monkeypatch.setattr("experiments.comparing.drawing.PDF_FONT_TYPE", 3)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def curves_of(panel):
    """Returns what carries a label in a panel: the lines of the arms."""
    handles, labels = panel.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


@pytest.fixture
def runs(tmp_path):
    """Two seeds of two arms, of which one seed stopped early; no metric of sampled actions."""
    for agent, level in (({"name": "sac"}, 0.0), ({"name": "remac", "num_retries": 4}, 100.0)):
        for seed in (0, 1):
            config = {"agent": agent, "env": {"suite": "probe", "task": "action"}, "seed": seed}
            run = RunDirectory(tmp_path / f"{agent['name']}{seed}", config)
            killed = (agent["name"], seed) == ("sac", 1)
            for step in range(0, 30 if killed else 50, 10):
                run.log(step, step, {"eval/return": level + 10 * seed + step, "time/x": 1.0})
                run.log(step, step, {"actor/pre_tanh_std": 0.5, "actor/entropy": -1.0, "actor/gaussian_entropy": 1.0})
            if not killed:
                run.write_summary(run.summary("finished", {}))
            run.close()
    return sorted(path for path in tmp_path.iterdir())


def test_figures_and_tables_hold_the_runs(runs, tmp_path, capsys):
    out = tmp_path / "figures"
    plot.main([*map(str, runs), f"out={out}"])
    printed = capsys.readouterr()
    assert printed.out.split() == [str(out / f"{name}.png") for name in ("curves", "final", "paired")]
    assert printed.err.strip() == f"{runs[3]}: unfinished at 20 env steps, no number of it counts"
    for name in ("curves", "final", "paired"):
        assert np.asarray(Image.open(out / f"{name}.png")).std() > 5
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    rows = read(out / "curves.csv")
    returns = [row for row in rows if row["metric"] == "eval/return"]
    assert len(returns) == 3 * 5 + 3
    assert {(row["exp_name"], row["seed"]) for row in rows} == {("SAC", "0"), ("SAC", "1"), ("M=4", "0"), ("M=4", "1")}
    final = {(row["arm"], row["seed"]): row for row in read(out / "final.csv")}
    assert set(final) == {("SAC", "0"), ("M=4", "0"), ("M=4", "1")}, "the run that was killed has no final value"
    assert final["M=4", "1"]["eval/return"] == "150" and final["SAC", "0"]["eval/return"] == "40"
    assert "time/x" not in final["SAC", "0"]
    paired = read(out / "paired.csv")
    assert {(row["arm"], row["metric"], row["n"], row["mean"]) for row in paired} >= {
        ("M=4", "eval/return", "1", "100")
    }


def test_the_line_is_the_interquartile_mean_of_finished_seeds(tmp_path):
    for seed, level in enumerate((0.0, 1.0, 2.0, 3.0, 100.0)):
        write_run(tmp_path / str(seed), seed=seed, final={"eval/return_stochastic": level})
    write_run(tmp_path / "going", seed=9, final={"eval/return_stochastic": 1e6}, status=None)
    found = load([tmp_path])
    figure = draw_all(found, Look(("eval/return_stochastic",), command="as typed"), [])[0].figure
    line = curves_of(figure.axes[0])["SAC"]
    np.testing.assert_allclose(line.get_ydata()[-1], 2.0)
    assert len(figure.axes[0].lines) == 7, "every seed is a thin line"
    small_print = " ".join(figure.get_supxlabel().split())
    assert "as typed" in small_print and "commit 0123456789ab" in small_print and "seeds: 0-4" in small_print


def test_an_arm_without_a_finished_seed_is_in_the_legend(tmp_path):
    write_run(tmp_path / "done", seed=0, final={"eval/return_stochastic": 1.0})
    for seed in (0, 1):
        write_run(tmp_path / f"going{seed}", retries=4, seed=seed, final={"eval/return_stochastic": 2.0}, status=None)
    figure = draw_all(load([tmp_path]), Look(("eval/return_stochastic",), command="as typed"), [])[0].figure
    entries = {text.get_text() for text in figure.legends[0].get_texts()}
    assert entries == {"SAC", "ReMAC M=4 (unfinished)"}
    assert curves_of(figure.axes[0])["ReMAC M=4 (unfinished)"].get_linestyle() == "--"


@pytest.mark.parametrize(("x", "last"), [("gradient_steps", 1000.0), ("wall_clock", 1.0)])
def test_other_x_axes(tmp_path, x, last):
    for seed in (1, 2):
        path = write_run(tmp_path / str(seed), seed=seed, final={"eval/return_stochastic": 1.0})
        lines = (path / "metrics.csv").read_text().splitlines()
        rows = [line.split(",") for line in lines[1:]]
        # The second seed is half as fast.
        text = [",".join([a, b, str(seed * int(a) / 1000), *rest]) for a, b, _, *rest in rows]
        (path / "metrics.csv").write_text("\n".join([lines[0], *text]) + "\n")
        summary = json.loads((path / "summary.json").read_text())
        del summary["files"]  # the sums of what was written
        (path / "summary.json").write_text(json.dumps(summary))
    drawing = draw_all(load([tmp_path]), Look(("eval/return_stochastic",), x=x), [])[0]
    line = curves_of(drawing.figure.axes[0])["SAC"]
    assert line.get_xdata()[-1] == pytest.approx(last)
    if x == "wall_clock":  # at one second: the first seed's end, and the second's middle
        assert line.get_ydata()[-1] == pytest.approx((1 + 500 / 950) / 2, rel=1e-3)
    assert drawing.rows[-1][x] == pytest.approx(last * 2 if x == "wall_clock" else last)


def test_what_varies_decides_which_figures_there_are(tmp_path):
    arms = [{"final": FINAL}]
    arms += [{"retries": m, "actor_adam_epsilon": e, "final": FINAL} for m in (1, 8) for e in (1e-8, 1.0)]
    found = load([write_sweep(tmp_path, arms, seeds=(1, 2), tasks=("mujoco/ant", "mujoco/hopper"))])
    assert factors(found) == ["num_retries", "actor_adam_epsilon"]
    drawings = draw_all(found, Look(("eval/return_stochastic", "actor/entropy")), [])
    assert [drawing.name for drawing in drawings] == [
        *("curves", "grid_return_stochastic", "grid_entropy", "final"),
        *("final_against_num_retries", "final_against_actor_adam_epsilon", "paired", "aggregate"),
    ]
    assert all(drawing.rows and len({tuple(row) for row in drawing.rows}) == 1 for drawing in drawings)
    assert all(drawing.description.endswith(".") or drawing.name == "aggregate" for drawing in drawings)
    # A column per epsilon, a line per M in its colour, and SAC in each.
    axes = grid(found, Look(("actor/entropy",)), [], "actor/entropy").figure.axes
    assert len(axes) == 4 and all(list(curves_of(panel)) == ["SAC", "M=1", "M=8"] for panel in axes)
    assert curves_of(axes[0])["M=8"].get_color() == COLOURS_OF_RETRIES[8] == colour_of("remac", 8)


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("learning_rate", (1e-4, 1e-3), "final_against_learning_rate"),
        ("num_samples", (8, 16), "final_against_num_samples"),
        ("actor_optimizer", ("adam", "sgd"), "final_against_actor_optimizer"),
        ("hidden_sizes", ([256, 256], [64, 64, 64]), "final_against_hidden_sizes"),
        ("objective", ("max", [0.5, 0.5]), "final_against_objective"),
    ],
)
def test_final_values_against_a_setting(tmp_path, key, values, expected):
    arms = [{"retries": 4, key: v, "final": {"actor/entropy": 2.0 + i}} for i, v in enumerate(values)]
    drawings = draw_all(load([write_sweep(tmp_path, arms)]), Look(("actor/entropy",)), [])
    drawing = next(drawing for drawing in drawings if drawing.name == expected)
    reached = {f"{v:g}" if isinstance(v, float) else str(v): 2.0 + i for i, v in enumerate(values)}
    assert {row["at"]: (row["n"], row["mean"]) for row in drawing.rows} == {
        at: (3, pytest.approx(value)) for at, value in reached.items()
    }
    panel = drawing.figure.axes[0]
    ticks = [tick.get_text() for tick in panel.get_xticklabels()]
    np.testing.assert_allclose(curves_of(panel)["M=4"].get_ydata(), [reached[tick] for tick in ticks])


def test_what_samples_buy_stands_against_what_they_cost(tmp_path):
    """A program of N = 8 makes 500 env steps a second, one of N = 16 makes 250; a gradient step an env step."""
    of_arms = {8: (1.0, 250.0), 16: (2.0, 125.0)}
    arms = [
        {"retries": 4, "num_samples": n, "final": {"eval/return": value, SPEED: rate, MEMBERS: 2}, "start": rate}
        for n, (value, rate) in of_arms.items()
    ]
    look = Look(("eval/return",))
    (drawing,) = [one for one in draw_all(load([write_sweep(tmp_path, arms)]), look, []) if one.name == "cost"]
    found = {row["num_samples"]: (row["milliseconds"], row["n"], row["iqm"]) for row in drawing.rows}
    assert found == {8: (pytest.approx(2), 3, pytest.approx(1)), 16: (pytest.approx(4), 3, pytest.approx(2))}
    without = [{"retries": 4, "num_samples": n, "final": {"eval/return": 1.0}} for n in of_arms]
    assert "cost" not in {one.name for one in draw_all(load([write_sweep(tmp_path / "none", without)]), look, [])}


def test_differences_are_paired_by_seed(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / f"sac{seed}", seed=seed, final={"eval/return_stochastic": 100.0 * seed})
        if seed > 1:
            write_run(tmp_path / f"m{seed}", retries=2, seed=seed, final={"eval/return_stochastic": 100.0 * seed + 5})
    notes = []
    drawings = draw_all(load([tmp_path]), Look(("eval/return_stochastic",)), notes)
    (paired,) = [drawing for drawing in drawings if drawing.name == "paired"]
    (row,) = paired.rows
    assert (row["arm"], row["seeds"], row["mean"], row["std"]) == ("M=2", "2-3", pytest.approx(5), pytest.approx(0))


def test_returns_over_tasks_are_scaled_by_task(tmp_path):
    for task, scale in (("mujoco/ant", 1.0), ("mujoco/hopper", 1000.0)):
        arms = [{"final": {"eval/return_stochastic": 4 * scale}}]
        arms += [{"retries": 2, "final": {"eval/return_stochastic": 3 * scale}}]
        write_sweep(tmp_path / task.replace("/", "_"), arms, tasks=(task,), start=2 * scale)
    drawings = draw_all(load([tmp_path]), Look(("eval/return_stochastic",)), [])
    rows = {row["arm"]: row for row in drawings[-1].rows}
    assert drawings[-1].name == "aggregate" and rows["SAC"]["iqm"] == pytest.approx(1)
    assert rows["M=2"]["iqm"] == pytest.approx(0.5) and rows["M=2"]["runs"] == "3+3"


def test_the_speed_is_that_of_a_program_and_not_a_sample_of_seeds(tmp_path):
    """SAC's three seeds were one program; of M = 4 each ran alone, and did not record that."""
    for seed, alone in enumerate((10.0, 20.0, 30.0)):
        final = {"actor/entropy": 1.0, "time/env_steps_per_second": 100.0, "time/num_members": 3}
        common = {"seed": seed, "top": {"experiment": "speed"}}
        write_run(tmp_path / f"s{seed}", final=final, **common)
        write_run(tmp_path / f"m{seed}", retries=4, final={"time/env_steps_per_second": alone}, **common)
    drawing = draw_all(load([tmp_path]), Look(("actor/entropy",)), [])[-1]
    assert drawing.name == "speed"
    assert [(row["arm"], row["members"], row["env_steps_per_second"]) for row in drawing.rows] == [
        ("SAC", 3, pytest.approx(300)),
        *(("M=4", 1, pytest.approx(rate)) for rate in (10, 20, 30)),
    ]
    assert [line.get_linestyle() for line in drawing.figure.axes[0].lines] == ["None"] * 4, "dots, and no interval"
    small_print = " ".join(drawing.figure.get_supxlabel().split())
    assert "share one clock" in small_print and "bootstrap" not in small_print


NEW_FIGURE = """
from experiments.comparing.declarations import Drawing, figure
from experiments.comparing.drawing import new_figure
from experiments.comparing.panels import STD


@figure("spread", when=lambda runs, look: len(runs.arms) > 1, each=lambda runs, look: runs.tasks, place=15)
def spread(runs, look, notes, task):
    picture, _ = new_figure(1, 1)
    return Drawing(f"spread_{task[7:]}", "Spread", "Seen.", picture, [{"task": task}], (STD,))


@figure("broken", when=lambda runs, look: 1 / 0)
def broken(runs, look, notes):
    raise AssertionError("nobody asks")
"""


def test_a_figure_is_found_by_its_declaration(tmp_path, monkeypatch, capsys):
    """One file in the package is enough; here the package has a second folder."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "spread_of_this_test.py").write_text(NEW_FIGURE)
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "experiments.comparing.figures.spread_of_this_test", raising=False)
    one, two = {"final": FINAL}, {"retries": 4, "final": FINAL}
    both = write_sweep(tmp_path / "both", [one, two], seeds=(1,), tasks=("mujoco/ant", "mujoco/hopper"))
    assert plot.main([str(both), f"out={tmp_path}", "metric=actor/entropy"]) == 0
    printed = capsys.readouterr()
    names = [Path(line).stem for line in printed.out.split()]
    assert "broken: cannot be drawn (ZeroDivisionError: division by zero), left out" in printed.err
    assert names == ["curves", "spread_ant", "spread_hopper", "final", "paired"]
    report.main([str(both), f"out={tmp_path / 'r.html'}", "metric=actor/entropy"])
    assert 'id="figure-spread_ant"' in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert plot.main([str(write_run(tmp_path / "alone", final=FINAL)), f"out={tmp_path}"]) == 0
    assert "spread" not in capsys.readouterr().out, "it is drawn where it says so"


def small_print(drawing):
    return " ".join(drawing.figure.get_supxlabel().split())


def test_the_floor_of_the_standard_deviation_stands_under_what_shows_it(tmp_path):
    write_run(tmp_path / "a", retries=1, final=FINAL)
    write_run(tmp_path / "b", retries=8, final=FINAL)
    assert LOG_STD_RANGE[0] == panels.LOWEST_LOG_STD
    look = Look(("actor/pre_tanh_std",))
    floor = "The standard deviation's floor, where M = 1 may end, is exp(-10) = 4.5e-05, a clip, beyond which there is"
    for drawing in draw_all(load([tmp_path]), look, []):
        assert floor in small_print(drawing) and floor in drawing.description, drawing.name
    for drawing in draw_all(load([tmp_path]), Look(("actor/entropy",)), []):
        assert "floor" not in small_print(drawing) + drawing.description, drawing.name
    write_run(tmp_path / "c" / "4", retries=4, final=FINAL, log_std_bounds="tanh")
    assert "floor" not in small_print(draw_all(load([tmp_path / "c"]), look, [])[0]), "it is where M = 1 may end"
    write_run(tmp_path / "c" / "1", retries=1, final=FINAL, log_std_bounds="tanh")
    shown = small_print(draw_all(load([tmp_path / "c"]), look, [])[0])
    assert shown.endswith("exp(-10) = 4.5e-05, a smooth bound.")


@pytest.mark.slow
def test_what_environments_measure_is_drawn_by_its_name(tmp_path, capsys):
    measured = {"env/forward_velocity": 2.0, "eval/env/forward_velocity": 3.0, "env/oddity": 1.0}
    arms = [{"retries": m, "actor_adam_epsilon": e, "final": FINAL | measured} for m in (1, 8) for e in (1e-8, 1.0)]
    write_sweep(tmp_path / "runs", arms, seeds=(1,))
    chosen = ",".join(measured)
    assert plot.main([str(tmp_path / "runs"), f"out={tmp_path}", f"metric={chosen}"]) == 0
    names = [Path(line).stem for line in capsys.readouterr().out.split()]
    grids = ["grid_env_forward_velocity", "grid_eval_env_forward_velocity", "grid_env_oddity"]
    assert [name for name in names if name.startswith("grid")] == grids, "each in files of its own"
    assert {row["metric"] for row in read(tmp_path / f"{grids[1]}.csv")} == {"eval/env/forward_velocity"}
    assert {row["env/forward_velocity"] for row in read(tmp_path / "final.csv")} == {"2"}
    drawing = draw_all(load([tmp_path / "runs"]), Look(tuple(measured)), [])[0]
    labels = [panel.get_ylabel() for panel in drawing.figure.axes if panel.get_visible()]
    assert labels == ["forward velocity (m/s)", "forward velocity,\nevaluation (m/s)", "env/oddity"]
    report.main([str(tmp_path / "runs"), f"out={tmp_path / 'r.html'}", f"metric={chosen}"])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<button>forward velocity, evaluation (m/s)</button>" in page and "env/oddity" in page


def test_many_arms_do_not_share_a_panel(tmp_path):
    arms = [{"retries": m, "actor_adam_epsilon": e, "final": FINAL} for m in (1, 2, 4) for e in (1e-8, 1e-2, 0.1, 1.0)]
    notes = []
    drawing = draw_all(load([write_sweep(tmp_path, arms, seeds=(1,))]), Look(("actor/entropy",)), notes)[0]
    assert len(curves_of(drawing.figure.axes[0])) == 3
    assert notes == [
        "curves: too many arms for one panel; shown are those with Adam's epsilon (actor) 1e-08, the grids have all"
    ]


def test_only_where_there_are_grids_do_they_have_all(tmp_path):
    arms = [{"retries": 2, "learning_rate": 1e-4 * (1 + number), "final": FINAL} for number in range(11)]
    notes = []
    draw_all(load([write_sweep(tmp_path, arms, seeds=(1,))]), Look(("actor/entropy",)), notes)
    assert notes == ["curves: too many arms for one panel; shown are those with learning rate 0.0001"]


def test_runs_that_are_still_going_have_curves_only(tmp_path):
    write_sweep(tmp_path, [{"final": FINAL}, {"retries": 4, "final": FINAL}], status=None)
    notes = []
    (drawing,) = draw_all(load([tmp_path]), Look(("actor/entropy",)), notes)
    assert notes == ["no run has finished: there are no final values"]
    assert [line.get_linestyle() for line in drawing.figure.axes[0].lines] == ["--"] * 6


def test_missing_metrics_leave_a_panel_that_says_so(tmp_path):
    write_run(tmp_path / "a", task="mujoco/ant", final={"actor/entropy": 1.0})
    write_run(tmp_path / "b", task="mujoco/hopper", final={"eval/return_stochastic": 1.0})
    drawings = draw_all(load([tmp_path]), Look(("actor/entropy",)), [])
    assert [panel.texts[0].get_text() if panel.texts else "" for panel in drawings[0].figure.axes] == ["", "no data"]


@pytest.mark.parametrize(
    "text",
    [
        *("$x", r"$\frac{$ and $", r"\$x$", "{}%s%d{0!r}", "_hidden", "", " ", "None", "a\nb\r\n\tc", "a" * 1000),
        *("שלום", "مرحبا", "\u202egnp", "学習 🚀", "\x00\x7f", "\udc80", "~^_&#"),
    ],
)
def test_any_text_can_stand_in_a_figure(text, recwarn):
    shown = readable(text, 20)
    assert shown.strip() and not shown.startswith("_") and len(shown.splitlines()) <= 2
    with own_style():
        figure, axes = new_figure(1, 1)
        axes[0, 0].plot([0, 1], label=shown)
        axes[0, 0].set_title(shown)
        figure.legend()
        figure.draw_without_rendering()
        assert len(figure.legends[0].get_texts()) == 1 and axes[0, 0].title.get_window_extent().width > 1
    assert not recwarn.list, "of characters without a picture there is a warning"


def test_shortened_texts_stay_different():
    assert len({readable("a" * 100 + end, 20) for end in ("", "b", "c")}) == 3
    assert readable("price $", 20) == r"price \$" and readable("two  words\n", 20) == "two words"


def test_names_from_a_configuration_do_not_break_plots_and_reports(tmp_path, recwarn):
    arms = ["$x", r"$\frac{$", "a" * 300 + "1", "a" * 300 + "2", "_שלום"]
    for number, arm in enumerate(arms):
        write_run(tmp_path / "runs" / str(number), retries=2, final=FINAL, top={"arm": arm}, gamma=0.1 * number)
    plot.main([str(tmp_path / "runs"), f"out={tmp_path}", "metric=actor/entropy"])
    assert {row["arm"] for row in read(tmp_path / "final.csv")} == set(arms), "tables hold them as they are"
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {"curves", "final", "final_against_gamma", "paired"}
    report.main([str(tmp_path / "runs"), f"out={tmp_path / 'r.html'}", "metric=actor/entropy"])
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count("data:image/png") == 4
    drawing = draw_all(load([tmp_path / "runs"]), Look(("actor/entropy",)), [])[0]
    assert len(drawing.figure.legends[0].get_texts()) == 5, "an entry each"
    assert not [one for one in recwarn if "layout" in str(one.message)], "and room for the panels"


def test_a_run_that_cannot_be_drawn_is_named_and_left_out(tmp_path, monkeypatch, capsys):
    good, bad = (write_run(tmp_path / name, seed=seed, final=FINAL) for seed, name in enumerate(("good", "bad")))
    records = panels.records

    def fail_for_one(run, *arguments):
        assert run.directory != bad, "impossible"
        return records(run, *arguments)

    monkeypatch.setattr(panels, "records", fail_for_one)
    plot.main([str(good), str(bad), f"out={tmp_path}", "metric=actor/entropy"])
    printed = capsys.readouterr()
    assert f"{bad}: cannot be drawn (AssertionError: impossible" in printed.err and str(good) not in printed.err
    assert {row["seed"] for row in read(tmp_path / "curves.csv")} == {"0"}
    assert {row["seed"] for row in read(tmp_path / "final.csv")} == {"0", "1"}, "in the other figures it is"


def test_runs_that_cannot_be_drawn_together_are_not(tmp_path):
    """Their returns span more than a float can hold."""
    for seed, value in enumerate((1e308, 5.0, -1e308)):
        write_run(tmp_path / str(seed), seed=seed, final={"eval/return_stochastic": value}, status=None)
    notes = []
    (drawing,) = draw_all(load([tmp_path]), Look(("eval/return_stochastic",)), notes)
    assert len(drawing.figure.axes[0].lines) == 2
    assert [note for note in notes if "cannot be drawn" in note] == [notes[-1]]
    assert notes[-1].startswith(f"{tmp_path / '2'}: ") and notes[-1].endswith("left out of curves")


def test_a_figure_that_cannot_be_drawn_or_saved_is_named_and_left_out(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "a", final=FINAL)
    monkeypatch.setattr(final, "final", dataclasses.replace(final.final, draw=lambda runs, look, notes: 1 / 0))
    (tmp_path / "curves.pdf").mkdir()
    assert plot.main([str(tmp_path / "a"), f"out={tmp_path}"]) == 1
    printed = capsys.readouterr()
    assert "final: cannot be drawn (ZeroDivisionError: division by zero), left out" in printed.err
    assert "curves: not written (IsADirectoryError" in printed.err and printed.out == ""
    report.main([str(tmp_path / "a"), f"out={tmp_path / 'r.html'}"])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "final: cannot be drawn" in text and text.count("data:image/png") == 1


def test_figures_do_not_depend_on_the_callers_settings(tmp_path):
    """Neither on a backend that cannot be imported, nor on LaTeX, which is not there."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: nonsense\n")
    run = write_run(tmp_path / "run", final={"eval/return": 1.0})
    program = f"from experiments.comparing.run_plots import plot_run; print(len(plot_run({str(run)!r})))"
    for folder in (tmp_path, run):  # found by its variable, and in the working directory
        environment = os.environ | {"MPLBACKEND": "module://not_there.backend", "MATPLOTLIBRC": str(folder)}
        environment["PYTHONPATH"] = str(Path(plot.__file__).parent.parent)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
        )
        assert done.stdout == "1\n", done.stderr


def test_what_is_not_finite_is_said_as_it_is(tmp_path):
    nan = float("nan")
    for task in ("mujoco/ant", "mujoco/hopper"):
        for seed in (0, 1):
            write_run(tmp_path / f"{task[7:]}{seed}", task=task, seed=seed, final={"eval/return_stochastic": 10.0})
    found = load([tmp_path])
    ant, hopper = (found.on(task)[0].runs for task in found.tasks)
    ant[0].metrics["eval/return_stochastic"].values[0] = nan
    hopper[1].metrics["eval/return_stochastic"].values[-1] = nan
    notes = []
    names = [drawing.name for drawing in draw_all(found, Look(("eval/return_stochastic",)), notes)]
    assert "aggregate" in names and notes == [
        f"{hopper[1].directory}: eval/return_stochastic is missing or not finite in the last tenth of training, so it "
        "has no final value",
        f"{ant[0].directory}: its first eval/return_stochastic is not finite, not counted among untrained policies",
    ]
    ant[1].metrics["eval/return_stochastic"].values[0] = nan
    draw_all(found, Look(("eval/return_stochastic",)), notes)
    assert notes[-1] == (
        "mujoco/ant: no finished run has a finite first eval/return_stochastic, left out of the figure over tasks"
    )
    assert not any("untrained policies" in note and "no arm" in note for note in notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "directories=none: must name at least one"),
        (["nowhere"], "directory=nowhere: does not exist"),
        (["RUN", "x=time"], "x=time: must be one of"),
        (["RUN", "metric=actor/nothing"], "metric=actor/nothing: must be one of"),
        (["RUN", "metric=,"], "metric=,: names no metric"),
        (["RUN", "reference=M=3"], "reference=M=3: must be one of"),
        (["RUN", "outt=a"], "outt=a: no such key; there are out=, x=, metric=, reference="),
        (["RUN", "out=a", "out=b"], "out=b: must be given once"),
        (["RUN", "out="], "out='': has no value"),
        (["RUN", "--help"], "--help='': no such key"),
        (["RUN", "out=RUN/config.yaml"], "must be a folder, and"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "RUN", final=ALL)
    with pytest.raises(InvalidValueError) as error:
        plot.main(arguments)
    assert str(error.value).startswith(message) or message in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["RUN"]


def test_bad_input_is_one_line_and_exit_status_2(run_module, tmp_path):
    status, out, err = run_module("plot", tmp_path)
    assert (status, out, err.count("\n")) == (2, "", 1) and "hold no run" in err


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "seed=1", final=ALL)
    plot.main(["seed=1", "out=figures", "metric=actor/entropy"])
    assert {row["metric"] for row in read(tmp_path / "figures/curves.csv")} == {"actor/entropy"}


def test_curves_of_a_file_are_laid_over_those_of_runs(tmp_path, capsys):
    """Those of others, with ids of Gymnasium and names of their own, and those that were written here."""
    for seed in (0, 1):
        write_run(tmp_path / f"runs/{seed}", seed=seed, final={"eval/return": 100.0 + seed})
    lines = ["exp_name,env_name,seed,metric,env_step,value"]
    lines += [f"theirs,Hopper-v4,{seed},avg_return,{step},{step + seed}" for seed in range(3) for step in (0, 10, 50)]
    (tmp_path / "theirs.csv").write_text("\n".join(lines))
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    (tmp_path / "torn.csv").write_text("\n".join([*lines, "theirs,Hopper-v4,0,avg_return,60"]))
    given = [str(tmp_path / name) for name in ("runs", "theirs.csv", "wrong.csv", "torn.csv")]
    assert plot.main([*given, f"out={tmp_path / 'figures'}", "metric=eval/return"]) == 0
    err = capsys.readouterr().err
    assert "wrong.csv: is no table of curves, it has no column exp_name" in err and "torn.csv: line 11" in err
    rows = read(tmp_path / "figures/curves.csv")
    assert {(row["exp_name"], row["env_name"]) for row in rows} >= {("theirs", "mujoco/hopper")}
    assert {row["env_name"] for row in rows} == {"mujoco/hopper"}
    assert [row["value"] for row in rows if row["exp_name"] == "theirs" and row["seed"] == "2"] == ["2", "12", "52"]
    again = [str(tmp_path / "figures/curves.csv"), f"out={tmp_path / 'again'}", "metric=eval/return"]
    assert plot.main(again) == 0
    assert read(tmp_path / "again/curves.csv") == rows
    with pytest.raises(InvalidValueError, match="hold no run"):
        plot.main([str(tmp_path / "wrong.csv"), f"out={tmp_path / 'again'}"])


def test_reaching_a_threshold_is_counted_by_seeds(tmp_path, capsys):
    """Once there is there, also where a seed falls back."""
    lines = ["exp_name,env_name,seed,metric,env_step,value"]
    curves = {0: (0, 5, 9, 1), 1: (0, 0, 0, 6), 2: (0, 1, 2, 3), 3: (7, 0, 0, 0)}
    for seed, values in curves.items():
        lines += [f"a,Hopper-v4,{seed},return,{10 * step},{value}" for step, value in enumerate(values)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    given = [str(tmp_path / "a.csv"), f"out={tmp_path}", "metric=eval/return"]
    assert plot.main([*given, "threshold=5"]) == 0
    assert {row["seed"]: row["reached_at_env_steps"] for row in read(tmp_path / "reached.csv")} == {
        **{"0": "10", "1": "30", "2": "", "3": "0"}
    }
    look = make_look(load([tmp_path / "a.csv"]), {"metric": "eval/return", "threshold": "5"}, "")
    (drawing,) = [one for one in draw_all(load([tmp_path / "a.csv"]), look, []) if one.name == "reached"]
    (line,) = drawing.figure.axes[0].lines
    at = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))  # the last of equal steps counts
    assert at == {0: 0.25, 10: 0.5, 30: 0.75}
    for wrong in ("high", "nan", "inf"):
        with pytest.raises(InvalidValueError, match=f"threshold={wrong}: must be a number"):
            plot.main([*given, f"threshold={wrong}"])


def test_arms_look_the_same_from_a_table_as_from_their_runs(tmp_path):
    settings = [(1, 1e-8), (1, 1.0), (4, 1e-8), (4, 1.0)]
    for number, (retries, epsilon) in enumerate(settings):
        final = {"eval/return": float(number)}
        write_run(tmp_path / f"runs/{number}", retries=retries, final=final, actor_adam_epsilon=epsilon)
    write_run(tmp_path / "runs/sac", final={"eval/return": 1.0})
    write_run(tmp_path / "runs2/m4", retries=4, final={"eval/return": 1.0})
    looks = []
    for folder in ("runs", "runs2"):
        plot.main([str(tmp_path / folder), f"out={tmp_path / folder}", "metric=eval/return"])
        for path in (tmp_path / folder, tmp_path / folder / "curves.csv"):
            cells = load([path]).cells
            style = panels.styles(cells)
            looks.append({(cell.title, *style(cell)) for cell in cells})
    assert looks[0] == looks[1] and len(looks[0]) == len({look[1:] for look in looks[0]}) == 5
    assert looks[2] == looks[3] and [look[0] for look in looks[2]] == ["ReMAC M=4"]
    both = load([tmp_path / "runs/sac", tmp_path / "runs/curves.csv"]).cells
    style = panels.styles(both)
    assert len({style(cell) for cell in both}) == len(both) == 6, "those of a table beside runs have other dashes"
    assert len({cell.base_label for cell in both}) == 6, "and names of their own in grids"


def test_agents_that_have_no_colour_of_their_own_get_one_each(tmp_path):
    lines = ["exp_name,env_name,seed,metric,env_step,value"]
    lines += [f"{name},Hopper-v4,0,avg_return,{step},1" for name in ("CrossQ", "DroQ", "SimbaV2") for step in (0, 10)]
    (tmp_path / "theirs.csv").write_text("\n".join(lines))
    write_run(tmp_path / "m4", retries=4, final={"eval/return": 1.0})
    write_run(tmp_path / "sac", final={"eval/return": 1.0})
    cells = load([tmp_path, tmp_path / "theirs.csv"]).cells
    assert len(cells) == len({panels.styles(cells)(cell)[0] for cell in cells}) == 5


def test_what_others_call_as_one_of_ours_says_where_it_is_from(tmp_path):
    lines = ["exp_name,env_name,seed,metric,env_step,value"]
    lines += [f"{name},{task},0,return,10,1" for name in ("SAC", "CrossQ") for task in ("Hopper-v4", "Ant-v4")]
    (tmp_path / "published.csv").write_text("\n".join(lines))
    write_run(tmp_path / "sac", final={"eval/return": 1.0})
    titles = [(cell.task, cell.title) for cell in load([tmp_path, tmp_path / "published.csv"]).cells]
    assert sorted(titles) == [
        ("mujoco/ant", "CrossQ"),
        ("mujoco/ant", "SAC (published)"),
        ("mujoco/hopper", "CrossQ"),
        ("mujoco/hopper", "SAC"),
        ("mujoco/hopper", "SAC (published)"),
    ]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    """Those that plot writes are all called curves."""
    for folder in ("a/x", "b/x", "c"):
        (tmp_path / folder).mkdir(parents=True)
        text = "exp_name,env_name,seed,metric,env_step,value\nSAC,Ant-v4,0,return,10,1\n"
        (tmp_path / folder / "curves.csv").write_text(text)
    found = load(sorted(tmp_path.rglob("*.csv")))
    assert [cell.arm for cell in found.cells] == ["SAC (a/x)", "SAC (b/x)", "SAC (c)"]
    for folder in ("a", "b"):
        (tmp_path / folder / "x/curves.csv").rename(tmp_path / folder / "x/table.csv")
    found = load(sorted(tmp_path.rglob("*.csv")))
    assert [cell.arm for cell in found.cells] == ["SAC (a/x/table)", "SAC (b/x/table)", "SAC (c)"]


def test_an_arm_of_a_file_has_one_name_on_every_task_and_no_settings(tmp_path):
    """Also where it is called as plot calls ours, or as an agent."""
    for retries, task in ((2, "hopper"), (4, "hopper"), (4, "ant")):
        write_run(tmp_path / f"{task}{retries}", task=f"mujoco/{task}", retries=retries, final={"eval/return": 1.0})
    lines = ["exp_name,env_name,seed,metric,env_step,value"]
    tasks = ("Hopper-v4", "Walker2d-v4")
    lines += [f"{name},{task},0,return,10,1" for name in ("M=4", "ReMAC M=2", "remac", "CrossQ") for task in tasks]
    (tmp_path / "theirs.csv").write_text("\n".join(lines), encoding="utf-8-sig")  # as spreadsheets write it
    cells = load([tmp_path, tmp_path / "theirs.csv"]).cells
    theirs = {"M=4 (theirs)", "ReMAC M=2 (theirs)", "remac", "CrossQ"}
    assert {(cell.task, cell.arm) for cell in cells} == {
        *(("mujoco/hopper", arm) for arm in ("M=2", "M=4", *theirs)),
        *(("mujoco/walker2d", arm) for arm in theirs),
        ("mujoco/ant", "M=4"),
    }
    assert {cell.title for cell in cells} == {"ReMAC M=2", "ReMAC M=4", *theirs}


@pytest.mark.parametrize(
    ("env_name", "task"),
    [
        ("HalfCheetah-v4", "mujoco/half_cheetah"),
        ("Walker2d-v5", "mujoco/walker2d"),
        ("InvertedDoublePendulum-v5", "mujoco/inverted_double_pendulum"),
        ("Pendulum-v1", "gymnasium/Pendulum-v1"),
        ("BipedalWalker-v3", "gymnasium/BipedalWalker-v3"),
        ("cheetah-run", "dmc/cheetah-run"),
        ("brax/ant", "brax/ant"),
    ],
)
def test_names_of_others_are_found_among_our_tasks(tmp_path, env_name, task):
    (tmp_path / "x.csv").write_text(f"exp_name,env_name,seed,metric,env_step,value\na,{env_name},0,return,0,1\n")
    assert [run.task for run in read_runs(tmp_path / "x.csv")] == [task]


HEADER = "exp_name,env_name,seed,metric,env_step,value,wall_clock\n"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,Ant-v4,0.5,return,0,1,", "line 3: seed must be a whole number of at least 0, not '0.5'"),
        ("a,Ant-v4,,return,0,1,", "line 3: seed must be a number, not ''"),
        ("a,Ant-v4,0,return,-1,1,", "line 3: env_step must be a whole number of at least 0, not '-1'"),
        ("a,Ant-v4,0,return,inf,1,", "line 3: env_step must be a whole number"),
        ("a,Ant-v4,0,return,1,much,", "line 3: value must be a number, not 'much'"),
        ("a,Ant-v4,0,return,1,1,soon", "line 3: wall_clock must be a number, not 'soon'"),
        ("a,Ant-v4,0", "line 3: metric is empty"),
        (" ,Ant-v4,0,return,1,1,", "line 3: exp_name is empty"),
        ("a,Ant-v4,0.0,eval/return,1000.0,2,", "line 3: has arm, task, seed, metric and step of line 2"),
    ],
)
def test_a_bad_row_of_a_table_is_named_with_its_column(tmp_path, row, words):
    (tmp_path / "x.csv").write_text(f"{HEADER}a,Ant-v4,0,return,1000,1,\n{row}\n")
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        read_runs(tmp_path / "x.csv")


def test_what_a_table_lacks_is_no_axis(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.csv").write_text(f"{HEADER}a,Ant-v4,0,return,0,1,\na,Ant-v4,0,return,10,2,\n")
    (tmp_path / "times.csv").write_text(f"{HEADER}b,Ant-v4,0,return,0,1,0.5\nb,Ant-v4,0,return,10,2,1.5\n")
    with pytest.raises(InvalidValueError, match=r"^x=wall_clock: none of these runs has it; must be env_steps$"):
        plot.main(["steps.csv", "x=wall_clock", "out=figures"])
    assert not Path("figures").exists()
    assert plot.main(["steps.csv", "times.csv", "x=wall_clock", "out=figures"]) == 0
    assert capsys.readouterr().err.count("steps.csv: has no wall_clock, left out of curves\n") == 1
    times = {row["env_step"]: row["wall_clock"] for row in read(Path("figures/curves.csv")) if row["exp_name"] == "b"}
    assert times == {"0": "0.5", "10": "1.5"}


def test_the_reference_may_have_the_name_that_figures_show(tmp_path):
    write_sweep(tmp_path, [{"retries": m, "final": FINAL} for m in (1, 8)], seeds=(1,))
    runs = load([tmp_path])
    assert [cell.title for cell in runs.cells] == ["ReMAC M=1", "ReMAC M=8"]
    assert make_look(runs, {"reference": "ReMAC M=8"}, "").reference == "M=8"
    assert make_look(runs, {"reference": "M=8"}, "").reference == "M=8"


def test_trained_objectives_stand_against_measured_ones(tmp_path):
    """One objective is not best at its own measure, and the figure says so."""
    values = {
        "lower_tail_mean:0.25": {"cvar_25": 3.0, "median": 1.0, "max_at_8": 2.0, "mean": 1.0},
        "median": {"cvar_25": 1.0, "median": 2.0, "max_at_8": 9.0, "mean": 2.0},
        "max": {"cvar_25": 0.0, "median": 0.5, "max_at_8": 5.0, "mean": 3.0},
    }
    names = {"mean": "eval/return_stochastic"}
    arms = [
        {
            "name": "ordergrad",
            "retries": 8,
            "objective": objective if objective != "max" else None,
            "estimator": "maxpo",
        }
        | {"final": {names.get(name, f"eval/per_start/{name}"): value for name, value in row.items()}}
        for objective, row in values.items()
    ]
    write_sweep(tmp_path, arms, seeds=(1, 2, 3))
    drawings = {one.name: one for one in draw_all(load([tmp_path]), Look(("eval/return_stochastic",)), [])}
    drawing = drawings["objectives"]
    assert "2 of 3 objectives are best at their own measure" in drawing.description
    assert len(drawing.rows) == 3 * 4
    found = {(row["arm"], row["metric"]): row["iqm"] for row in drawing.rows}
    assert sorted(value for (_, metric), value in found.items() if metric == "eval/per_start/max_at_8") == [2, 5, 9]
    own = {row["arm"]: row["metric"].rpartition("/")[2] for row in drawing.rows if row["own"]}
    assert sorted(own.values()) == ["cvar_25", "max_at_8", "median"]
    assert all("K=8" in arm for arm in own)
    of_four = {"name": "ordergrad", "objective": "max", "final": {f"eval/per_start/max_at_{k}": k for k in (4, 16)}}
    worst = of_four | {"objective": "lower_tail_mean:0.1", "final": {"eval/per_start/cvar_25": 1.0}}
    write_sweep(tmp_path / "four", [of_four | {"retries": 4}, worst | {"retries": 4}], seeds=(1,))
    (drawing,) = [one for one in draw_all(load([tmp_path / "four"]), Look(("x",)), []) if one.name == "objectives"]
    assert [row["metric"] for row in drawing.rows if row["own"]] == ["eval/per_start/max_at_4"], (
        "none is of the worst 10%"
    )
    assert not any("nan" in text.get_text() for panel in drawing.figure.axes for text in panel.texts)
    without = [{"retries": m, "final": FINAL} for m in (1, 8)]
    write_sweep(tmp_path / "others", without, seeds=(1,))
    assert "objectives" not in {one.name for one in draw_all(load([tmp_path / "others"]), Look(("actor/entropy",)), [])}


def table_of(path, rows, columns="exp_name,env_name,seed,metric,env_step,value"):
    path.write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_what_is_read_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    table = table_of(tmp_path / "curves.csv", [("a", "Ant-v4", 0, metric, 1000, 2) for metric in ("return", "loss")])
    before = table.read_bytes()
    monkeypatch.chdir(tmp_path)
    for out in (".", str(tmp_path), "other/.."):
        with pytest.raises(
            InvalidValueError, match=rf"out={re.escape(out)}: would replace .*curves.csv, which is read"
        ):
            plot.main(["curves.csv", "metric=eval/return", f"out={out}"])
    with pytest.raises(InvalidValueError, match=r"out=curves.csv: would replace curves.csv"):
        report.main(["curves.csv", "out=curves.csv"])
    with pytest.raises(InvalidValueError, match=r"json=curves.csv: would replace curves.csv"):
        claims.main(["curves.csv", "json=curves.csv"])
    assert table.read_bytes() == before and not (tmp_path / "final.png").exists()
    assert plot.main(["curves.csv", "metric=eval/return,eval/return", "out=~/figures"]) == 0
    assert plot.main([str(Path("~/figures/curves.csv").expanduser()), "metric=eval/return", "out=again"]) == 0
    assert not (tmp_path / "~").exists()


def test_returns_of_two_kinds_in_one_table_are_refused(tmp_path):
    rows = [("a", "Ant-v4", 0, name, step, 1) for step in (0, 2) for name in ("episode_return", "eval_return")]
    rows = [row if row[3] == "eval_return" else (*row[:4], row[4] + 1, 1) for row in rows]
    with pytest.raises(ValueError, match=r"line 3: has eval_return where .* have episode_return before"):
        read_runs(table_of(tmp_path / "both.csv", rows))
    with pytest.raises(ValueError, match=r"line 2: field larger than field limit"):
        read_runs(table_of(tmp_path / "quote.csv", [("a", '"' + "x" * 200_000)]))


def test_runs_without_the_axis_do_not_count_as_ones_that_fell_behind(tmp_path):
    write_run(tmp_path / "runs/0", final=FINAL | {"eval/return": 100.0})
    theirs = table_of(tmp_path / "theirs.csv", [("theirs", "Hopper-v4", 0, "return", step, 99) for step in (0, 1000)])
    runs = load([tmp_path / "runs", theirs])
    look = make_look(runs, {"x": "wall_clock", "threshold": "50", "metric": "eval/return"}, "a command")
    drawings = {drawing.name: drawing for drawing in draw_all(runs, look, [])}
    assert {row["arm"] for row in drawings["reached"].rows} == {"SAC"}
    for name in ("reached", "curves"):
        (shown,) = drawings[name].figure.legends
        assert [text.get_text() for text in shown.get_texts()] == ["SAC"]


def test_arms_over_tasks_are_measured_from_untrained_policies_only(tmp_path):
    own = [
        ("a", task, 0, "return", step, value) for task in ("Ant-v4", "Hopper-v4") for step, value in ((0, 1), (10, 9))
    ]
    late = [("b", task, 0, "return", 10, 5) for task in ("Ant-v4", "Hopper-v4")]
    runs = load([table_of(tmp_path / "table.csv", own + late)])
    (drawing,) = [one for one in draw_all(runs, Look(("eval/return",)), []) if one.name == "aggregate"]
    assert {row["arm"]: row["iqm"] for row in drawing.rows} == {"a": 1.0, "b": 0.5}


def test_more_arms_than_a_panel_takes_are_all_drawn_where_nothing_splits_them(tmp_path):
    rows = [(f"arm{number}", "Ant-v4", 0, "return", step, number) for number in range(12) for step in (0, 1000)]
    notes = []
    drawings = draw_all(load([table_of(tmp_path / "many.csv", rows)]), Look(("eval/return",)), notes)
    (curves,) = [drawing for drawing in drawings if drawing.name == "curves"]
    assert len(curves.panels[0].lines) == 12 and notes == []
