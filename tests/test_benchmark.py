import importlib.util
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import SAC, ReMAC
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import installing
from experiments.benchmark import program as program_suite
from experiments.benchmark.profile import own_times
from experiments.benchmark.timing import busy_share, device_trace, kernel_summary
from experiments.benchmark.update import update_flops
from experiments.records.provenance import provenance
from remac.validation import InvalidValueError


def test_flops_are_those_counted_by_hand():
    """One unit of width one: every product is one multiplication and one addition per state."""
    tiny = {"hidden_sizes": (1,), "batch_size": 1, "num_critics": 1}
    sac = SAC.create(1, 1, **tiny)
    # Policy 1 + 2, no gradient by the observation: 3 + 3 + 2; critic 1 + (1 + 1), actions' gradient 2: 5.
    # Next value: 3 + 3. Critic: 3 forwards, 3 for weights, 1 between its layers.
    assert update_flops(sac) == 2 * (8 + 5 + 6 + 7)
    remac = ReMAC.create(1, 1, num_samples=8, num_retries=4, **tiny)
    assert update_flops(remac) == 2 * (8 + (1 + 8 * 2 + 5 * 2) + 6 + 7)
    # One pass of both states instead of two.
    assert update_flops(SAC.create(1, 1, critic_norm="batch", **tiny)) == 2 * (8 + 5 + 3 + 2 * 7)
    # Critic 1 + (1 + 2); its gradient 3. Next value 3 + 4. Critic 4 + 4 + 2.
    assert update_flops(SAC.create(1, 1, critic_head="categorical", num_atoms=2, **tiny)) == 2 * (8 + 7 + 7 + 10)


def test_flops_of_remac_beside_sacs():
    sac = update_flops(SAC.create(17, 6))
    ratios = [
        update_flops(ReMAC.create(17, 6, num_samples=samples, num_retries=retries)) / sac
        for samples, retries in ((8, 4), (16, 8))
    ]
    assert ratios == pytest.approx([2.17, 3.45], abs=0.01)


@pytest.mark.parametrize(
    "suite",
    [
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("update", "profile", "start", "checkpoint", "growth")
        ),
        "estimators",
        "environment",
        "dmc",
    ],
)
def test_suites_write_what_they_print(suite, tmp_path, capsys):
    if suite == "dmc":
        pytest.importorskip("dm_control")
    out = tmp_path / "new" / "result.json"
    benchmark.main([f"suite={suite}", "size=small", "repeats=1", f"out={out}"])
    written = json.loads(out.read_text())
    assert written["commit"] == provenance()["commit"]
    assert written["machine"]["cores"] >= 1 and written["command"].startswith("python -m experiments.benchmark suite=")
    printed = capsys.readouterr().out
    for row in written["rows"]:
        assert all(name in printed for name in row)
        medians = [name.removesuffix("_min") for name in row if name.endswith("_min")]
        assert medians
        for name in medians:
            assert 0 < row[f"{name}_min"] <= row[name] <= row[f"{name}_max"]


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["train", "population"])
def test_trainings_are_timed(suite, tmp_path):
    out = tmp_path / "result.json"
    benchmark.main([f"suite={suite}", "size=small", "repeats=1", f"out={out}"])
    for row in json.loads(out.read_text())["rows"]:
        assert row["env_steps_per_second"] > 0 and row["gradient_steps_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "suite=: must be one of update, profile, environment"),
        (["suite=updates"], "suite=updates: must be one of"),
        (["suite=update", "size=tiny"], "size=tiny: must be one of full, small"),
        (["suite=update", "repeats=0"], "repeats=0: must be an integer of at least 1"),
        (["suite=update", "repeats=two"], "repeats=two: must be an integer"),
        (["suite=update", "suite=update"], "must be given once"),
        (["suite=update", "device=cpu"], "device=cpu: no such key"),
        (["update"], "no such key"),
        (["suite=peers", "peers=cleanrl"], "peers=cleanrl: must be one of sbx"),
        (["suite=update", "peers=sbx"], "is for suite=peers only"),
        (["suite=environment", "tasks=mujoco/chess"], "tasks=mujoco/chess: must be one of mujoco/"),
        (["suite=accelerator"], "needs an accelerator"),
        (["suite=accelerator", "members=40,41"], "members=41: must be one of 1, 10, 40, 160"),
        (["suite=update", "out=tests/test_benchmark.py/x.json"], "is a file"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InvalidValueError) as error:
        benchmark.main(arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_peer_that_fails_is_reported(tmp_path, monkeypatch):
    from experiments.benchmark import peers

    monkeypatch.setattr(installing, "install", lambda directory, requirements: "no such package")
    monkeypatch.setattr(peers, "_measure", lambda *arguments: {"env_steps_per_second": 10.0})
    rows = peers.run("small", 2, ("rejax",), tmp_path)
    outcomes = [(row["agent"], row["who"], row["error"]) for row in rows]
    no_package = "no such package"
    of_sac = [("ours", ""), ("ours, split_batch", ""), ("rejax", no_package)]
    expected = [*(("sac", *who) for who in of_sac * 2), ("ppo", "ours", ""), ("ppo", "rejax", no_package)]
    assert outcomes == expected
    assert rows[1]["ours_over_peer"] == rows[0]["split_over_peer"] == 1.0
    assert "env_steps_per_second" not in rows[2] and "split_over_peer" not in rows[6]


@pytest.mark.slow
def test_a_peers_returns_stand_beside_ours(tmp_path, monkeypatch):
    from experiments.benchmark import peers

    monkeypatch.setattr(installing, "install", lambda directory, requirements: "no such package")
    theirs, ours = peers.run_returns("small", 1, tmp_path)
    assert (theirs["who"], theirs["error"]) == ("stable_baselines3", "no such package") and "return" not in theirs
    assert ours["error"] == "" and ours["seconds"] > 0 and np.isnan(ours["ours_over_peer"])
    # Two rounds of 2,048 steps: the first two quarters are over after the first.
    assert ours["return_quarter"] == ours["return_half"] != ours["return_three_quarters"] == ours["return"]


@pytest.mark.slow
def test_members_variants_and_trainings_are_compared(tmp_path):
    out = tmp_path / "result.json"
    benchmark.main(["suite=accelerator", "size=small", "repeats=1", f"out={out}"])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["what"], row["variant"]) for row in rows] == [
        *(("speed", "default"), ("speed", "no command buffers")),
        *(("learning", "default"), ("learning", "precision high")),
        ("protocol", "default"),
    ]
    for row in rows:
        assert row["error"] == ""
        assert row["env_steps_per_second" if row["what"] == "speed" else "wall_seconds"] > 0
    default, high = (row["return"] for row in rows if row["what"] == "learning")
    assert default == high  # precision is the accelerator's


