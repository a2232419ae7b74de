"""Sweeps as one program: members equal single runs, groups, failures, devices, and Hydra's sweepers and launchers."""

import csv
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
import yaml
from waiting import DEADLINE_SECONDS, end, wait_until

from experiments.records.checkpoints import Checkpoints
from experiments.records.run_directory import OutputError
from experiments.running import jobs as population
from experiments.running import planning
from experiments.running.config import compose_job
from experiments.running.jobs import run_jobs
from experiments.running.planning import Outcome, PlannedJob, group_jobs, needed_bytes, split_to_fit
from experiments.running.recorder import Recorder
from remac.machine import available_bytes, available_cpus
from remac.training import functions as training
from remac.training import loop
from remac.validation import InvalidValueError

QUICK = (
    "total_env_steps=200",
    "prefill_env_steps=40",
    "eval_every_env_steps=80",
    "num_eval_episodes=2",
    "num_envs=4",
    "agent.hidden_sizes=[8]",
    "agent.batch_size=8",
)
PROBE = ("env=probe/truncation", *QUICK)
HOPPER = ("env=mujoco/hopper", "+env.options.episode_length=20", *QUICK)
MIXED = (
    ("agent.num_retries=1", "seed=0"),
    ("agent.num_retries=8", "agent.actor_adam_epsilon=0.1", "agent.learning_rate=3e-3", "seed=1"),
)


def make_jobs(*overrides):
    """Composes jobs as the command line would."""
    return [compose_job(one) for one in overrides]


def planned(directory, *overrides):
    jobs = make_jobs(*overrides)
    return [
        PlannedJob(job, directory / str(number), "sweep", one, number)
        for number, (job, one) in enumerate(zip(jobs, overrides, strict=True))
    ]


def values(directory):
    """All that ``metrics.csv`` holds but times, as text."""
    with (directory / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["name"].startswith("time/")]
    assert rows
    return [{name: text for name, text in row.items() if name != "wall_seconds"} for row in rows]


def summary(directory):
    return json.loads((directory / "summary.json").read_text())


def command(*arguments, cwd, module="train", **environment):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
    )


@pytest.fixture
def counts(monkeypatch, fresh_programs):
    """How often the training functions are traced."""
    counts = {"act": 0, "learn": 0}
    for name in counts:
        original = getattr(training, name)

        def counted(*args, original=original, name=name, **static):
            counts[name] += 1
            return original(*args, **static)

        monkeypatch.setattr(loop, name, counted)
    return counts


@pytest.mark.slow
def test_members_equal_the_jobs_run_alone_and_a_failed_one_disturbs_nobody(tmp_path, capsys, counts):
    failing = ("agent.num_retries=2", "agent.learning_rate=1e30", "seed=2")
    overrides = [(*PROBE, *one) for one in (MIXED[0], failing, MIXED[1])]
    together = run_jobs(planned(tmp_path / "together", *overrides))
    # The group is one program for prefilling and one for training.
    assert counts == {"act": 2, "learn": 2}
    table = capsys.readouterr().out
    assert "3 members" in table and "2 finished, 1 stopped" in table
    alone = [run_jobs([one])[0] for one in planned(tmp_path / "alone", *overrides)]
    for number, (of_all, own) in enumerate(zip(together, alone, strict=True)):
        assert values(of_all.directory) == values(own.directory)
        assert of_all.directory == tmp_path / "together" / str(number)
        assert (of_all.status, of_all.score, of_all.reason) == (own.status, own.score, own.reason)
        assert summary(of_all.directory)["env_steps"] == summary(own.directory)["env_steps"]
        assert (of_all.directory / "plots" / "return.png").exists() and (of_all.directory / "policy").exists()
        config = yaml.safe_load((of_all.directory / "config.yaml").read_text())
        assert config["seed"] == (0, 2, 1)[number]
    assert [one.status for one in together] == ["finished", "stopped", "finished"]
    assert together[1].score is None and "non-finite at gradient step" in together[1].reason
    assert together[1].reason == summary(tmp_path / "together" / "1")["reason"]
    assert together[1].reason in table and values(together[0].directory) != values(together[2].directory)


