"""What is wrong outside the programs: variables, folders in the way, names too long, readers that go away."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import hydra
import jax
import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from slow import fast_are

from experiments import claims, evaluate, plot, report, sweep, train
from experiments.console import key_value
from experiments.console.pasting import as_path, key_of, pasted
from experiments.records import run_directory
from experiments.records.loggers import make_logger
from experiments.records.run_directory import RunDirectory, make_new, take_folder
from experiments.running import hydra_launcher, jax_settings, planning
from experiments.running.config import compose_job
from experiments.running.planning import Outcome
from experiments.toy import __main__ as toy
from remac.policies.policy import save_policy
from remac.validation import InvalidValueError

LONG = "x" * 300
NASTY = (
    *("runs/a", "a b", "a,b", "a=b", "123", "1e3", "null", "true", "007", "~/x", "it's", 'a"b', "a\\b", "a\\", 'a\\"b'),
    *("${x}", "\\${x}", "$x", "a#b", "[a]", "{a:1}", "a(b)", "ü", "a;b", " a", "a ", "choice(a,b)", "a%b", "~", "-m"),
    *("a\\,b", "a\tb", "@a", "!x", "${now:%Y}", "a}b", "a/b/", "glob(*)", "", "a\nb"),
)


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """Composes the one key whose values are read, and none of the others."""
    directory = tmp_path_factory.mktemp("conf")
    (directory / "only.yaml").write_text("resume: null\n")
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(directory), version_base="1.3"):
        yield lambda argument: hydra.compose("only", [argument])


def test_an_override_that_is_printed_can_be_pasted(composed):
    for path in NASTY:
        (argument,) = shlex.split(pasted("resume", path))
        assert composed(argument).resume == path, argument
    assert pasted("resume", "runs/a") == "resume=runs/a", "no quotes where none are needed"


@pytest.mark.parametrize(
    ("argument", "key"), [("a.b=1", "a.b"), ("++a.b=c=d", "a.b"), ("+a", "a"), ("~a.b", "a.b"), ("a@b=c", "a@b")]
)
def test_the_key_of_an_override(argument, key):
    assert key_of(argument) == key


def test_a_directory_whose_name_hydra_cannot_take_is_a_line(call, tmp_path):
    run = tmp_path / "${x}"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0")
    status, _, err = call(shlex.split(pasted("resume", run)))
    assert status == 2 and "rename the run" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("name", fast_are(2, ["a b,c=d", "~home", "it's", "1e3"]))
@pytest.mark.parametrize("form", fast_are(1, ["printed", "slash", "relative"]))
def test_resume_takes_every_form_of_a_path(call, monkeypatch, tmp_path, name, form):
    run = tmp_path / name
    run.mkdir()
    job = compose_job(["env=probe/action", "seed=3"])
    (run / "config.yaml").write_text(yaml.safe_dump(job.config))
    seen = []
    monkeypatch.setattr(train, "run_jobs", lambda planned: seen.append(planned[0]) or [Outcome(run, "finished", 0.0)])
    path = {"printed": str(run), "slash": f"{run}/", "relative": f"./{name}"}[form]
    status, _, err = call(shlex.split(pasted("resume", path)))
    assert status == 0, err
    assert seen[0].directory == run and seen[0].job.config["seed"] == 3


def test_a_tilde_inside_quotes_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert as_path("~/run") == tmp_path / "run"
    (tmp_path / "~").mkdir()
    assert as_path("~") == Path("~"), "unless there is such a folder"


@pytest.mark.parametrize("key", ["run", "resume"])
def test_a_comma_in_a_path_is_explained(call, key):
    given = {"run": ("evaluate", evaluate.main), "resume": ("train", train.main)}[key]
    ConfigStore.instance().store(name="evaluate_schema", node=evaluate.EvaluateConfig)
    status, _, err = call([f"{key}=runs/a,b"], *given)
    assert status == 2 and len(err.splitlines()) == 1
    (hint,) = [word for word in shlex.split(err.split("needs quotes: ")[1].partition(";")[0])]
    assert OverridesParser.create().parse_override(hint).value() == "runs/a,b"


def test_commands_that_are_shown_can_be_pasted():
    arguments = ["a b", "out=x y", "c,d=e"]
    assert shlex.split(key_value.command_of("experiments.plot", arguments))[3:] == arguments


@pytest.mark.parametrize("program", ["train", "evaluate", "sweep"])
@pytest.mark.parametrize(
    "error",
    [RuntimeError("Unable to initialize backend 'cuda': no such device (set JAX_PLATFORMS='')"), AssertionError()],
)
def test_a_platform_that_is_not_there_is_named(call, monkeypatch, tmp_path, program, error):
    def fail():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax_settings.jax, "local_devices", fail)
    ConfigStore.instance().store(name="evaluate_schema", node=evaluate.EvaluateConfig)
    ConfigStore.instance().store(name="sweep_schema", node=sweep.SweepConfig)
    arguments, main = {
        "train": (["env=probe/action"], train.main),
        "evaluate": (["run=nowhere"], evaluate.main),
        "sweep": (["experiment=speed", "scale=smoke"], sweep.main),
    }[program]
    status, out, err = call(arguments, program, main)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("JAX_PLATFORMS=cuda: ") and "no such device" in err and "nowhere" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_disable_jit", True),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_transfer_guard", "disallow"),
    ],
)
def test_settings_of_jax_that_cannot_work_are_refused_first(call, tmp_path, name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        status, out, err = call(["env=probe/action", "hydra.run.dir=run"])
    finally:
        jax.config.update(name, before)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"{name.upper()}=") and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["JAX_PLATFORMS=cuda", "JAX_PLATFORMS=nonsense", "JAX_ENABLE_X64=1"])
def test_settings_of_jax_as_a_process(tmp_path, setting):
    name, _, value = setting.partition("=")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", "env=probe/action"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {name: value},
    )  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith(setting)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variables", "arguments", "expected"),
    [
        ({}, [], ("online", "remac", None, None)),
        ({"MODE": "offline", "PROJECT": "p", "ENTITY": "e", "RUN_GROUP": "g"}, [], ("offline", "p", "e", "g")),
        ({"MODE": "disabled", "PROJECT": "p"}, ["logger.mode=online", "logger.project=q"], ("online", "q", None, None)),
        ({"MODE": "dryrun", "PROJECT": ""}, [], ("offline", "remac", None, None)),
        ({"DISABLED": "true"}, [], ("disabled", "remac", None, None)),
    ],
)
def test_variables_of_wandb_count_where_the_command_line_says_nothing(monkeypatch, variables, arguments, expected):
    for name in ("MODE", "PROJECT", "ENTITY", "RUN_GROUP", "DISABLED"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    job = compose_job(["env=probe/action", "logger=wandb", *arguments])
    assert tuple(job.config["logger"][key] for key in ("mode", "project", "entity", "group")) == expected
    if expected[0] == "disabled":
        assert make_logger(job.config, Path(), {}) is None


def test_a_wandb_mode_that_does_not_exist_is_the_variables_fault(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "loud")
    with pytest.raises(InvalidValueError, match=r"^WANDB_MODE=loud: must be one of"):
        compose_job(["env=probe/action", "logger=wandb"])


def test_a_resumed_run_obeys_the_mode_of_where_it_runs_now(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = compose_job(["env=probe/action", "logger=wandb"]).config
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "another")
    resumed = compose_job([f"resume={tmp_path}"]).config
    assert resumed["logger"] == config["logger"] | {"mode": "offline"}
    assert compose_job([f"resume={tmp_path}", "logger.mode=online"]).config["logger"]["mode"] == "online"


@pytest.mark.parametrize("as_package", fast_are(1, [True, False]))
def test_folders_of_the_user_with_our_names_are_not_taken_for_ours(tmp_path, as_package):
    for name in ("envs", "agents", "remac", "conf", "hydra_plugins"):
        (tmp_path / name).mkdir()
        if as_package and name != "hydra_plugins":
            (tmp_path / name / "__init__.py").write_text("")
    program = "import experiments, envs, agents, remac; print(envs.names, agents.AGENTS, remac.__file__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and str(tmp_path) not in done.stdout, done.stderr


COMMANDS = {
    "plot": (plot.main, "out"),
    "report": (report.main, "out"),
    "claims": (claims.main, "json"),
    "toy": (toy.main, "out"),
}


def status_of(monkeypatch, capsys, name, *arguments):
    main = COMMANDS[name][0]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        key_value.exit_with(main)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_name_too_long_for_the_file_system_is_a_line(monkeypatch, capsys, tmp_path, name):
    key = COMMANDS[name][1]
    first = "study=distance" if name == "toy" else str(tmp_path)
    status, err = status_of(monkeypatch, capsys, name, first, f"{key}={tmp_path / LONG}")
    assert status == 2 and err.startswith(f"{key}=") and "File name too long" in err and len(err.splitlines()) == 1
    if name != "toy":
        status, err = status_of(monkeypatch, capsys, name, str(tmp_path / LONG))
        assert status == 2 and len(err.splitlines()) == 1, err


@pytest.mark.parametrize(
    "arguments",
    [
        [f"hydra.run.dir={LONG}"],
        [f"hydra.run.dir={LONG}", "resume=auto"],
        [f"resume={LONG}"],
        ["-m", "seed=0,1", f"hydra.sweep.dir={LONG}"],
        ["-m", "seed=0,1", f"hydra.sweep.subdir={LONG}_${{seed}}"],
    ],
)
def test_a_run_directory_with_too_long_a_name_is_a_line(call, tmp_path, arguments):
    status, out, err = call(["env=probe/action", *arguments])
    assert (status, out, len(err.splitlines())) == (2, "", 1) and LONG in err
    assert not list(tmp_path.iterdir())


def test_numbers_that_cannot_be_stored_are_printed(call, monkeypatch, tmp_path):
    job = compose_job(["env=probe/action", "agent=sac", "agent.hidden_sizes=[8]"])
    run = RunDirectory(tmp_path / "run", job.config)
    run.close()
    policy = job.agent.policy(jax.jit(job.agent.init)(jax.random.key(0)))
    save_policy(policy, run.path / "policy")
    ConfigStore.instance().store(name="evaluate_schema", node=evaluate.EvaluateConfig)
    (run.path / ".evaluation.json.new").mkdir()  # in the way, also of root
    status, out, err = call(["run=run", "num_episodes=2"], "evaluate", evaluate.main)
    assert status == 1 and "eval/return" in out
    assert err.startswith("run/evaluation.json: cannot be written (Is a directory)") and len(err.splitlines()) == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_is_printed_does_not_depend_on_a_reader(stream):
    program = (
        "import sys; from experiments.console.pipes import outlive_readers; outlive_readers(); sys.stdin.read()\n"
        f"print('x' * 100000, file=sys.{stream}, flush=True); print('half', file=sys.{stream}, end='')\n"
        f"print('done', end='', file=sys.{'stderr' if stream == 'stdout' else 'stdout'})"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", program], **pipes)
    getattr(process, stream).close()
    process.stdin.close()
    other = process.stderr if stream == "stdout" else process.stdout
    assert (other.read(), process.wait()) == (b"done", 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_standard_output_is_told_and_survived():
    program = "from experiments.console.pipes import outlive_readers; outlive_readers(); print('one'); print('two')"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        0,
        "warning: standard output cannot be written (No space left on device); going on without\n",
    )


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_folders_named_by_the_time_are_one_each(call, monkeypatch, tmp_path, name):
    seen = []

    def run_jobs(planned, memory_gib=None):
        seen.append([one.directory.relative_to(tmp_path) for one in planned])
        return [Outcome(one.directory, "finished", 0.0) for one in planned]

    monkeypatch.setattr(train, "run_jobs", run_jobs)
    monkeypatch.setattr(hydra_launcher, "run_jobs", run_jobs)
    hydra_launcher.register_launcher()
    arguments = ["env=probe/action", f"hydra.{name}.dir=runs/a ${{now:%Y}}"]
    if name == "sweep":
        arguments += ["-m", "hydra/launcher=population", "seed=0,1", "hydra.sweep.subdir=${seed}"]
    for _ in range(2):
        status, _, err = call(arguments)
        assert status == 0, err
    (first, *_), (second, *_) = seen
    year = first.parts[1]
    assert year[2:].isdecimal() and second.parts[1] == f"{year}_2"
    assert len({path for paths in seen for path in paths}) == (2 if name == "run" else 4)


def test_a_directory_that_another_process_takes_meanwhile_is_a_line_at_once(call, monkeypatch, tmp_path):
    first = RunDirectory(tmp_path / "run", {"seed": 0})  # after the second has checked that there is none
    monkeypatch.setattr(planning, "require_unused", lambda path: None)
    monkeypatch.setattr(run_directory, "require_unused", lambda path: None)
    status, out, err = call(["env=probe/action", "hydra.run.dir=run"])
    first.close()
    assert (status, out, len(err.splitlines())) == (2, "", 1) and "is in use by another process" in err


def test_a_default_folder_is_made_anew(tmp_path):
    names = [make_new(tmp_path / "runs" / "now").name for _ in range(3)]
    assert names == ["now", "now_2", "now_3"]


def test_a_folder_is_taken_by_one_process(tmp_path):
    program = (
        "import sys; from experiments.records.run_directory import take_folder\n"
        f"take_folder('directory', {str(tmp_path)!r}); print('mine', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"mine\n"
    with pytest.raises(InvalidValueError, match=r"^directory=.*is in use by another process"):
        take_folder("directory", tmp_path)
    other.kill()
    other.wait()
    take_folder("directory", tmp_path)
    take_folder("directory", tmp_path)  # it is this process's own
