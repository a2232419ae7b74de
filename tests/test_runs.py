import json
import math
import shutil

import numpy as np
import pytest
from synthetic_runs import write_run, write_sweep

from experiments.comparing.loading import load
from experiments.comparing.runs import Run, as_ranges
from experiments.records.files import read_metrics
from experiments.running.config import compose_job
from remac.validation import InvalidValueError

RETURN = {"eval/return_stochastic": 10.0}


def test_folders_of_any_depth_are_searched_and_sorted_into_cells(tmp_path):
    write_run(tmp_path / "a/b/c", seed=2, final=RETURN)
    write_run(tmp_path / "a/d", seed=1, final=RETURN)
    for retries in (8, 1):
        write_run(tmp_path / f"e/m{retries}", retries=retries, final=RETURN)
    runs = load([tmp_path / "a", tmp_path / "e", tmp_path / "a/d"])
    assert [(cell.task, cell.arm, [run.seed for run in cell.runs]) for cell in runs.cells] == [
        ("mujoco/hopper", "SAC", [1, 2]),
        ("mujoco/hopper", "M=1", [1]),
        ("mujoco/hopper", "M=8", [1]),
    ]
    assert runs.notes == [] and len(runs.all) == 4


def test_final_values_are_of_the_last_tenth_and_means_of_all_gradient_steps(tmp_path):
    run = load([write_run(tmp_path / "a", final=RETURN, steps=range(0, 2001, 100))]).used[0]
    # Records at 1,900 and 2,000 are about the steps after 1,800.
    assert run.final("eval/return_stochastic") == pytest.approx(10.0)
    series = run.metrics["eval/return_stochastic"]
    assert run.mean("eval/return_stochastic") == pytest.approx(series.values[1:].mean())
    assert math.isnan(run.final("no such")) and math.isnan(run.mean("no such"))


def test_arms_are_named_by_the_configuration_or_by_what_differs(tmp_path):
    for number, epsilon in enumerate((1e-8, 0.1)):
        write_run(tmp_path / f"a{number}", retries=4, actor_adam_epsilon=epsilon, final=RETURN)
    write_run(tmp_path / "b", retries=8, final=RETURN, top={"arm": "m8", "experiment": "adam_epsilon"})
    runs = load([tmp_path])
    assert runs.arms == ["M=4 actor_adam_epsilon=1e-08", "M=4 actor_adam_epsilon=0.1", "m8"]
    assert runs.cells[0].variant == {"actor_adam_epsilon": 1e-8}
    # N = 16 comes with M = 8, and is no variant.
    assert all("num_samples" not in cell.variant for cell in runs.cells)


def test_an_arm_whose_retries_change_is_not_taken_for_one_whose_do_not(tmp_path):
    for retries, end in ((1, 8), (8, 1), (4, None)):
        write_run(tmp_path / f"m{retries}", retries=retries, num_retries_end=end)
    named = [(cell.title, cell.variant) for cell in load([tmp_path]).cells]
    assert named == [
        ("M=1 num_retries_end=8", {"num_retries_end": 8}),
        ("M=4 num_retries_end=None", {"num_retries_end": None}),
        ("M=8 num_retries_end=1", {"num_retries_end": 1}),
    ]


def test_equal_names_for_unequal_settings_stay_apart(tmp_path):
    for samples in (8, 16):
        write_run(tmp_path / str(samples), retries=4, num_samples=samples, final=RETURN, top={"arm": "m4"})
    assert load([tmp_path]).arms == ["m4 (num_samples=8)", "m4 (num_samples=16)"]


def test_unequal_names_for_equal_settings_are_one_arm(tmp_path):
    for seed, arm in ((1, "m4"), (2, "m4_eps1e-8")):
        write_run(tmp_path / arm, retries=4, seed=seed, final=RETURN, top={"arm": arm})
    runs = load([tmp_path])
    assert runs.arms == ["m4"] and len(runs.cells[0].runs) == 2
    assert runs.notes == ["mujoco/hopper: arms m4, m4_eps1e-8 have the same settings: one arm, m4"]


def test_how_a_run_is_saved_logged_and_given_up_is_no_setting_of_the_arm(tmp_path):
    new = {"checkpoint": {"keep": 2, "replay": True}, "resume": "auto", "logger": {"name": "none"}}
    for seed, top in enumerate((None, new, {**new, "checkpoint": {"keep": 5}}, {"max_diverged_fraction": 0.01})):
        write_run(tmp_path / str(seed), seed=seed, final=RETURN, top=top)
    runs = load([tmp_path])
    assert [(cell.arm, cell.variant, len(cell.runs)) for cell in runs.cells] == [("SAC", {}, 4)]


def test_the_name_of_a_setting_does_not_tell_equal_values_apart(tmp_path):
    for seed, setting in enumerate((None, "modern", "protocol")):
        write_run(tmp_path / str(seed), retries=4, seed=seed, final=RETURN, top=setting and {"setting": setting})
    assert [(cell.arm, len(cell.runs)) for cell in load([tmp_path]).cells] == [("M=4", 3)]


