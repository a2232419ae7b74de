import csv

import numpy as np
import pytest
from PIL import Image

from experiments import plot
from experiments.run_directory import RunDirectory
from remac.types import InvalidValueError


@pytest.fixture
def runs(tmp_path):
    """Two seeds of two arms, of which one seed stopped early."""
    for agent, level in (({"name": "sac"}, 0.0), ({"name": "remac", "num_retries": 4}, 100.0)):
        for seed in (0, 1):
            config = {"agent": agent, "env": {"suite": "probe", "task": "action"}, "seed": seed}
            run = RunDirectory(tmp_path / f"{agent['name']}{seed}", config)
            for step in range(0, 30 if (agent["name"], seed) == ("sac", 1) else 50, 10):
                run.log(step, step, {"eval/return": level + 10 * seed + step, "time/x": 1.0})
                run.log(step, step, {"actor/pre_tanh_std": 0.5, "actor/entropy": -1.0, "actor/gaussian_entropy": 1.0})
    return sorted(path for path in tmp_path.iterdir())


def test_figures_and_tables_hold_the_runs(runs, tmp_path, capsys):
    out = tmp_path / "figures"
    plot.main([*map(str, runs), f"out={out}"])
    assert capsys.readouterr().out.strip() == str(out / "curves.png")
    assert np.asarray(Image.open(out / "curves.png")).std() > 5
    assert (out / "curves.pdf").read_bytes().startswith(b"%PDF")
    with (out / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    returns = [row for row in rows if row["name"] == "eval/return"]
    assert len(returns) == 3 * 5 + 3
    assert {(row["arm"], row["seed"]) for row in rows} == {("SAC", "0"), ("SAC", "1"), ("M=4", "0"), ("M=4", "1")}
    with (out / "final.csv").open(newline="") as file:
        final = {(row["arm"], row["seed"]): row for row in csv.DictReader(file)}
    assert final["M=4", "1"]["eval/return"] == "150" and final["SAC", "1"]["eval/return"] == "30"
    assert "time/x" not in final["SAC", "0"]


def test_runs_that_differ_in_more_than_the_seed_are_not_merged(tmp_path):
    for number, epsilon in enumerate((1e-8, 0.1)):
        agent = {"name": "remac", "num_retries": 4, "actor_adam_epsilon": epsilon}
        run = RunDirectory(tmp_path / str(number), {"agent": agent, "env": {"suite": "a", "task": "b"}, "seed": 0})
        run.log(0, 0, {"eval/return": 1.0})
    runs = [plot.load_run(tmp_path / str(number)) for number in range(2)]
    plot.name_arms(runs)
    assert [run["arm"] for run in runs] == ["M=4 actor_adam_epsilon=1e-08", "M=4 actor_adam_epsilon=0.1"]


def test_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="is not a run directory"):
        plot.main([str(tmp_path)])
    with pytest.raises(InvalidValueError, match="at least one"):
        plot.main([])
