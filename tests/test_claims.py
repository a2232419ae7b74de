import json

import pytest
from synthetic_runs import write_run, write_sweep

from experiments import claims
from experiments.comparing.claims import CLAIMS, check_all
from experiments.comparing.judgements import FAIL, NOT_ENOUGH, PASS, comparable
from experiments.comparing.loading import load
from remac.validation import InvalidValueError

RETRIES = (1, 2, 4, 8)
EPSILONS = (1e-8, 1e-2, 1e-1, 1.0)


def arms(metric, values, **settings):
    """Returns an arm per M, of which one metric has these final values."""
    return [{"retries": m, "final": {metric: v}, **settings} for m, v in zip(RETRIES, values, strict=False)]


def agent(name, value):
    return [{"name": name, "final": {"eval/return_stochastic": value}}]


def grid(at_one, at_eight):
    """Returns M = 1 and M = 8 at every epsilon, with these entropies."""
    return [
        {"retries": m, "actor_adam_epsilon": epsilon, "final": {"actor/entropy": value}}
        for m, values in ((1, at_one), (8, at_eight))
        for epsilon, value in zip(EPSILONS, values, strict=False)
    ]


RETURNS = arms("eval/return_stochastic", (999.0, 50.0, 90.0, 70.0))
CASES = [
    ("a", arms("actor/entropy", (-9.0, -5.0, -8.0, -1.0)), PASS),
    ("a", arms("actor/entropy", (-9.0, -5.0, -10.0, -1.0)), FAIL),
    ("a", arms("actor/entropy", (-9.0, -5.0, -8.0)), NOT_ENOUGH),
    ("a", arms("actor/entropy", (-9.0, -5.0, -10.0)), FAIL),
    ("a", arms("actor/entropy", (-9.0, -5.0, -8.0, -1.0))[1:], NOT_ENOUGH),
    ("a", arms("actor/entropy", (-9.0, -5.0, -8.0, -1.0), actor_adam_epsilon=1e-2), NOT_ENOUGH),
    ("a", arms("actor/entropy", (-9.0, -5.0, -8.0, -1.0), num_retries_end=2), NOT_ENOUGH),
    ("a", arms("actor/gaussian_entropy", (-9.0, -5.0, -8.0, -1.0)), NOT_ENOUGH),
    ("b", arms("actor/pre_tanh_std", (0.1, 0.2, 0.3, 0.4)), PASS),
    ("b", arms("actor/pre_tanh_std", (0.1, 0.3, 0.2, 0.4)), FAIL),
    ("b", arms("actor/pre_tanh_std", (0.1, 0.2)), NOT_ENOUGH),
    ("c", grid((-9, -8, -7, -6), (-5, -4, -3, -2)), PASS),
    ("c", grid((-9, -8, -7, -1), (-5, -4, -3, -2)), FAIL),
    ("c", grid((-9, -8, -7), (-5, -4, -3)), NOT_ENOUGH),
    ("c", grid((-9, -8, -7, -6), (-5,)), NOT_ENOUGH),
    ("d (SAC)", RETURNS + agent("sac", 80.0), PASS),
    ("d (SAC)", RETURNS + agent("sac", 95.0), FAIL),
    ("d (SAC)", RETURNS, NOT_ENOUGH),
    ("d (SAC)", RETURNS[:1] + agent("sac", 80.0), NOT_ENOUGH),
    ("d (SAC)", RETURNS[:2] + agent("sac", 95.0), NOT_ENOUGH),  # the best M could be missing
    ("d (PPO)", RETURNS + agent("ppo", 80.0), PASS),
    ("d (PPO)", RETURNS + agent("ppo", 95.0), FAIL),
    ("d (PPO)", RETURNS + agent("sac", 80.0), NOT_ENOUGH),
    ("e", arms("actor/raises_std", (0.4, 0.45, 0.5, 0.6)), PASS),
    ("e", arms("actor/raises_std", (0.4, 0.45, 0.5, 0.3)), FAIL),
    ("e", arms("actor/raises_std", (0.4, 0.45, 0.5)), NOT_ENOUGH),
    ("f (gradient)", arms("actor/grad_norm", (4.0, 3.0, 2.0, 1.0)), PASS),
    ("f (gradient)", arms("actor/grad_norm", (4.0, 3.0, 2.0, 2.5)), FAIL),
    ("f (gradient)", arms("actor/grad_norm", (4.0, 3.0)), NOT_ENOUGH),
    ("f (update)", arms("actor/update_norm", (1.0, 0.7, 0.9, 1.1)), PASS),
    ("f (update)", arms("actor/update_norm", (1.0, 0.9, 0.8, 0.7)), FAIL),
    ("f (update)", arms("actor/update_norm", (1.0, 0.9, 0.8)), NOT_ENOUGH),
]