def test_options_that_change_training_make_another_task(tmp_path):
    for name, options in (("a", {}), ("b", {"stagger_first_episodes": False}), ("c", {"stagger_first_episodes": True})):
        env = {"suite": "mujoco", "task": "hopper", "options": options}
        write_run(tmp_path / name, seed=ord(name), final=RETURN, top={"env": env})
    cells = load([tmp_path]).cells
    assert {cell.task: len(cell.runs) for cell in cells} == {
        "mujoco/hopper": 2,
        "mujoco/hopper stagger_first_episodes=True": 1,
    }


@pytest.mark.parametrize(
    "name", ["mujoco/hopper", "dmc/hopper-hop", "gymnasium/Pendulum-v1", "brax/hopper", "risk/reacher", "probe/action"]
)
def test_all_agents_are_compared_on_one_task(name, tmp_path):
    for setting in ("modern", "protocol") if name == "brax/hopper" else ("modern",):
        arguments = [f"env={name}", f"setting={setting}", "total_env_steps=1000000"]
        jobs = [compose_job([*arguments, f"agent={agent}"]) for agent in ("remac", "sac", "ppo", "ordergrad")]
        (task,) = {Run(tmp_path, job.config, {}, None, {}).task for job in jobs}
        assert task.startswith(name) and "stagger" not in task


def test_what_the_setting_staggers_is_the_task_itself(tmp_path):
    tuned = {"modern": {"training": {"stagger_first_episodes": True}, "ppo": {"training": {}}}}
    for seed, staggers in enumerate((True, False)):
        env = {"suite": "mujoco", "task": "hopper", "options": {"stagger_first_episodes": staggers}, "tuned": tuned}
        write_run(tmp_path / str(seed), seed=seed, final=RETURN, top={"env": env, "setting": "modern"})
    tasks = {cell.task for cell in load([tmp_path]).cells}
    assert tasks == {"mujoco/hopper", "mujoco/hopper stagger_first_episodes=False"}


@pytest.mark.parametrize(
    ("old", "new", "kept", "why"),
    [
        ("finished", "finished", "new", "the newest"),
        ("finished", None, "old", "finished"),
        ("stopped", "interrupted", "new", "the newest"),
    ],
)
def test_of_two_runs_of_a_seed_one_counts(tmp_path, old, new, kept, why):
    for name, status, year in (("old", old, 2025), ("new", new, 2026)):
        write_run(tmp_path / name, status=status, final=RETURN, provenance={"started": f"{year}-01-01T00:00:00+00:00"})
    runs = load([tmp_path])
    assert [run.directory.name for run in runs.used] == [kept]
    left = "old" if kept == "new" else "new"
    assert runs.notes[0].startswith(f"{tmp_path / left}: same settings and seed 1 as {tmp_path / kept}, which is {why}")


def test_unfinished_and_failed_runs_are_kept_but_do_not_count(tmp_path):
    write_sweep(tmp_path, [{"final": RETURN}], seeds=(1, 2))
    write_run(
        tmp_path / "going", seed=3, status=None, final=RETURN, steps=range(0, 301, 100), top={"total_env_steps": 1000}
    )
    write_run(tmp_path / "failed", seed=4, status="stopped", reason="actor/loss is not finite", final=RETURN)
    runs = load([tmp_path])
    cell = runs.cells[0]
    assert [run.seed for run in cell.runs] == [1, 2, 3, 4] and [run.seed for run in cell.finished] == [1, 2]
    assert cell.by_seed("eval/return_stochastic") == {1: pytest.approx(10), 2: pytest.approx(10)}
    assert {run.status: run.reason for run in cell.runs[2:]} == {
        "unfinished": "no summary.json: still going, or killed",
        "stopped": "actor/loss is not finite",
    }
    assert any("going: unfinished at 300 env steps" in note for note in runs.notes)
    assert any("failed: stopped at 1,000 env steps" in note for note in runs.notes)


def test_odd_files_are_named(tmp_path):
    write_run(tmp_path / "good", final=RETURN)
    run = write_run(tmp_path / "torn", seed=2, final={**RETURN, "actor/entropy": math.nan}, status="stopped")
    with (run / "metrics.csv").open("a") as file:
        file.write("1000,1000,1.0,eval/return_stochastic,12.0\n1100,110")
    assert read_metrics(run)["eval/return_stochastic"][1][-1] == 12.0, "the pictures of a run leave the half line out"
    shutil.copytree(tmp_path / "good", tmp_path / "broken")
    (tmp_path / "broken/config.yaml").write_text("agent: [")
    (tmp_path / "empty").mkdir()
    runs = load([tmp_path / "good", tmp_path / "torn", tmp_path / "broken", tmp_path / "empty"])
    torn = runs.cells[0].runs[1]
    assert torn.final("eval/return_stochastic") == pytest.approx(12.0), "the later record of a step counts"
    assert math.isnan(torn.final("actor/entropy"))
    said = "\n".join(runs.notes)
    for part in (
        "torn: 11 non-finite values of actor/entropy",
        "torn/metrics.csv: its last line is cut short, left out; records are there twice, of which",
        "broken: config.yaml cannot",
    ):
        assert part in said
    assert "empty: no run in it" in said