def test_a_setting_that_xla_does_not_know_is_reported(monkeypatch):
    from experiments.benchmark import accelerator

    monkeypatch.setitem(accelerator.VARIANTS, "default", accelerator.Variant("--xla_gpu_enable_no_such_thing=1"))
    (row,) = accelerator.measure_speed([accelerator.Case("sac", "default", 1)], accelerator.SMALL_TASK, 0.1, 2)
    assert "xla_gpu_enable_no_such_thing" in row["error"] and "env_steps_per_second" not in row


def test_own_times_leave_out_what_runs_inside():
    events = [(0, 10, "loop"), (1, 3, "dot"), (2, 1, "copy"), (5, 4, "dot"), (12, 2, "loop")]
    assert own_times(events) == {"loop": 10 - 3 - 4 + 2, "dot": 3 - 1 + 4, "copy": 1}


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), min_size=1, max_size=12))
def test_busy_share_counts_overlaps_once(runs):
    intervals = [(float(start), float(start + length)) for start, length in runs]
    busy = {instant for start, length in runs for instant in range(start, start + length)}
    assert busy_share(intervals) == pytest.approx(len(busy) / (max(busy) + 1 - min(busy)))


def test_the_share_of_kernels_is_read_from_a_profile(tmp_path):
    """Two streams of a GPU; what the host does, and the lines that group kernels by operation, do not count."""
    profile = """
        planes { name: "/host:CPU" lines { name: "Stream of python" events { offset_ps: 0 duration_ps: 90000000 } } }
        planes {
          name: "/device:GPU:0"
          lines { name: "XLA Ops" events { offset_ps: 0 duration_ps: 50000000 } }
          lines {
            name: "Stream #13(Compute)" timestamp_ns: 1000
            events { offset_ps: 0 duration_ps: 2000000 } events { offset_ps: 8000000 duration_ps: 2000000 }
          }
          lines { name: "Stream #14(Compute)" timestamp_ns: 2000 events { offset_ps: 0 duration_ps: 2000000 } }
        }"""
    (tmp_path / "host.xplane.pb").write_bytes(jax.profiler.ProfileData.text_proto_to_serialized_xspace(profile))
    assert kernel_summary(tmp_path, 2) == pytest.approx({"kernels": 3 / 2, "kernel_share": (3 + 2) / 10})
    with device_trace(tmp_path / "cpu"):
        jax.block_until_ready(jax.numpy.ones(3) + 1)
    assert kernel_summary(tmp_path / "cpu", 2) == {}