def check(folder, name):
    return next(result for result in check_all(load([folder])) if result.claim.name == name)


@pytest.mark.parametrize(
    ("name", "chosen", "verdict"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_verdicts(tmp_path, name, chosen, verdict):
    result = check(write_sweep(tmp_path, chosen, seeds=(1, 2)), name)
    assert (result.verdict, result.tasks["mujoco/hopper"].verdict) == (verdict, verdict)


def test_every_claim_has_cases_of_every_verdict():
    assert {(name, verdict) for name, _, verdict in CASES} == {
        (claim.name, verdict) for claim in CLAIMS for verdict in (PASS, FAIL, NOT_ENOUGH)
    }


@pytest.mark.parametrize(("mean", "verdict"), [(91.0, PASS), (89.0, FAIL)])
def test_sac_may_be_one_standard_deviation_better(tmp_path, mean, verdict):
    """SAC's seeds reach 90, 100 and 110: their standard deviation is 10."""
    for seed, value in enumerate((90.0, 100.0, 110.0)):
        write_run(tmp_path / f"s{seed}", seed=seed, final={"eval/return_stochastic": value})
        for m in RETRIES:
            final = {"eval/return_stochastic": mean if m == 4 else 0.0, "eval/return": 1e6}
            write_run(tmp_path / f"m{m}_{seed}", retries=m, seed=seed, final=final)
    result = check(tmp_path, "d (SAC)")
    assert result.verdict == verdict
    assert result.tasks["mujoco/hopper"].comment == (
        f"the best on the other seeds (M=4 for 0-2) has {mean:g}, the bound 90"
    )


def test_of_several_arms_that_fit_the_plainest_is_judged(tmp_path):
    """What the agent declares counts as what is tuned for the task does; more seeds make nothing plainer."""
    decoys = ({"num_retries_end": 1}, {"target": "entropy", "mean_max": 1.0}, {"learning_rate": 1e-2})
    for m, value in ((1, -9.0), (2, -5.0), (4, -5.0), (8, -5.0)):
        for seed in range(3):
            for number, decoy in enumerate(decoys):
                values = {"num_retries_end": None, "target": "plain", "mean_max": None} | decoy
                final = {"actor/entropy": -99.0 if m > 1 else 0.0}
                write_run(tmp_path / f"a{number}_{m}_{seed}", retries=m, seed=seed, final=final, **values)
            if seed < 2:
                values = {"num_retries_end": None, "target": "plain", "mean_max": None}
                final = {"actor/entropy": value}
                write_run(tmp_path / f"plain_{m}_{seed}", retries=m, seed=seed, final=final, **values)
    assert check(tmp_path, "a").verdict == PASS


def test_the_best_of_equal_arms_does_not_pass_by_selection(tmp_path):
    """M = 8 has the highest mean, 12 where PPO has 11, from the luck of one seed, on which it is not chosen."""
    values = {2: (6.0, 9.0, 12.0), 4: (12.0, 6.0, 9.0), 8: (3.0, 30.0, 3.0)}
    for seed in range(3):
        for m, reached in values.items():
            write_run(tmp_path / f"{m}_{seed}", retries=m, seed=seed, final={"eval/return_stochastic": reached[seed]})
        write_run(tmp_path / f"ppo_{seed}", seed=seed, name="ppo", final={"eval/return_stochastic": 11.0})
    judgement = check(tmp_path, "d (PPO)").tasks["mujoco/hopper"]
    assert max(value.mean for value in judgement.values if value.name != "PPO") == 12.0, "by itself it would pass"
    # Without seed 1 it is M = 4 that is best.
    assert judgement.verdict == FAIL
    assert judgement.comment == "the best on the other seeds (M=8 for 0, 2, M=4 for 1) has 4, the bound 11"


@pytest.mark.parametrize(("last", "verdict"), [(0.91, PASS), (0.89, FAIL)])
def test_update_norms_may_fall_by_one_standard_deviation(tmp_path, last, verdict):
    for seed, value in enumerate((0.9, 1.0, 1.1)):
        for m, final in ((1, value), (8, last)):
            write_run(tmp_path / f"m{m}_{seed}", retries=m, seed=seed, final={"actor/update_norm": final})
    assert check(tmp_path, "f (update)").verdict == verdict


@pytest.mark.parametrize(("name", "length"), [("ppo", "rollout_length"), ("ordergrad", "episode_length")])
def test_an_agent_of_rollouts_is_compared_though_its_rounds_differ(tmp_path, name, length):
    final = {"eval/return_stochastic": 1.0}
    remac = {"retries": 4, "top": {"num_envs": 16, "updates_per_round": 32, "prefill_env_steps": 1000}}
    other = {"name": name, length: 8, "top": {"num_envs": 32, "updates_per_round": 1, "prefill_env_steps": 0}}
    for seed in (1, 2):
        write_run(tmp_path / f"remac_{seed}", seed=seed, final=final, **remac)
        write_run(tmp_path / f"{name}_{seed}", seed=seed, final=final, **other)
    kept, left_out = comparable(load([tmp_path]))
    assert {cell.kind for cell in kept.cells} == {"remac", name} and not left_out


def test_one_task_fails_a_claim_and_most_decide_against_ppo(tmp_path):
    for task, ppo, entropy in (
        ("mujoco/ant", 95.0, -1.0),
        ("mujoco/hopper", 1.0, -1.0),
        ("mujoco/walker2d", 1.0, -10.0),
    ):
        chosen = [
            {"retries": m, "final": {"actor/entropy": -9.0 if m == 1 else entropy, "eval/return_stochastic": 90.0}}
            for m in RETRIES
        ]
        write_sweep(tmp_path / task.replace("/", "_"), chosen + agent("ppo", ppo), seeds=(1, 2), tasks=(task,))
    entropy = check(tmp_path, "a")
    assert entropy.verdict == FAIL and {t: j.verdict for t, j in entropy.tasks.items()}["mujoco/ant"] == PASS
    ppo = check(tmp_path, "d (PPO)")
    assert ppo.verdict == PASS and ppo.tasks["mujoco/ant"].verdict == FAIL


def test_one_seed_and_unfinished_seeds_are_not_enough(tmp_path):
    chosen = arms("actor/entropy", (-9.0, -5.0, -8.0, -1.0))
    write_sweep(tmp_path, chosen, seeds=(1,))
    write_sweep(tmp_path / "going", chosen, seeds=(2,), status=None)
    result = check(tmp_path, "a")
    assert result.verdict == NOT_ENOUGH
    assert "fewer than 2 finished seeds with this metric: M=1, M=2, M=4, M=8" in result.tasks["mujoco/hopper"].comment


def test_the_arm_that_counts_has_the_tasks_values_and_the_protocols_samples(tmp_path):
    """Others of the same M and epsilon would fail the claim."""
    chosen = arms("actor/entropy", (-9.0, -5.0, -8.0, -1.0))
    chosen += arms("actor/entropy", (-9.0, -50.0, -80.0, -90.0), learning_rate=1e-4)
    chosen += [{"retries": 8, "num_samples": 8, "final": {"actor/entropy": -90.0}}]
    chosen += [{"retries": 1, "num_samples": 16, "final": {"actor/entropy": 0.0}}]
    chosen += arms("actor/entropy", (0.0, -50.0, -80.0, -90.0), actor_optimizer="sgd")
    chosen += arms("actor/entropy", (0.0, -50.0, -80.0, -90.0), objective="median")
    result = check(write_sweep(tmp_path, chosen, seeds=(1, 2)), "a")
    assert result.verdict == PASS and [value.mean for value in result.tasks["mujoco/hopper"].values][-1] == -1.0
    # The policy's scale is compared at N = 16.
    chosen = arms("actor/pre_tanh_std", (0.4, 0.3, 0.2, 0.1))
    chosen += arms("actor/pre_tanh_std", (0.1, 0.2, 0.3), num_samples=16)
    chosen[3]["final"] = {"actor/pre_tanh_std": 0.4}
    assert check(write_sweep(tmp_path / "b", chosen, seeds=(1, 2)), "b").verdict == PASS


@pytest.mark.parametrize("top", [{}, {"num_envs": 8}, {"updates_per_round": 8}])
def test_arms_that_train_differently_are_not_compared(tmp_path, top):
    chosen = arms("actor/entropy", (-9.0, -5.0, -8.0, -1.0))
    steps = range(0, 2001, 100)
    write_sweep(tmp_path / "long", chosen[:3], seeds=(1, 2), steps=steps)
    short = range(0, 1001, 100) if not top else steps
    write_sweep(tmp_path / "short", chosen[3:] if top else chosen, seeds=(1, 2), steps=short, top=top)
    # One seed of a longer training decides nothing.
    write_run(tmp_path / "one", retries=8, final={"actor/entropy": 0.0}, steps=range(0, 3001, 100))
    judgement = check(tmp_path, "a").tasks["mujoco/hopper"]
    assert judgement.verdict == NOT_ENOUGH and "with this metric: M=8" in judgement.comment
    assert "left out, since they train differently: " in judgement.comment and "M=8 " in judgement.comment
    assert [value.mean for value in judgement.values] == [-9.0, -5.0, -8.0]
    assert check(tmp_path / "short", "a").verdict == (NOT_ENOUGH if top else PASS)


def test_tables_of_curves_do_not_tell_enough_and_do_not_stand_in_the_way(tmp_path):
    """They are longer than the runs, and have arms of the same names."""
    write_sweep(tmp_path / "runs", arms("actor/entropy", (-9.0, -5.0, -8.0, -1.0)))
    rows = [f"ReMAC M=4,{task},{seed},actor/entropy,100000,9" for task in ("Hopper-v4", "Ant-v4") for seed in (0, 1)]
    (tmp_path / "theirs.csv").write_text("\n".join(["exp_name,env_name,seed,metric,env_step,value", *rows]))
    (result, *_) = check_all(load([tmp_path / "runs", tmp_path / "theirs.csv"]))
    assert [(task, one.verdict) for task, one in result.tasks.items()] == [
        ("mujoco/ant", NOT_ENOUGH),
        ("mujoco/hopper", PASS),
    ]
    untold = "not judged, since a table of curves tells neither epsilon nor N: ReMAC M=4 (theirs)"
    missing = "fewer than 2 finished seeds with this metric: M=1, M=2, M=4, M=8"
    assert result.tasks["mujoco/ant"].comment == f"{missing}; {untold}"
    assert result.tasks["mujoco/hopper"].comment.startswith(untold)


def test_what_decides_and_what_stands_beside_are_printed(tmp_path, capsys):
    chosen = arms("actor/entropy", (-9.0, -5.0, -8.0, -1.0))
    for arm in chosen:
        arm["final"]["actor/gaussian_entropy"] = -arm["retries"]
    write_sweep(tmp_path / "runs", chosen, seeds=(1, 2, 3))
    claims.main([str(tmp_path / "runs"), f"json={tmp_path / 'out/claims.json'}"])
    said = capsys.readouterr().out
    assert "exceeds that of M = 1: PASS\n   decided on actor/entropy, last 10%" in said
    assert "mujoco/hopper: pass: M=1 (N=8) -9 ± 0 (3 seeds), M=2 (N=8) -5 ± 0 (3 seeds)" in said
    assert "beside, actor/gaussian_entropy, last 10%: fail: M=1 (N=8) -1 ± 0" in said
    assert "above PPO on most tasks: NOT ENOUGH DATA" in said
    content = json.loads((tmp_path / "out/claims.json").read_text())
    first = content["claims"][0]
    assert (first["claim"], first["metric"], first["verdict"]) == ("a", "actor/entropy", "pass")
    task = first["tasks"]["mujoco/hopper"]
    assert task["values"][3] | {"learning_rate": 0} == {
        **{"name": "M=8", "arm": "M=8", "num_retries": 8, "num_samples": 16, "actor_adam_epsilon": 1e-8},
        **{"learning_rate": 0, "mean": -1.0, "std": 0.0, "values": {"1": -1.0, "2": -1.0, "3": -1.0}},
    }
    assert task["differences"][0] == {"name": "M=2 - M=1", "seeds": [1, 2, 3], "iqm": 4.0, "low": 4.0, "high": 4.0}
    assert [one["verdict"] for one in task["beside"]] == ["fail", NOT_ENOUGH]


def test_differences_within_the_noise_are_named(tmp_path):
    for m in RETRIES:
        for seed, noise in enumerate((-1.0, 1.0, 0.3)):
            write_run(tmp_path / f"{m}_{seed}", retries=m, seed=seed, final={"actor/entropy": (m > 1) * noise + m / 10})
    judgement = check(tmp_path, "a").tasks["mujoco/hopper"]
    assert judgement.verdict == PASS and "95% interval of the paired difference holds 0: M=2 - M=1" in judgement.text()


def test_bad_input(tmp_path):
    write_run(tmp_path / "a", final={"actor/entropy": 1.0})
    with pytest.raises(InvalidValueError, match="jsn=a: no such key; there are json="):
        claims.main([str(tmp_path), "jsn=a"])
    with pytest.raises(InvalidValueError, match="must be a folder"):
        claims.main([str(tmp_path), f"json={tmp_path / 'a/config.yaml/b.json'}"])
