"""A policy that was taken away acts as the policy does, with nothing of this project loaded."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from slow import fast_are

import experiments.exporting.formats as formats
from agents import AGENTS
from experiments import export
from experiments.exporting.steps import ActionRange
from experiments.records.run_directory import RunDirectory
from experiments.running.config import compose_job
from remac.policies import normalization
from remac.policies.policy import Policy, save_policy

OBS, ACT = 5, 3
ACTIVATIONS = ("elu", "gelu", "relu", "swish", "tanh")
KINDS = [(agent, norm) for agent in ("remac", "sac", "td3") for norm in ("none", "layer", "batch")]
KINDS += [(agent, norm) for agent in ("ppo", "ordergrad") for norm in ("none", "layer")]
RANGE = ActionRange(np.float32([-1, -3, 10]), np.float32([1, -1, 10.5]))


def seen_observations(count):
    """Of very different sizes, one of them almost always the same, as contact forces are."""
    rows = np.random.default_rng(0).normal(size=(count, OBS)).astype(np.float32)
    rows = rows * np.float32([1, 100, 0.01, 1, 0]) + np.float32([0, 1000, -3, 0, 7])
    rows[count // 2, 3:] = 500  # which the clip catches
    return rows


def make_policy(agent):
    """A policy of random numbers."""
    policy, rng = agent.policy(jax.eval_shape(agent.init, jax.random.key(0))), np.random.default_rng(1)

    def draw(path, leaf):
        scale = 2 / np.sqrt(leaf.shape[0]) if len(leaf.shape) == 2 else 0.3
        drawn = rng.normal(0, scale, leaf.shape)
        return np.asarray(1 + np.abs(drawn) if "variance" in str(path) else drawn, leaf.dtype)

    parameters = jax.tree_util.tree_map_with_path(draw, policy.parameters)
    seen = seen_observations(500)[:, : policy.observation_size]
    normalizer = normalization.update(normalization.init(policy.observation_size), seen)
    return dataclasses.replace(policy, parameters=parameters, normalizer=normalizer)


@pytest.mark.parametrize("kinds", fast_are(1, [slice(0, None, 2), slice(1, None, 2)]), ids=["even", "odd"])
@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_kind_of_policy_acts_the_same_from_its_files(tmp_path, name, kinds):
    chosen = formats.FORMATS[name]
    for package in chosen.needs:
        pytest.importorskip(package)
    observation = seen_observations(200)
    for number, (agent, norm) in list(enumerate(KINDS))[kinds]:
        settings = {"activation": ACTIVATIONS[number % 5]} | ({} if norm == "none" else {"policy_norm": norm})
        if agent == "remac":
            settings |= {"mean_max": 2.0, "normalize_observations": norm != "batch"}
        if agent == "ordergrad":
            settings["episode_length"] = 5
        policy = make_policy(AGENTS[agent].create(OBS, ACT, hidden_sizes=(16, 16), **settings))
        for file, content in chosen.write(policy, RANGE).items():
            (tmp_path / file).write_bytes(content)
        act, expected = chosen.load(tmp_path), np.asarray(jax.jit(Policy.__call__)(policy, observation))
        assert np.ptp(expected, axis=0).max() > 0.2, "the observation matters"
        action = (act(observation) - RANGE.centre) / RANGE.half
        # 10 to 10.5 in float32 is resolved to 4e-6 of half of it.
        np.testing.assert_allclose(action, expected, rtol=0, atol=1e-5, err_msg=f"{agent} {settings}")
        np.testing.assert_allclose(act(observation[:1]), act(observation)[:1], rtol=0, atol=1e-5)
        assert (act(observation * 1e3) <= RANGE.high).all() and (act(observation * 1e3) >= RANGE.low).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a task whose actions are between -3 and 3, with a policy that nothing has trained."""
    directory = tmp_path_factory.mktemp("run") / "a, b=c"
    job = compose_job(["env=mujoco/inverted_pendulum", "agent.hidden_sizes=[8]", "agent.policy_norm=layer"])
    RunDirectory(directory, job.config).close()
    save_policy(make_policy(job.agent), directory / "policy", env_steps=7)
    return directory


ALONE = """
import json, sys, numpy as np
from policy import Policy
assert not {"jax", "flax", "remac", "experiments"} & set(sys.modules)
contract = json.load(open("contract.json"))
low, high = (np.array(contract["input"][f"seen_{side}"], np.float32) for side in ("low", "high"))
print(json.dumps(Policy()(np.stack([low, high])).tolist()), json.dumps(Policy()(low).tolist()))
"""


@pytest.mark.parametrize("normalize", [False, True])
def test_observations_of_another_size_are_refused(tmp_path, normalize):
    chosen = formats.FORMATS["numpy"]
    policy = make_policy(AGENTS["sac"].create(OBS, ACT, hidden_sizes=(4,), normalize_observations=normalize))
    for file, content in chosen.write(policy, RANGE).items():
        (tmp_path / file).write_bytes(content)
    exported = chosen.load(tmp_path)
    for shape in ((), (1,), (OBS, 1), (OBS + 1,)):
        for act in (policy, exported):
            with pytest.raises(ValueError, match=re.escape(f"observations are {list(shape)}; must be [..., {OBS}]")):
                act(np.zeros(shape, np.float32))
    assert policy(np.zeros((5, OBS))).shape == exported(np.zeros((5, OBS))).shape == (5, ACT)