def test_a_free_key_leaves_the_rest_of_its_group_as_the_run_has_it(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (job,) = make_jobs(PROBE)
    stored = job.config | {
        "checkpoint": {
            "every_env_steps": 5_000_000,
            "keep": 3,
            "replay": False,
            "other_code": False,
            "keep_best": False,
        }
    }
    stored["logger"] |= {"name": "wandb", "project": "mine"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    for free, group, expected in (
        ("checkpoint.keep=1", "checkpoint", stored["checkpoint"] | {"keep": 1}),
        ("logger.mode=offline", "logger", stored["logger"] | {"mode": "offline"}),
        ("logger=none", "logger", make_jobs(("logger=none",))[0].config["logger"]),
    ):
        config = compose_job([f"resume={tmp_path}", free]).config
        assert config == stored | {group: expected}


@pytest.mark.slow
def test_a_program_that_crashed_leaves_no_arrays_to_the_next(tmp_path, monkeypatch, capsys):
    before, after = len(jax.live_arrays()), []

    def fail(self):
        raise RuntimeError("broken")

    def counted(*arguments, original=population._run_part, **options):
        after.append(len(jax.live_arrays()) - before)
        return original(*arguments, **options)

    jobs = planned(tmp_path, PROBE, (*PROBE, "agent=sac"), (*PROBE, "agent=sac", "agent.hidden_sizes=[4]"))
    before = len(jax.live_arrays())
    monkeypatch.setattr(loop._Loop, "run", fail)
    monkeypatch.setattr(population, "_run_part", counted)
    outcomes = run_jobs(jobs)
    assert [one.status for one in outcomes] == ["crashed"] * 3
    assert max(after) < 10, after
    assert capsys.readouterr().err.count("RuntimeError: broken") == 3


def test_a_signal_while_pictures_are_drawn_ends_the_sweep_after_them(tmp_path, monkeypatch):
    def end(self):
        return loop.Result(None, [], {})

    def stopped(self, status, reason=None):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop._Loop, "run", end)
    monkeypatch.setattr(population.Recorder, "close", stopped)
    with pytest.raises(SystemExit, match="143"):
        run_jobs(planned(tmp_path, PROBE, (*PROBE, "agent=sac")))
    assert not (tmp_path / "1").exists()


def test_groups_are_of_jobs_that_differ_in_numbers_only(tmp_path):
    base = ("env=probe/action", "num_envs=4")
    same = [
        (),
        ("seed=5",),
        ("agent.num_retries=1",),
        ("agent.objective=median",),
        ("agent.gamma=0.5", "agent.tau=0.1", "agent.target_update_period=7"),
        ("agent.actor_adam_epsilon=0.1", "agent.critic_adam_epsilon=0.2", "agent.learning_rate=1"),
        ("arm=other",),
    ]
    other = [
        ("agent=sac",),
        ("agent.num_samples=16",),
        ("agent.hidden_sizes=[8]",),
        ("agent.gradient=score_function",),
        ("env=probe/one_step",),
        ("env.options.stagger_first_episodes=true",),
        ("num_envs=8",),
        ("total_env_steps=1000",),
        ("eval_seed=3",),
    ]
    mixed = [pair for both in zip(same, other, strict=False) for pair in both] + other[len(same) :]
    groups = group_jobs(planned(tmp_path, *((*base, *one) for one in mixed)))
    assert sorted(map(len, groups)) == [1] * len(other) + [len(same)]
    assert [mixed[index] for index in max(groups, key=len)] == same
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    assert sorted(index for group in groups for index in group) == list(range(len(mixed)))


def test_a_group_is_split_to_fit_the_memory(tmp_path):
    jobs = planned(tmp_path, *((*PROBE, "total_env_steps=100000", f"seed={seed}") for seed in range(5)))
    gibibytes = 100_000 * 5 * 4 / 2**30  # a replay: observation, action, reward, discount, next observation
    assert group_jobs(jobs) == [[0, 1, 2, 3, 4]]
    assert group_jobs(jobs, 5.5 * gibibytes) == [[0, 1, 2, 3, 4]]
    assert group_jobs(jobs, 4.9 * gibibytes) == [[0, 1, 2], [3, 4]]
    assert group_jobs(jobs, 1.5 * gibibytes) == [[0], [1], [2], [3], [4]]
    for too_little in (0.9 * gibibytes, 0, float("nan")):
        with pytest.raises(InvalidValueError, match=r"hydra\.launcher\.memory_gib"):
            group_jobs(jobs, too_little)
    with pytest.raises(InvalidValueError, match="two jobs"):
        run_jobs([jobs[0], jobs[0]])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("backend", "num_devices", "num_members", "gib_of_device", "memory_gib", "parts"),
    [
        ("gpu", 8, 9, 2.5, 6.4, [5, 4]),  # the fullest device has two members, of 1.25 GiB each
        ("gpu", 2, 2, 0.85, 1.6, [2]),  # each device has one, and would have it in programs of one
        ("gpu", 1, 6, 3.0, 2.0, [3, 3]),
        ("cpu", 2, 4, 1.0, 1.5, [2, 2]),  # the devices share the memory
        ("cpu", 2, 4, 0.7, 1.5, [4]),
    ],
)
def test_what_a_device_takes_decides_how_a_program_is_split(
    monkeypatch, backend, num_devices, num_members, gib_of_device, memory_gib, parts
):
    """As if members took the same each, in programs of any size."""

    def taken(agents, env, config):
        members = agents.shape[0]
        per_member = gib_of_device / -(-num_members // num_devices)
        used = min(members, num_devices)
        return int(2**30 * per_member * -(-members // used)), used

    monkeypatch.setattr(planning, "training_bytes", taken)
    monkeypatch.setattr(planning, "needed_bytes", lambda job: 2**29)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [None] * num_devices)
    job = SimpleNamespace(agent=0.0, env=None, train_config=None)
    jobs = [SimpleNamespace(job=job)] * num_members
    found = planning.split_to_fit(jobs, list(range(num_members)), memory_gib)
    assert [len(part) for part in found] == parts and [index for part in found for index in part] == list(
        range(num_members)
    )


def test_a_program_that_the_compiler_refuses_for_lack_of_memory_is_split(monkeypatch):
    def refuse(agents, env, config):
        if agents.shape[0] > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return 1, 1

    monkeypatch.setattr(planning, "training_bytes", refuse)
    monkeypatch.setattr(planning, "needed_bytes", lambda job: 2**29)
    jobs = [SimpleNamespace(job=SimpleNamespace(agent=0.0, env=None, train_config=None))] * 4
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert planning.split_to_fit(jobs, [0, 1, 2, 3], 1.0) == [[0], [1], [2], [3]]
    monkeypatch.setattr(planning, "training_bytes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        planning.split_to_fit(jobs, [0, 1, 2, 3], 1.0)


@pytest.mark.slow
def test_a_program_whose_temporary_arrays_do_not_fit_is_split_as_well(tmp_path, capsys):
    """By what is known without compiling all fit; each member then still has the values that it has alone."""
    widths = ("agent.hidden_sizes=[64]", "agent.batch_size=512")
    jobs = planned(tmp_path, *((*PROBE, *widths, "total_env_steps=80", f"seed={seed}") for seed in range(3)))
    agents = loop.stack_members([one.job.agent for one in jobs])
    of_device, num_devices = loop.training_bytes(agents, jobs[0].job.env, jobs[0].job.train_config)
    taken = of_device * num_devices
    known = 3 * needed_bytes(jobs[0].job)
    assert known < 0.9 * taken
    memory_gib = (known + taken) / 2 / 2**30
    assert group_jobs(jobs, memory_gib) == [[0, 1, 2]]
    assert split_to_fit(jobs, [0, 1, 2], 2 * taken / 2**30) == [[0, 1, 2]]
    assert [one.status for one in run_jobs(jobs, memory_gib=memory_gib)] == ["finished"] * 3
    assert "going on with 2 + 1, one program after the other" in capsys.readouterr().err
    for one in jobs:
        assert summary(one.directory)["status"] == "finished" and len(values(one.directory)) > 10


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_names_its_job_and_leaves_the_others(tmp_path, monkeypatch, capsys):
    shorter = ("total_env_steps=160", "seed=4")  # a program of its own
    jobs = planned(
        tmp_path, *[(*PROBE, "resume=auto", "checkpoint.every_env_steps=80", *one) for one in (*MIXED, shorter)]
    )

    def save_and_stop(self, *arguments):
        save(self, *arguments)
        raise KeyboardInterrupt

    save = Recorder._save
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run_jobs(jobs[:2])
    (saved,) = Checkpoints(tmp_path / "1", keep=1).usable([])
    lacking = {name: array for name, array in saved.arrays().items() if name != "state/key"}
    Checkpoints(tmp_path / "1", keep=1).save(saved.env_steps, lacking, saved.run)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    first, second, other = run_jobs(jobs)
    assert other.status == "finished" and {first.status, second.status} == {"crashed"}
    assert "1 finished" in capsys.readouterr().out
    for outcome in (first, second):
        assert f"resume={tmp_path / '1'}: " in outcome.reason and "state/key: is missing" in outcome.reason
        assert isinstance(outcome.error, InvalidValueError)
    assert all(path.read_bytes() == content for path, content in before.items())
    with pytest.raises(InvalidValueError, match="state/key: is missing"):
        run_jobs(jobs[:2])


def test_a_group_that_crashes_leaves_the_others(tmp_path, monkeypatch, capsys):
    original = population.train_population

    def crash_for_sac(agents, *args):
        if type(agents).__name__ == "SAC":
            raise MemoryError("out of\nmemory")
        return original(agents, *args)

    monkeypatch.setattr(population, "train_population", crash_for_sac)
    outcomes = run_jobs(planned(tmp_path, (*PROBE, "agent=sac"), (*PROBE, "agent=remac")))
    assert [one.status for one in outcomes] == ["crashed", "finished"]
    assert summary(tmp_path / "0")["reason"] == outcomes[0].reason == "MemoryError: out of memory"
    output = capsys.readouterr()
    assert "1 crashed, 1 finished" in output.out


def test_a_directory_that_fails_when_its_turn_comes_leaves_the_others(tmp_path, monkeypatch, capsys):
    class Failing(population.RunDirectory):
        def __init__(self, path, *args, **options):
            if path.name == "1":
                raise OutputError("no space left")
            super().__init__(path, *args, **options)

    monkeypatch.setattr(population, "RunDirectory", Failing)
    agents = ("agent=sac", "agent=remac", "agent=sac agent.num_critics=3")
    monkeypatch.setattr(population, "_train", lambda planned, recorder, is_only: recorder.close("finished") or {})
    done = {"metrics": {"eval/return": 1.0, "eval/entropy": 0.0}}
    monkeypatch.setattr(population, "_outcome", lambda path, *_: Outcome(path, "finished", 1.0, summary=done))
    outcomes = run_jobs(planned(tmp_path, *((*PROBE, *agent.split()) for agent in agents)))
    assert [one.status for one in outcomes] == ["finished", "crashed", "finished"]
    assert outcomes[1].reason == "OutputError: no space left" and "no space left" in capsys.readouterr().err


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep by the real command, from a folder that is not the repository's, with one member that fails."""
    directory = tmp_path_factory.mktemp("sweep")
    swept = ["agent.num_retries=4", "agent.learning_rate=1e-3,1e30", f"hydra.sweep.dir={directory / 'runs'}"]
    arguments = ["-m", "hydra/launcher=population", *HOPPER, "logger=wandb", "logger.mode=offline", *swept]
    environment = {f"WANDB_{name}_DIR": str(directory / "w") for name in ("CONFIG", "CACHE", "DATA")}
    done = command(*arguments, cwd=directory, JAX_NUM_CPU_DEVICES="2", **environment)
    return directory, done


def test_the_command_gives_every_job_all_that_a_run_has(swept):
    directory, done = swept
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr and "non-finite at gradient step" in done.stderr.splitlines()[-1]
    lines = done.stdout.strip().splitlines()
    assert "2 members" in lines[0] and "MiB" in lines[0]
    assert lines[-1] == "1 finished, 1 stopped" and done.stdout.count("wandb sync ") == 2
    runs = sorted((directory / "runs").glob("?_*"))
    assert [run.name for run in runs] == [f"{number}_remac_hopper_seed0" for number in range(2)]
    for run, status, rate in zip(runs, ("finished", "stopped"), ("0.001", "1e+30"), strict=True):
        assert summary(run)["status"] == status
        changed = ["agent.num_retries=4", f"agent.learning_rate={rate}"]
        provenance = json.loads((run / "provenance.json").read_text())
        told = [*HOPPER, "logger=wandb", "logger.mode=offline", *changed]
        assert provenance["origin"] | {"id": ""} == {"id": "", "sweep": "runs", "overrides": told}
        assert list(run.glob(f"wandb/offline-run-*-{provenance['origin']['id']}/*.wandb"))
        assert "agent.learning_rate=1e-3,1e30" in provenance["command"]
    assert "400/400 env steps" in done.stderr.replace("\r", "\n")


def test_a_member_of_the_command_equals_its_job_alone(swept):
    directory, _ = swept
    (alone,) = run_jobs(planned(directory / "alone", (*HOPPER, "agent.num_retries=4", "agent.learning_rate=0.001")))
    assert values(alone.directory) == values(directory / "runs" / "0_remac_hopper_seed0")


@pytest.mark.parametrize(
    ("number", "status"),
    [pytest.param(*one, marks=pytest.mark.slow) for one in ((signal.SIGINT, 130), (signal.SIGTERM, 143))],
)
def test_signals_end_a_sweep_and_leave_what_is_finished(number, status, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", "-m", "hydra/launcher=population", *PROBE,
         "total_env_steps=200,100000000", "replay_capacity=1000", "seed=0,1", f"hydra.sweep.dir={tmp_path}"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    long_run = tmp_path / "2_remac_truncation_seed0" / "metrics.csv"
    wait_until(lambda: long_run.exists() and long_run.read_text().count("eval/return,") >= 2, process)
    process.send_signal(number)
    _, err = end(process)
    assert process.returncode == status, err[-2000:]
    assert "Traceback" not in err
    assert f"continue with the same command, hydra.sweep.dir={tmp_path} and resume=auto" in err
    statuses = [summary(run)["status"] for run in sorted(tmp_path.glob("?_*"))]
    assert statuses == ["finished", "finished", "interrupted", "interrupted"]


def test_what_is_stopped_before_its_first_step_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    begin = Recorder._begin

    def stopped(recorder):
        begin(recorder)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Recorder, "_begin", stopped)
    with pytest.raises(SystemExit, match="143"):
        run_jobs(planned(tmp_path, (*PROBE, "seed=0"), (*PROBE, "seed=1")))
    how = f"continue with the same command, hydra.sweep.dir={tmp_path} and resume=auto"
    assert f"stopped before the first step; {how}" in capsys.readouterr().err.splitlines()
    assert [summary(tmp_path / name)["status"] for name in "01"] == ["interrupted", "interrupted"]
    monkeypatch.undo()
    outcomes = run_jobs(planned(tmp_path, *((*PROBE, f"seed={seed}", "resume=auto") for seed in range(2))))
    assert [one.status for one in outcomes] == ["finished", "finished"]


@pytest.mark.slow
def test_the_optuna_sweeper_tunes_on_top(tmp_path):
    sweep = tmp_path / "sweep"
    done = command(
        "-m", "hydra/launcher=population", "hydra/sweeper=optuna", "env=probe/action", *PROBE[1:],
        "agent.learning_rate=interval(1e-4,1e-2)", "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=1", f"hydra.sweep.dir={sweep}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 members") == 2
    results = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    scores = {}
    for run in sweep.glob("?_*"):
        config = yaml.safe_load((run / "config.yaml").read_text())
        scores[config["agent"]["learning_rate"]] = summary(run)["metrics"]["eval/return"]
    assert len(scores) == 4 and results["best_value"] == max(scores.values())
    assert scores[results["best_params"]["agent.learning_rate"]] == results["best_value"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_other_launchers_run_a_sweep(launcher, tmp_path):
    sweep = tmp_path / "sweep"
    settings = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else ["hydra.launcher.timeout_min=60"]
    done = command(
        "-m", f"hydra/launcher={launcher}", *settings, *PROBE, "seed=0,1", f"hydra.sweep.dir={sweep}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    runs = sorted(sweep.glob("?_*"))
    assert [summary(run)["status"] for run in runs] == ["finished"] * 2
    if launcher == "joblib":  # the other's processes write to files
        assert all(f"{run.name}: drawing 100%" in done.stderr for run in runs)


def test_limits_come_from_the_cgroup(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert available_cpus(tmp_path) == len(os.sched_getaffinity(0)) and available_bytes(tmp_path) > 2**20
    write("proc/self/cgroup", "0::/slurm/job_1/step_0\n")
    write("sys/fs/cgroup/slurm/job_1/step_0/cpu.max", "max 100000\n")
    write("sys/fs/cgroup/slurm/job_1/cpu.max", "150000 100000\n")
    write("sys/fs/cgroup/slurm/job_1/step_0/memory.max", "max\n")
    for name, text in {"memory.max": 3 * 2**20, "memory.current": 2**21, "memory.stat": "inactive_file 4096"}.items():
        write(f"sys/fs/cgroup/slurm/job_1/{name}", f"{text}\n")
    assert available_cpus(tmp_path) == 1 and available_bytes(tmp_path) == 2**20 + 4096
    write("proc/self/cgroup", "7:memory:/job\n3:cpu,cpuacct:/job\n0::/\n")
    write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "100000\n")
    write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    for name, text in {"limit_in_bytes": 2**20, "usage_in_bytes": 2**19, "stat": "inactive_file 0"}.items():
        write(f"sys/fs/cgroup/memory/job/memory.{name}", f"{text}\n")
    assert available_cpus(tmp_path) == 1 and available_bytes(tmp_path) == 2**19


DEVICES = """
import sys, time, jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
import envs
from agents import ReMAC
from remac.training.devices import MemberSplit
from remac.training.loop import TrainConfig, member, stack_members, train, train_population
name, num_members, num_envs, total, options = sys.argv[1], *map(int, sys.argv[2:5]), eval(sys.argv[5])
env = envs.make(name, num_envs=num_envs, **options)
config = TrainConfig(total_env_steps=total, updates_per_round=2, prefill_env_steps=0,
    eval_every_env_steps=total, num_eval_episodes=2)
agents = [ReMAC.create(env.observation_size, env.action_size, num_retries=1 + index % 8, batch_size=16,
    hidden_sizes=(16,)) for index in range(num_members)]
keys = jax.random.split(jax.random.key(0), num_members)
together = train_population(stack_members(agents), env, config, keys)
last = num_members - 1
alone = train(agents[last], env, config, keys[last])
jax.tree.map(np.testing.assert_array_equal, member(together.agent_state, last), alone.agent_state)
for of_all, own in zip(together.evaluations, alone.evaluations):
    assert {name: of_all.metrics[name][last] for name in own.metrics} == own.metrics
leaf, split = jax.tree.leaves(together.agent_state)[0], MemberSplit(num_members)
assert leaf.shape[0] == num_members
assert split.num_places > num_members or len(leaf.sharding.device_set) == split.num_devices
print("devices in use", split.num_devices)
"""


def run_on_devices(name, num_members, num_envs, total, options="{}"):
    arguments = [name, num_members, num_envs, total, options]
    done = subprocess.run(
        [sys.executable, "-c", DEVICES, *map(str, arguments)], capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["probe/truncation", "mujoco/hopper"])
def test_members_are_split_over_devices(name):
    """There are four devices, of which five members need three."""
    assert "devices in use 3" in run_on_devices(name, 5, 4, 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mujoco/half_cheetah", "brax/reacher"])
def test_members_are_split_over_devices_at_real_size(name):
    assert "devices in use 4" in run_on_devices(name, 8, 128, 128 * 8, "{'episode_length': 20}")