def test_different_lengths_are_named_and_not_merged(tmp_path):
    write_run(tmp_path / "a", seed=1, final=RETURN)
    write_run(tmp_path / "b", seed=2, final=RETURN, steps=range(0, 2001, 100))
    runs = load([tmp_path])
    assert runs.arms == ["SAC total_env_steps=1000", "SAC total_env_steps=2000"]
    assert any("different lengths (1,000, 2,000 env steps)" in note for note in runs.notes)


def test_tuning_runs_and_their_seeds_are_never_reported(tmp_path):
    write_run(tmp_path / "tuned", seed=1, learning_rate=1e-3, final=RETURN, top={"experiment": "tune_learning_rate"})
    write_run(tmp_path / "same", seed=1, final=RETURN)
    write_run(tmp_path / "other", seed=2, final=RETURN)
    runs = load([tmp_path], keep_tuning=True)
    assert [run.directory.name for run in runs.used] == ["other"]
    assert any("1 tuning runs are left out" in note for note in runs.notes)
    assert any("1 runs are left out: their seeds" in note for note in runs.notes)
    assert len(load([tmp_path / "tuned"], keep_tuning=True).used) == 1


def test_what_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(InvalidValueError, match="does not exist"):
        load([tmp_path / "nowhere"])
    with pytest.raises(InvalidValueError, match="hold no run"):
        load([tmp_path])
    write_run(tmp_path / "a", final=RETURN)
    (tmp_path / "plan.json").write_text(json.dumps({"experiment": "x", "runs": [{"directory": "a"}]}))
    runs = load([tmp_path])
    assert len(runs.used) == 1 and not runs.plans
    assert any("plan.json: cannot be read (KeyError: 'task')" in note for note in runs.notes)


def test_a_hyperparameter_declared_later_had_its_default(tmp_path):
    """Runs made before it was there are seeds of the same arm; where it differs, they are not."""
    write_run(tmp_path / "before", seed=1, final=RETURN)
    write_run(tmp_path / "after", seed=2, final=RETURN, num_steps=1)
    write_run(tmp_path / "other", seed=3, final=RETURN, num_steps=3)
    cells = load([tmp_path]).cells
    assert sorted(sorted(run.seed for run in cell.runs) for cell in cells) == [[1, 2], [3]]
    assert all("num_steps=" in cell.arm for cell in cells)


def test_ranges():
    assert as_ranges([3, 1, 2, 7, 2]) == "1-3, 7" and as_ranges([]) == ""
    assert as_ranges(np.array([0])) == "0"


def test_links_are_followed_and_every_run_is_found_once(tmp_path):
    """A folder of links to runs, links to folders of runs, and a loop; what leads nowhere is named."""
    write_run(tmp_path / "disk/a", seed=1, final=RETURN)
    write_run(tmp_path / "disk/b/c", seed=2, final=RETURN)
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "one").symlink_to(tmp_path / "disk/a")
    (runs / "again").symlink_to(tmp_path / "disk/a")
    (runs / "folder").symlink_to(tmp_path / "disk/b")
    (tmp_path / "disk/b/up").symlink_to(runs)
    (runs / "self").symlink_to(runs / "self")
    (runs / "gone").symlink_to(tmp_path / "nowhere")
    loaded = load([runs])
    assert sorted(run.directory for run in loaded.all) == [runs / "again", runs / "folder/c"]
    assert loaded.notes == [f"{runs / 'gone'}: is a link to nothing", f"{runs / 'self'}: is a link to nothing"]
    assert [run.seed for run in load([tmp_path / "disk", runs / "one"]).used] == [1, 2]


@pytest.mark.parametrize(
    "where",
    [
        {
            "tuned": {
                "modern": {"all": {"tau": 0.1, "gamma": 0.9}, "sac": {"tau": 0.5}},
                "protocol": {"sac": {"tau": 1}},
            }
        },
        {"tuned": {"all": {"tau": 0.1, "gamma": 0.9}, "sac": {"tau": 0.5}}},
        {"sac": {"tau": 0.5, "gamma": 0.9}},
    ],
    ids=["now", "without settings", "before"],
)
def test_the_tasks_own_values_are_found(tmp_path, where):
    env = {"suite": "mujoco", "task": "hopper", "options": {}, **where}
    write_run(tmp_path / "run", final=RETURN, top={"env": env, "setting": "modern"})
    assert load([tmp_path]).used[0].tuned == {"tau": 0.5, "gamma": 0.9}
