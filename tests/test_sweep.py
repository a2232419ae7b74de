"""Presets: that they are the protocol's grids, what a sweep plans, and that it runs and continues."""

import importlib.util
import itertools
import json
import shutil
import sys

import hydra
import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from experiments import sweep
from experiments.records.run_directory import RunDirectory
from experiments.running import hydra_main as command_line
from experiments.running.config import CONFIG_DIRECTORY, _environments, register_schemas
from remac.validation import InvalidValueError

PRESETS = sorted(path.stem for path in (CONFIG_DIRECTORY / "experiment").glob("[a-z]*.yaml"))
RETRIES, EPSILONS = (1, 2, 4, 8), (1e-8, 1e-2, 1e-1, 1.0)


def samples_of(retries):
    return 16 if retries == 8 else 8


# The grids of the protocol: (M, N, what else varies).
GRIDS = {
    "return_and_entropy": {(m, samples_of(m)) for m in RETRIES},
    "adam_epsilon": {(m, samples_of(m), e) for m in RETRIES for e in EPSILONS},
    "learning_rate_vs_epsilon": {(4, 8, 1.0, rate) for rate in (1e-4, 3e-4, 5e-4, 1e-3)}
    | {(4, 8, 1e-8, rate) for rate in (1e-5, 3e-5, 5e-5, 1e-4)},
    "num_samples": {(m, n) for m in RETRIES for n in (8, 16)},
    "sgd_actor": {(m, 8, optimizer) for m in (1, 2, 4) for optimizer in ("adam", "sgd")},
    "policy_scale": {(m, 16) for m in RETRIES},
    "damping": {(m, samples_of(m), e) for m in RETRIES for e in (1e-8, 1.0)},
    "sparse": {(m, samples_of(m)) for m in RETRIES},
    "speed": {(4, 8), (4, 16)},
    "published": {(2, 8), (4, 8)},
    "saturation": {(4, 8, None, 2), (4, 8, None, -1), (4, 8, 2, 0), (1, 8, None, 2)},
    "stuck": {  # M, N, activation, norm, critics, bound of the mean, learning rate, epsilon, random first steps
        (4, 8, "relu", "none", 2, None, 3e-4, 1e-8, 1000),
        (4, 8, "tanh", "none", 2, None, 3e-4, 1e-8, 1000),
        (4, 8, "relu", "layer", 2, None, 3e-4, 1e-8, 1000),
        (4, 8, "relu", "none", 5, None, 3e-4, 1e-8, 1000),
        (4, 8, "relu", "none", 2, 2, 3e-4, 1e-8, 1000),
        (4, 8, "relu", "none", 2, None, 1e-4, 1e-8, 1000),
        (4, 8, "relu", "none", 2, None, 3e-4, 1e-2, 1000),
        (4, 8, "relu", "none", 2, None, 3e-4, 1e-8, 10000),
        (4, 4, "relu", "none", 2, None, 3e-4, 1e-8, 1000),
        (4, 32, "relu", "none", 2, None, 3e-4, 1e-8, 1000),
    },
    "risk_objectives": {(8, 16, objective) for objective in ("lower_tail_mean:0.25", "median", "mean", "max")},
    "max_at_k_estimators": {
        (k, n, estimator)
        for n, k in itertools.product((4, 8, 16, 32), RETRIES)
        for estimator in (
            ("maxpo", "pkpo", "pkpo_leave_one_out", "pkpo_leave_one_out_minus_one")
            + (("rloo", "grpo") if k == 1 else ())
        )
        if k < n
    },
    "budget": {(m, n) for m in (2, 4) for n in (2, 4, 8, 16, 32) if m <= n},
    "schedule": {(1, 16, None), (8, 16, None), (8, 16, 1), (1, 16, 8)},
    "gradient_length": {(1, 16, e, "own") for e in (1e-8, 0.1)}
    | {(8, 16, e, length) for e in (1e-8, 0.1) for length in ("own", "mean")},
    "tune_sac": set(),
    "tune_learning_rate": {(m, samples_of(m), rate) for m in RETRIES for rate in (1e-4, 2e-4, 3e-4, 5e-4, 1e-3)},
}
VARIED = {
    "adam_epsilon": ["actor_adam_epsilon"],
    "learning_rate_vs_epsilon": ["actor_adam_epsilon", "learning_rate"],
    "sgd_actor": ["actor_optimizer"],
    "damping": ["actor_adam_epsilon"],
    "saturation": ["mean_max", "log_std_max"],
    "stuck": [
        *("activation", "critic_norm", "num_critics", "mean_max", "learning_rate", "actor_adam_epsilon"),
        "prefill_env_steps",
    ],
    "schedule": ["num_retries_end"],
    "gradient_length": ["actor_adam_epsilon", "gradient_length"],
    "risk_objectives": ["objective"],
    "max_at_k_estimators": ["estimator"],
    "tune_learning_rate": ["learning_rate"],
}
TASKS = {"learning_rate_vs_epsilon": "swimmer", "sparse": "sparse_reacher"}
OF_EPISODES = ("risk_objectives", "max_at_k_estimators")  # presets of OrderGrad, on the suite risk
OTHERS = {  # agents beside ReMAC
    "return_and_entropy": {"sac", "ppo"},
    "sparse": {"sac", "td3"},
    "speed": {"sac"},
    "published": {"sac"},
    "tune_sac": {"sac"},
}
NUM_OTHERS = {"tune_sac": 16}  # where these have several arms


