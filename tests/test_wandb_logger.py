"""W&B runs as they are on disk, and what happens where there is no W&B."""

import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from PIL import Image
from waiting import DEADLINE_SECONDS

from experiments.records import wandb_logger
from experiments.records.loggers import make_logger
from experiments.records.run_directory import RunDirectory
from experiments.records.wandb_logger import INIT_TIMEOUT_SECONDS, WandbLogger, make_tags, old_run_id

ROOT = Path(__file__).resolve().parent.parent
FAKE_KEY = "0123456789abcdef" * 2 + "01234567"
CLOSED_PORT = "http://127.0.0.1:9"
SETTINGS = {
    "name": "wandb",
    "mode": "offline",
    "project": "remac-test",
    "entity": None,
    "group": None,
    "tags": ["mine"],
}
BLOCK, FILE_HEADER, RECORD_HEADER = 32768, 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@pytest.fixture(autouse=True)
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client of this test's own: no account, nothing outside ``tmp_path``, nothing left of other tests."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(WandbLogger, "_is_unreachable", False)
    monkeypatch.setattr(WandbLogger, "_is_client_broken", False)
    monkeypatch.setattr(WandbLogger, "_alive", set())
    # Nothing here is about how fast the client's service starts.
    monkeypatch.setattr(wandb_logger, "INIT_TIMEOUT_SECONDS", float(DEADLINE_SECONDS))
    wandb.teardown()
    yield
    wandb.teardown()


def start(directory: Path, mode: str = "offline", **changes: Any) -> WandbLogger:
    arguments: dict[str, Any] = {"run_id": "1d", "sweep": "sweep", "arm": "M=4", "seed": 3, "overrides": []} | changes
    directory.mkdir(exist_ok=True)
    config = arguments.pop("config", {"seed": 3})
    return WandbLogger(SETTINGS | {"mode": mode}, config, directory, **arguments)