def test_the_command_writes_what_numpy_alone_acts_with(run, run_module):
    status, out, err = run_module("export", f"run={run}", "format=numpy")
    assert status == 0, err
    folder = run / "export" / "numpy"
    assert [path for path in out.splitlines()[:3]] == [
        str(folder / name) for name in ("policy.npz", "policy.py", "contract.json")
    ]
    assert "on 1,000 observations of mujoco/inverted_pendulum" in out
    contract = json.loads((folder / "contract.json").read_text())
    assert (contract["task"], contract["agent"], contract["env_steps"]) == ("mujoco/inverted_pendulum", "remac", 7)
    assert contract["input"]["shape"] == ["batch", 4] and contract["output"]["shape"] == ["batch", 1]
    assert contract["input"]["names"] == ["qpos/slider", "qpos/hinge", "qvel/slider", "qvel/hinge"]
    assert contract["input"]["units"] == ["m", "rad", "m/s", "rad/s"]
    assert (contract["output"]["names"], contract["output"]["units"]) == (["ctrl/slide"], ["100 N"])
    assert (contract["output"]["low"], contract["output"]["high"]) == ([-3.0], [3.0])
    assert contract["check"]["observations"] == 1000 and 0 <= contract["check"]["largest_difference"] <= 1e-5
    assert len(contract["trained"]["commit"]) >= 40 and set(contract["files"]) == {"policy.npz", "policy.py"}

    command = [sys.executable, "-c", ALONE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    both, first = map(json.loads, done.stdout.replace("]] [", "]]\n[").splitlines())
    saved = export.load_run(run)
    observed = np.float32([contract["input"]["seen_low"], contract["input"]["seen_high"]])
    np.testing.assert_allclose(both, 3 * np.asarray(saved.policy(observed)), rtol=0, atol=3e-5)
    np.testing.assert_allclose(first, both[0], rtol=0, atol=3e-5)
    # What the environment makes of an action is what the file gives.
    np.testing.assert_array_equal(saved.env.action_range, [[-3], [3]])


@pytest.mark.parametrize(
    ("env", "observed", "acted"),
    [
        ("mujoco/reacher", [("cos(qpos/joint0)", "1"), ("fingertip-target_y", "m")], ("ctrl/joint1", "200 N m")),
        ("dmc/cartpole-swingup", [("position/0", None), ("velocity/1", None)], ("ctrl/slide", "10 N")),
        ("brax/halfcheetah", [("qpos/rootz", "m"), ("qvel/ffoot", "rad/s")], ("ctrl/ffoot", "30 N m")),
        ("probe/action", [("observation/0", None), ("observation/0", None)], ("action/0", None)),
    ],
)
def test_the_contract_names_every_number_and_its_unit(tmp_path, env, observed, acted):
    """Of three suites; of another one it numbers them."""
    if env.startswith("dmc"):
        pytest.importorskip("dm_control")
    job = compose_job([f"env={env}", "agent.hidden_sizes=[8]"])
    RunDirectory(tmp_path, job.config).close()
    shapes = job.agent.policy(jax.eval_shape(job.agent.init, jax.random.key(0)))
    save_policy(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), tmp_path / "policy")
    saved = export.load_run(tmp_path)
    ends = np.ones(saved.env.action_size, np.float32)
    seen = np.zeros((2, saved.env.observation_size), np.float32)
    contract = export.make_contract(saved, ActionRange(-ends, ends), seen)
    for side, size in (("input", saved.env.observation_size), ("output", saved.env.action_size)):
        assert len(contract[side]["names"]) == len(contract[side]["units"]) == size
    found = [list(zip(contract[side]["names"], contract[side]["units"], strict=True)) for side in ("input", "output")]
    assert [found[0][0], found[0][-1], found[1][-1]] == [*observed, acted]
    assert json.loads(json.dumps(contract)) == contract


def test_files_that_act_otherwise_are_not_written(run, run_module, tmp_path, monkeypatch):
    whole = formats.make_steps
    monkeypatch.setattr(formats, "make_steps", lambda *given: [s for s in whole(*given) if s.name != "layer_norm"])
    status, out, err = run_module("export", run, "format=numpy", f"out={tmp_path / 'out'}")
    assert (status, out) == (1, "") and len(err.splitlines()) == 1
    assert "not written, since its actions would differ" in err and "1e-05 is allowed" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["format=numpy"], ["run='': must be given"]),
        (["{run}", "run={run}", "format=numpy"], ["run=", "must be given once"]),
        (["nowhere", "format=numpy"], ["run=nowhere: is not a run directory"]),
        (["run=nowhere", "format=numpy"], ["run=nowhere: is not a run directory"]),
        (["run={run}", "format=torch"], ["format=torch", "numpy, onnx, stablehlo"]),
        (["run={run}"], ["format=", "numpy, onnx, stablehlo"]),
        (["run={run}", "format=onnx"], ["format=onnx: needs the package onnx", "pip install", "[export]"]),
        (["run={run}", "format=numpy", "out={run}/config.yaml"], ["out=", "must be a folder"]),
        (["run={run}", "format=numpy", "policy=best"], ["policy=best: ", "keeps none", "checkpoint.keep_best=true"]),
        (["run={run}", "format=numpy", "opset=3"], ["opset=3: no such key; there are run=, format=, out=, policy="]),
    ],
)
def test_bad_input_is_one_line(run, run_module, monkeypatch, arguments, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    status, out, err = run_module("export", *(argument.replace("{run}", str(run)) for argument in arguments))
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words), err