@pytest.fixture
def make_plan(tmp_path):
    register_schemas()
    ConfigStore.instance().store(name="sweep_schema", node=sweep.SweepConfig)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):

        def plan(name, *overrides):
            config = hydra.compose("sweep", [f"experiment={name}", f"directory={tmp_path}", *overrides])
            return sweep.plan(config, name, tmp_path)

        yield plan


# Presets of many arms, and those that are others with one thing changed.
LARGE = ("max_at_k_estimators", "tune_learning_rate", "adam_epsilon", "learning_rate_vs_epsilon")
ALIKE = ("damping", "num_samples", "budget", "schedule", "sgd_actor", "sparse", "policy_scale")


def test_every_preset_has_its_grid_written_here():
    assert set(PRESETS) == set(GRIDS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE + ALIKE)) for name in PRESETS]
)
def test_preset_is_the_protocols_grid(make_plan, name):
    runs = make_plan(name, "scale=paper", "seeds=[1]", f"tasks=[{TASKS.get(name, 'half_cheetah')}]")
    main = "ordergrad" if name in OF_EPISODES else "remac"
    keys = ("num_retries", "num_samples", *VARIED.get(name, []))
    configs = [run.job.config for run in runs]
    agents = {config["arm"]: config["agent"] for config in configs}
    grid = {
        tuple((config | config["agent"])[key] for key in keys) for config in configs if config["agent"]["name"] == main
    }
    assert grid == GRIDS[name]
    others = OTHERS.get(name, set())
    assert len(runs) == len(GRIDS[name]) + NUM_OTHERS.get(name, len(others))
    assert {agent["name"] for agent in agents.values()} == ({main} if grid else set()) | others
    for run in runs:
        assert run.job.config["experiment"] == name
        if "actor_adam_epsilon" not in VARIED.get(name, []):
            assert run.job.config["agent"].get("actor_adam_epsilon", 1e-8) == 1e-8


@pytest.mark.slow
def test_the_protocols_lengths_on_brax(make_plan):
    (run,) = make_plan("speed", "suite=brax", "scale=paper", "arms=[m4_n16]", "seeds=[3]")
    config = run.job.config
    assert (run.job.env.name, config["arm"], config["seed"]) == ("brax/halfcheetah", "m4_n16", 3)
    assert (config["total_env_steps"], config["num_envs"], config["updates_per_round"]) == (3_000_000, 128, 128)
    assert (config["prefill_env_steps"], config["num_eval_episodes"]) == (10_000, 128)
    assert (config["agent"]["batch_size"], config["agent"]["learning_rate"], config["agent"]["gamma"]) == (
        512,
        1e-4,
        0.98,
    )


def test_tuning_seeds_are_never_reported():
    presets = {name: yaml.safe_load((CONFIG_DIRECTORY / "experiment" / f"{name}.yaml").read_text()) for name in PRESETS}
    scales = yaml.safe_load((CONFIG_DIRECTORY / "experiment" / "_scales.yaml").read_text())
    reported = {seed for scale in scales.values() for seed in scale["seeds"]}
    tuning = presets["tune_learning_rate"]["seeds"]
    assert len(tuning) == 3 and len(scales["paper"]["seeds"]) == 10
    assert not reported & set(tuning)
    assert not {
        seed for preset in presets.values() for seed in preset.get("seeds", []) if preset["seeds"] != tuning
    } & set(tuning)


def test_a_sweep_takes_tasks_of_a_suite_that_cannot_list_them(make_plan):
    runs = make_plan("damping", "seeds=[1]", "arms=[m1_eps1]", "suite=gymnasium", "tasks=[Pendulum-v1]")
    assert [run.job.env.name for run in runs] == ["gymnasium/Pendulum-v1"]


def test_a_task_may_be_named_with_its_suite(make_plan):
    runs = make_plan("published", "suite=mujoco", "tasks=[mujoco/hopper,walker2d]", "arms=[m4]", "seeds=[0]")
    assert [run.job.env.name for run in runs] == ["mujoco/hopper", "mujoco/walker2d"]
    assert runs[0].directory.parts[-3:] == ("hopper", "m4", "seed0")