def read_run(directory: Path) -> SimpleNamespace:
    """Reads the only run of a directory from its transaction log, as it is once the process has ended."""
    import wandb

    wandb.teardown()
    (file,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    read = SimpleNamespace(directory=file.parent, run=None, config={}, rows=[], summary={}, exit_code=None, metrics=[])
    for record in records(file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            read.run = record.run
            read.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            read.rows.append({name_of(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            read.summary |= {name_of(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "metric":
            read.metrics.append(record.metric)
        elif kind == "exit":
            read.exit_code = record.exit.exit_code
    return read


def name_of(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def records(content: bytes) -> Iterator[Any]:
    """Parses a .wandb file: a header, then LevelDB's log format with W&B's records in it."""
    from wandb.proto.wandb_internal_pb2 import Record

    assert content[:4] == b":W&B"
    position, parts = FILE_HEADER, b""
    while position < len(content):
        left = BLOCK - position % BLOCK
        if left < RECORD_HEADER:
            position += left
            continue
        crc, length, kind = struct.unpack_from("<IHB", content, position)
        if kind == 0:
            position += left
            continue
        data = content[position + RECORD_HEADER : position + RECORD_HEADER + length]
        assert len(data) == length and zlib.crc32(bytes([kind]) + data) == crc
        assert (kind in (FULL, FIRST)) == (not parts)
        parts += data
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
            parts = b""
        position += RECORD_HEADER + length
    assert not parts


def picture(path: Path) -> Path:
    Image.new("RGB", (4, 3)).save(path)
    return path


def contains(directory: Path, text: str) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_an_offline_run_is_complete_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    directory = tmp_path / "run"
    streams = sys.stdin, sys.stdout, sys.stderr, sys.stdout.write, sys.stderr.write
    config = {"seed": 3, "agent": {"name": "remac", "num_retries": 4}, "note": "x" * 100_000}  # over several blocks
    logger = start(directory, config=config, overrides=["agent.num_retries=4", "hydra.run.dir=/x", "logger=wandb"])
    assert (sys.stdin, sys.stdout, sys.stderr, sys.stdout.write, sys.stderr.write) == streams
    logger.log(0, {"eval/return": -1.5, "eval/entropy": 2.0})
    logger.log(1_008, {"eval/return": 7.25, "eval/entropy": float("nan"), "env/forward_velocity": 0.5})
    assert capfd.readouterr() == ("", "")
    logger.finish({"status": "done", "wall_seconds": 1.5}, [picture(tmp_path / "return.png")], exit_code=0)

    read = read_run(directory)
    output = capfd.readouterr()
    assert output.err == ""
    assert shlex.split(output.out) == ["wandb", "sync", str(read.directory)]
    assert read.run.run_id == "1d"
    assert (read.run.run_group, read.run.job_type, read.run.project) == ("sweep", "M=4", "remac-test")
    assert read.run.display_name == "M=4 seed 3"
    assert list(read.run.tags) == ["mine", "agent.num_retries=4"]
    assert {name: read.config[name] for name in config} == config
    rows = [{name: value for name, value in row.items() if not name.startswith("_")} for row in read.rows]
    assert rows[0] == {"env_steps": 0, "eval/return": -1.5, "eval/entropy": 2.0}
    assert rows[1]["env_steps"] == 1_008 and rows[1]["eval/return"] == 7.25 and rows[1]["env/forward_velocity"] == 0.5
    assert str(rows[1]["eval/entropy"]) in ("nan", "NaN")
    assert [row["_step"] for row in read.rows] == [0, 1, 2]
    assert rows[2]["env_steps"] == 1_008
    with Image.open(read.directory / "files" / rows[2]["plots/return.path"]) as image:
        assert image.size == (4, 3)
    assert read.summary["status"] == "done" and read.summary["wall_seconds"] == 1.5
    by_name = {metric.name or metric.glob_name: metric for metric in read.metrics}
    assert by_name["*"].step_metric == "env_steps"
    assert read.exit_code == 0
    assert contains(directory, FAKE_KEY) == [] and contains(directory, "eval/return") != []


def test_the_group_can_be_chosen_and_a_failure_is_marked(tmp_path: Path) -> None:
    logger = WandbLogger(
        SETTINGS | {"group": "mine"}, {}, tmp_path, run_id="1d", sweep="s", arm="a", seed=0, overrides=[]
    )
    logger.finish({"status": "crashed"}, [], exit_code=3)
    read = read_run(tmp_path)
    assert read.run.run_group == "mine" and read.exit_code == 3


def log_once(directory: Path, seed: int = 0, resume: bool = False, **changes: Any) -> str:
    """Logs a run as the command does, in a sweep named by the folder above, and returns the id in W&B's files."""
    env = {"suite": "mujoco", "task": "hopper"}
    config = {"logger": SETTINGS, "env": env, "experiment": "damping", "arm": "m4", "seed": seed, **changes}
    origin = {"sweep": directory.parent.name, "overrides": [f"seed={seed}"]}
    run = RunDirectory(directory, config, origin=origin, resume=resume)
    run.close()
    logger = make_logger(config, run.path, run.origin)
    assert logger is not None
    logger.finish({}, [], exit_code=0)
    read = read_run(directory)
    assert (read.run.run_group, read.run.job_type) == (run.origin["sweep"], "mujoco/hopper m4")
    shutil.rmtree(directory / "wandb")
    return read.run.run_id


def test_no_two_runs_have_one_id(tmp_path: Path) -> None:
    """Folders of one name under different parents, sweeps of one preset with different settings, and seeds."""
    ids = {log_once(tmp_path / parent / "sweep" / "run") for parent in "ab"}
    ids |= {log_once(tmp_path / "c" / "sweep" / "run", gamma=0.9), log_once(tmp_path / "c" / "sweep" / "other", seed=1)}
    assert len(ids) == 4


def test_the_id_of_a_run_stays(tmp_path: Path) -> None:
    first = log_once(tmp_path / "sweep" / "run")
    assert log_once(tmp_path / "sweep" / "run", resume=True) == first
    (tmp_path / "sweep").rename(tmp_path / "moved")
    (tmp_path / "moved" / "run").rename(tmp_path / "moved" / "renamed")
    (tmp_path / "sweep").mkdir()
    shutil.move(tmp_path / "moved" / "renamed", tmp_path / "sweep" / "renamed")
    assert log_once(tmp_path / "sweep" / "renamed", resume=True) == first
    # One that was begun before ids were kept goes on under the one it had.
    provenance = tmp_path / "sweep" / "renamed" / "provenance.json"
    content = json.loads(provenance.read_text())
    del content["origin"]["id"]
    provenance.write_text(json.dumps(content))
    assert log_once(tmp_path / "sweep" / "renamed", resume=True) == old_run_id("sweep", "mujoco/hopper m4", 0)


def test_no_other_logger_is_made(tmp_path: Path) -> None:
    assert make_logger({"logger": {"name": "none"}}, tmp_path, {}) is None


def test_earlier_ids_are_a_function_of_sweep_arm_and_seed() -> None:
    # A constant, since runs that were logged by it are continued by it.
    assert old_run_id("sweep", "M=4", 3) == "442b616cfc6e3ee2"


def test_tags_have_lengths_that_wandb_takes() -> None:
    long = [f"agent.hidden_sizes=[{'64,' * 30}{last}]" for last in (1, 2)]
    tags = make_tags(["mine", "", "mine", " "], ["seed=1", *long, "+logger.mode=offline", "mine"])
    assert tags[:2] == ["mine", "seed=1"] and len(tags) == 4
    assert all(1 <= len(tag) <= 64 for tag in tags)


def test_long_names_do_not_stop_a_run(tmp_path: Path, capfd: Any) -> None:
    logger = start(tmp_path, arm="a" * 300, sweep="s" * 300, overrides=["x=" + "y" * 300])
    logger.finish({}, [], exit_code=0)
    read = read_run(tmp_path)
    assert read.run.display_name.endswith(" seed 3") and len(read.run.display_name) <= 128
    assert len(read.run.run_group) <= 128 and len(read.run.job_type) <= 64
    assert capfd.readouterr().err == ""


def test_runs_alive_together_keep_their_own_records(tmp_path: Path) -> None:
    members = [start(tmp_path / str(seed), seed=seed, run_id=f"id{seed}") for seed in range(2)]
    for step in range(3):
        for seed, member in enumerate(members):
            member.log(step, {"value": 10.0 * seed + step})
    members[0].finish({"member": 0}, [], exit_code=0)
    members[1].log(3, {"value": 13.0})
    members[1].finish({"member": 1}, [], exit_code=0)
    reads = [read_run(tmp_path / str(seed)) for seed in range(2)]
    assert [read.run.run_id for read in reads] == ["id0", "id1"]
    assert [[row["value"] for row in read.rows] for read in reads] == [[0, 1, 2], [10, 11, 12, 13]]
    assert [read.summary["member"] for read in reads] == [0, 1]


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modes in which the client was asked for a run; online, it soon gives up."""
    modes: list[str] = []
    original = WandbLogger._init

    def init(self: WandbLogger, mode: str) -> Any:
        modes.append(mode)
        seconds = 1.0 if mode == "online" else float(DEADLINE_SECONDS)
        monkeypatch.setattr(wandb_logger, "INIT_TIMEOUT_SECONDS", seconds)
        return original(self, mode)

    monkeypatch.setattr(WandbLogger, "_init", init)
    return modes


def test_a_server_that_does_not_answer_holds_up_the_start_for_15_seconds_at_most() -> None:
    """It may take the client's limit twice, and then the clean-up's; that they are kept, the next tests show."""
    assert 2 * INIT_TIMEOUT_SECONDS + wandb_logger.CLEANUP_SECONDS <= 15


@pytest.mark.parametrize("key", [FAKE_KEY, None])
def test_out_of_reach_means_offline_with_one_warning(
    key: str | None, tmp_path: Path, attempts: list[str], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", CLOSED_PORT)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    for seed in range(2):
        logger = start(tmp_path / str(seed), "online", seed=seed, run_id=f"id{seed}")
        logger.log(16, {"value": 1.0})
        logger.finish({"status": "done"}, [], exit_code=0)
    output = capfd.readouterr()
    assert len(output.err.splitlines()) == 1 and "offline" in output.err
    assert [line.split()[:2] for line in output.out.splitlines()] == [["wandb", "sync"]] * 2
    assert attempts == ["online", "offline", "offline"], "the second run does not try again"
    for seed in range(2):
        read = read_run(tmp_path / str(seed))
        assert read.run.run_id == f"id{seed}"
        assert [row["env_steps"] for row in read.rows] == [16] and read.summary["status"] == "done"
    assert contains(tmp_path / "0", FAKE_KEY) == []


@pytest.mark.usefixtures("attempts")
def test_a_member_out_of_reach_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", CLOSED_PORT)
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    members = [start(tmp_path / "0", "offline", run_id="id0"), start(tmp_path / "1", "online", run_id="id1")]
    for member in members:
        member.log(16, {"value": 1.0})
        member.finish({}, [], exit_code=0)
    output = capfd.readouterr()
    assert len(output.err.splitlines()) == 1
    assert "--id id1 " in output.out.splitlines()[1]
    assert [len(read_run(tmp_path / name).rows) for name in "01"] == [1, 1]
    start(tmp_path / "2", seed=2).finish({}, [], exit_code=0)
    assert read_run(tmp_path / "2").exit_code == 0


@pytest.mark.parametrize("how", ["log", "finish", "plot", "process"])
def test_what_fails_half_way_is_one_warning(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("broken\npipe")

    logger = start(tmp_path / "0")
    logger.log(16, {"value": 1.0})
    if how in ("log", "finish"):
        monkeypatch.setattr(logger._run, how, fail)
    elif how == "process":
        ((process,),) = [re.findall(r"\d+", children(os.getpid()))]
        psutil.Process(int(process)).kill()
        psutil.Process(int(process)).wait(DEADLINE_SECONDS)
    for step in (32, 48):
        logger.log(step, {"value": 2.0})
    logger.finish({"status": "done"}, [tmp_path / "missing.png"] if how == "plot" else [], exit_code=0)
    logger.log(64, {"value": 3.0})
    logger.finish({}, [], exit_code=0)
    output = capfd.readouterr()
    assert len(output.err.splitlines()) == 1 and output.out == ""
    assert str(tmp_path / "0" / "wandb") in output.err
    if how == "plot":
        assert read_run(tmp_path / "0").exit_code == 0 and len(read_run(tmp_path / "0").rows) == 3

    later = start(tmp_path / "1", seed=4)
    later.finish({}, [], exit_code=0)
    assert read_run(tmp_path / "1").exit_code == 0
    assert capfd.readouterr().err == ""


def children(pid: int) -> str:
    return subprocess.run(["pgrep", "-P", str(pid), "wandb-core"], capture_output=True, text=True, check=True).stdout


def test_a_value_that_is_no_number_does_not_reach_the_training(tmp_path: Path, capfd: Any) -> None:
    logger = start(tmp_path)
    logger.log(0, {"value": "three"})  # type: ignore[dict-item]
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_client_that_cannot_be_imported_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        logger = start(tmp_path, "online")
        logger.log(0, {"value": 1.0})
        logger.finish({}, [], exit_code=0)
    output = capfd.readouterr()
    assert len(output.err.splitlines()) == 1 and output.out == ""


def test_the_module_does_not_import_the_client() -> None:
    code = "import sys, experiments.records.wandb_logger; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_a_process_whose_server_never_answers_gives_up_once_and_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_ERROR_REPORTING"}
        environment |= {"WANDB_BASE_URL": url, "WANDB_API_KEY": FAKE_KEY}
        code = f"""
        import os
        from pathlib import Path
        from experiments.records.wandb_logger import WandbLogger
        init = WandbLogger._init
        WandbLogger._init = lambda self, mode: print(mode) or init(self, mode)
        for seed in range(2):
            directory = Path({str(tmp_path)!r}, str(seed))
            directory.mkdir()
            logger = WandbLogger({SETTINGS | {"mode": "online"}!r}, {{}}, directory, run_id=f"id{{seed}}", sweep="s",
                arm="a", seed=seed, overrides=[])
            logger.log(16, {{"value": 1.0}})
            print("a line of the training")
            logger.finish({{}}, [], 0)
        print(os.environ["WANDB_ERROR_REPORTING"])  # to the server, which would hold up the exit
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS
        )
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1, done.stderr
    words = [line.split()[0] for line in done.stdout.splitlines()]
    assert words == ["online", "offline", "a", "wandb", "offline", "a", "wandb", "false"]
    assert [len(read_run(tmp_path / name).rows) for name in "01"] == [1, 1]
    assert contains(tmp_path, FAKE_KEY) == [] == contains(tmp_path, "a line of the training")


def test_a_run_that_was_killed_is_continued_with_all_its_rows(tmp_path: Path, capfd: Any) -> None:
    """W&B's service may lose the rows of a killed process; what it may have is never contradicted."""
    directory = tmp_path / "run"
    directory.mkdir()
    code = f"""
    import os, signal
    from pathlib import Path
    from experiments.records.wandb_logger import WandbLogger
    logger = WandbLogger({SETTINGS!r}, {{}}, Path({str(directory)!r}), run_id="1d", sweep="sweep", arm="M=4", seed=3,
        overrides=[])
    for env_steps in (0, 16, 32):
        logger.log(env_steps, {{"value": env_steps / 7, "time/seconds": 1.0}})
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    (first,) = directory.glob("wandb/offline-run-*")
    with (directory / "wandb" / "rows.jsonl").open("a") as file:
        file.write('{"env_steps": 48, "val')  # written by a process that was killed, so it was not logged
    again = start(directory)
    # The checkpoint was at 16: its evaluation at 32 comes again, with another time.
    again.log(32, {"value": 32 / 7, "time/seconds": 9.0})
    again.log(48, {"value": 48 / 7, "time/seconds": 9.0})
    again.finish({}, [], exit_code=0)
    os.rename(first, tmp_path / "first")
    read = read_run(directory)
    assert read.run.run_id == "1d" and first.name.endswith(read.run.run_id)
    values = {row["env_steps"]: (row["value"], row["time/seconds"]) for row in read.rows}
    assert len(read.rows) == 4
    assert values == {steps: (steps / 7, 9.0 if steps == 48 else 1.0) for steps in (0, 16, 32, 48)}
    assert len((directory / "wandb" / "rows.jsonl").read_text().splitlines()) == 4