def test_kernels_are_counted_as_often_as_loops_turn():
    program = """
HloModule jit_f
%fused (p: f32[3]) -> f32[3] {
  %p = f32[3]{0} parameter(0)
  ROOT %e = f32[3]{0} exponential(%p)
}
%gemm (p: f32[3,3]) -> f32[3,3] {
  %p = f32[3,3]{1,0} parameter(0)
  ROOT %d = f32[3,3]{1,0} dot(%p, %p), lhs_contracting_dims={1}, operand_precision={highest,highest}
}
%inner (t: (s32[], f32[3])) -> (s32[], f32[3]) {
  %t = (s32[], f32[3]{0}) parameter(0)
  %x = f32[3]{0} get-tuple-element(%t), index=1
  %input_reduce_fusion = f32[3]{0} fusion(%x), kind=kInput, calls=%fused
  ROOT %r = (s32[], f32[3]{0}) tuple(%x, %input_reduce_fusion)
}
%outer (t: (s32[], f32[3])) -> (s32[], f32[3]) {
  %t = (s32[], f32[3]{0}) parameter(0)
  %w = (s32[], f32[3]{0}) while(%t), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
  %g = f32[3]{0} fusion(%w), kind=kCustom, calls=%fused, backend_config={"kind":"__triton_gemm"}
  %h = f32[3,3]{1,0} fusion(%g), kind=kCustom, calls=%gemm, backend_config={"kind":"__triton_gemm"}
  ROOT %copy.1 = f32[3]{0} copy(%h)
}
ENTRY %main (a: f32[3]) -> f32[3] {
  %a = f32[3]{0} parameter(0)
  %v = (s32[], f32[3]{0}) while(%a), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"8"}}
  ROOT %loop_add_fusion = f32[3]{0} fusion(%v), kind=kLoop, calls=%fused
}
"""
    turn = {"products": 2, "float32_products": 1, "copies": 1, "reductions": 5}
    assert program_suite.kernels(program, 8) == turn
    assert program_suite.kernels(program) == {kind: 8 * number for kind, number in turn.items()} | {"others": 1}


def test_a_kernel_counts_for_the_innermost_part_that_wrote_it():
    program = """
ENTRY %main (a: f32[3]) -> f32[3] {
  %a = f32[3]{0} parameter(0)
  %minus = f32[3]{0} negate(%a), metadata={op_name="x" stack_frame_id=3}
  %copy = f32[3]{0} copy(%minus)
  ROOT %other = f32[3]{0} negate(%copy), metadata={op_name="x" stack_frame_id=1}
}

FileNames
1 "/somewhere/agents/actor_critic.py"
2 "/somewhere/optax/_src/update.py"

FunctionNames
1 "ActorCritic.update_critics"
2 "apply_updates"
3 "main"

FileLocations
1 {file_name_id=1 function_name_id=3 line=1 end_line=1 column=1 end_column=2}
2 {file_name_id=1 function_name_id=1 line=2 end_line=2 column=1 end_column=2}
3 {file_name_id=2 function_name_id=2 line=3 end_line=3 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
"""
    assert program_suite.origins(program) == {"optimisers": 1, "rest": 2}
    assert program_suite.origins(program.replace("stack_frame_id=3", "stack_frame_id=2")) == {"critics": 1, "rest": 2}


@pytest.mark.parametrize("agent", ["sac", "remac 8,4", "td3", "ppo"])
def test_every_agent_that_is_compiled_for_a_gpu_can_be_traced(agent):
    """Without the compiler for it, which few machines have."""
    for make in (program_suite._learn, program_suite._act):
        function, arguments, _, _ = make(agent, 2)
        assert jax.tree.leaves(jax.eval_shape(function, *arguments))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs JAX's CUDA plugin")
def test_a_gradient_step_on_a_gpu_stays_as_short_as_it_is():
    """Compiled for a GPU, without one."""
    most = {("sac", 1): 76, ("sac", 40): 70, ("td3", 1): 66, ("ppo", 1): 61}
    most |= {("remac 8,4", 1): 79, ("remac 8,4", 40): 77}
    rows = program_suite.run("small", 1)
    assert {(row["of"], row["members"]) for row in rows} == most.keys()
    for row in rows:
        assert row["error"] == "" and row["from_host"] == 0
        assert row["kernels"] <= most[row["of"], row["members"]]
        assert row["kernels"] == sum(row[f"in_{part}"] for part in (*program_suite.PARTS, "rest"))
        if row["of"] in ("sac", "remac 8,4"):
            # Values for the actor: two layers forward and two back; the last one is no product, having one output.
            assert row["float32_products"] == 4 < row["products"]
            assert row["donated_mib"] > 0.99 * row["argument_mib"]
            assert row["temporary_mib"] / row["members"] < {"sac": 2.5, "remac 8,4": 8.25}[row["of"]]