def test_tasks_follow_the_scale(make_plan):
    runs = make_plan("damping", "seeds=[1]", "arms=[m1_eps1]", "scale=laptop")
    assert [run.job.env.name for run in runs] == ["mujoco/half_cheetah", "mujoco/hopper", "mujoco/reacher"]
    assert len(make_plan("damping", "seeds=[1]", "arms=[m1_eps1]", "scale=paper")) == 8


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["scale=huge"], ["scale=huge", "paper", "laptop", "smoke"]),
        (["suite=atari"], ["suite=atari", "mujoco", "brax"]),
        (["suite=probe"], ["tasks=None: must be given", "probe"]),
        (["suite=gymnasium", "tasks=[Pendulm-v1]"], ["env=gymnasium/Pendulm-v1: is not registered"]),
        (["tasks=[hoper]"], ["tasks=hoper", "mujoco/hopper", "suite=mujoco lists all"]),
        (["arms=[m3]"], ["arms=m3", "sac", "m8"]),
        (["memory_gib=0"], ["memory_gib=0"]),
        (['overrides=["seed=3"]'], ["seed=3", "itself"]),
        (["seeds=[-1]"], ["seed=-1", "at least 0"]),
        (["seeds=[]"], ["seeds=[]: must name at least one"]),
        (["arms=[]"], ["arms=[]: must name at least one"]),
        (["tasks=[]"], ["tasks=[]: must name at least one"]),
        (["seeds=[1,2,1]"], ["seeds=[1, 2, 1]: must name each once, not 1 twice"]),
    ],
)
def test_bad_input_is_refused(make_plan, overrides, expected):
    with pytest.raises(InvalidValueError) as error:
        make_plan("return_and_entropy", *overrides)
    for part in expected:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["experiment: must be given, as experiment=<name>", "adam_epsilon"]),
        (["experiment=fig7"], ["experiment=fig7", "adam_epsilon", "tune_learning_rate"]),
        (["experiment=speed", "scal=smoke"], ["scal=smoke", "no such key", "scale"]),
        (["experiment=speed", 'overrides=["agent.lr=1"]'], ["agent.lr=1: no such key; there are name, learning_rate"]),
        (["experiment=speed", "seeds=[x]"], ["seeds"]),
        (["experiment=speed", "overrides=[num_envs=4]"], ["overrides=[num_envs=4]", "quotes around"]),
    ],
)
def test_bad_command_lines_are_one_line(monkeypatch, capsys, tmp_path, arguments, expected):
    status, out, err = call(monkeypatch, capsys, tmp_path, arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1), err
    for part in expected:
        assert part in err
    assert not list(tmp_path.iterdir())


def call(monkeypatch, capsys, directory, arguments):
    ConfigStore.instance().store(name="sweep_schema", node=sweep.SweepConfig)
    GlobalHydra.instance().clear()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["sweep.py", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command_line.run("sweep", sweep.main)
    out, err = capsys.readouterr()
    return stop.value.code, out, err


@pytest.mark.slow
def test_a_sweep_runs_draws_and_continues(monkeypatch, capsys, tmp_path):
    arguments = ["experiment=adam_epsilon", "scale=smoke", "directory=runs", 'overrides=["agent.hidden_sizes=[8]"]']
    # Two arms of one program.
    status, out, err = call(monkeypatch, capsys, tmp_path, [*arguments, "arms=[m4_eps1]"])
    assert status == 0, err
    run = tmp_path / "runs" / "half_cheetah" / "m4_eps1" / "seed1"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["env_steps"] == 96
    assert list((tmp_path / "runs" / "figures").glob("*.png"))
    before = (run / "metrics.csv").read_bytes()

    status, out, err = call(monkeypatch, capsys, tmp_path, [*arguments, "arms=[m4_eps1,m4_eps1e-8]"])
    assert status == 0, err
    assert out.count("has finished already") == 1
    assert (run / "metrics.csv").read_bytes() == before
    plan = json.loads((tmp_path / "runs" / "plan.json").read_text())
    assert (plan["experiment"], plan["suite"], plan["scale"]) == ("adam_epsilon", "mujoco", "smoke")
    assert [cell["arm"] for cell in plan["runs"]] == ["m4_eps1", "m4_eps1e-8"]
    assert all((tmp_path / "runs" / cell["directory"] / "summary.json").is_file() for cell in plan["runs"])

    status, _, err = call(monkeypatch, capsys, tmp_path, [*arguments[:3], 'overrides=["agent.hidden_sizes=[9]"]'])
    assert status == 2 and "agent.hidden_sizes=[9]" in err and "[8]" in err and len(err.splitlines()) == 1


def test_a_sweep_that_is_continued_has_the_models_that_its_runs_keep(make_plan, tmp_path):
    """The file that its first command named is no more."""
    model = tmp_path / "p.xml"
    assets = importlib.util.find_spec("gymnasium").submodule_search_locations[0]
    shutil.copy(f"{assets}/envs/mujoco/assets/hopper.xml", model)
    asked = ["suite=mujoco", "tasks=[hopper]", "arms=[m8_eps1]", "seeds=[1]"]
    asked.append(f"overrides=['+env.options.xml_file={model}']")
    (one,) = make_plan("damping", *asked)
    RunDirectory(one.directory, one.job.config, inputs=one.job.inputs).close()
    model.unlink()
    _environments.clear()
    (again,) = make_plan("damping", *asked)
    assert again.job.inputs == one.job.inputs != {}
