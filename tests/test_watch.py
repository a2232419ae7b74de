"""Runs that are going are shown in a real browser, from what is appended to their files."""

import io
import json
import os
import shutil
import socket
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image
from synthetic_runs import write_run
from waiting import DEADLINE_SECONDS, wait_until

from experiments import watch
from experiments.comparing.following import Following, make_running_line
from experiments.records.files import METRICS, NewRecords, csv_text, read_records
from experiments.records.run_directory import RunDirectory

FINAL = {"eval/return_stochastic": 100.0, "actor/entropy": -3.0}
EVIL = "<script>document.body.textContent='taken'</script>"
LIMIT = 2**20


def append(run, steps, value=5.0, ending="\n"):
    rows = csv_text([(step, step, f"{step:.3f}", name, value) for step in steps for name in FINAL])
    with (run / METRICS).open("ab") as file:
        file.write(rows.rstrip() + ending.encode())


def test_records_are_read_once_and_only_whole_ones(tmp_path):
    run = write_run(tmp_path / "run", final=FINAL, status=None)
    new, read = NewRecords(run), []
    while True:  # in pieces that end within lines
        records, is_void = new.read(100)
        assert not is_void
        read += records
        if not new.is_behind:
            break
    assert read == read_records(run)[0] and len(read) == 22
    append(run, [1100], ending="")
    (record,), is_void = new.read(LIMIT)  # the second line is not whole yet
    assert (record[0], record[3], is_void) == (1100, "eval/return_stochastic", False)
    with (run / METRICS).open("ab") as file:
        file.write(b"\n1200,no number,3.0,actor/entropy,1.0\n1300,1300,3.0,actor/entropy,2.0\n")
    records, _ = new.read(LIMIT)
    assert [(record[0], record[4]) for record in records] == [(1100, 5.0), (1300, 2.0)]
    assert new.read(LIMIT) == ([], False) and new.num_bytes == 0
    shutil.rmtree(run)
    assert new.read(LIMIT) == ([], False)


@pytest.mark.parametrize("keep", [0, 3, 10])
def test_what_a_resumed_run_cuts_off_is_forgotten(tmp_path, keep):
    """Also where it has grown past its earlier length before anybody looks, and where it begins anew."""
    run = write_run(tmp_path / "run", final=FINAL, status=None)
    new = NewRecords(run)
    new.read(LIMIT)
    lines = (run / METRICS).read_bytes().splitlines(keepends=True)
    if keep:
        os.truncate(run / METRICS, len(b"".join(lines[:keep])))
    else:
        (run / METRICS).unlink()
        (run / METRICS).write_bytes(lines[0])
    append(run, range(100, 3000, 100))
    records, is_void = new.read(LIMIT)
    assert is_void and records == read_records(run)[0]


def test_runs_come_go_on_end_and_go(tmp_path):
    following = Following(tmp_path)
    following.read()
    assert "no run yet" in following.state() and following.panels((), "env_steps") == ((), [])
    planned = [{"directory": str(seed), "task": "t", "arm": "b", "seed": seed} for seed in (1, 2, 3)]
    (tmp_path / "plan.json").write_text(json.dumps({"experiment": "e", "runs": planned}))
    runs = [write_run(tmp_path / str(seed), seed=seed, retries=4, final=FINAL, status=None) for seed in (1, 2)]
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.yaml").write_text("agent: {na")
    (tmp_path / "begun/metrics.csv").write_text("env_st")
    following.read()
    assert following.state().endswith("2 of 3 planned runs: 2 unfinished")
    shown, panels = following.panels((), "env_steps")
    assert shown == ("eval/return_stochastic", "actor/entropy") and [panel.title for panel in panels] == ["Hopper"] * 2
    assert [line.name for line in panels[0].lines] == ["ReMAC M=4"] and panels[0].lines[0].points[4] == [2] * 11

    version = following.version
    following.read()
    assert following.version == version
    append(runs[0], [1100])
    following.read()
    (line,) = following.panels((), "env_steps")[1][0].lines
    assert following.version > version and line.points[0][-1] == 1100 and line.points[4][-1] == 1
    assert following.rows() == [["Hopper", "ReMAC M=4", "", "1-2", "1,000 to 1,100 of 1,000", ""]]
    assert [len(following.panels(("actor/entropy",), x)[1]) for x in ("gradient_steps", "wall_clock")] == [1, 1]

    run = RunDirectory(tmp_path / "3", {"agent": {"name": "sac"}, "env": {"suite": "a", "task": "b"}, "seed": 3})
    run.write_summary(run.summary("stopped", {}, reason="actor/loss is nan"))
    run.close()
    shutil.rmtree(runs[0])
    following.read()
    assert following.state().endswith("2 of 3 planned runs: 1 stopped, 1 unfinished")
    assert following.rows()[0][-1] == "seed 3: stopped (actor/loss is nan)"
    append(run.path, [100])  # it has been resumed
    os.utime(run.path / METRICS, ns=((run.path / "summary.json").stat().st_mtime_ns + 1,) * 2)
    following.read()
    assert following.state().endswith("2 of 3 planned runs: 2 unfinished")
    shutil.rmtree(tmp_path)
    following.read()
    assert "no run yet" in following.state()


def test_what_one_reading_takes_is_bounded(tmp_path):
    """And all that was read in several is what reading at once gives."""
    for seed in range(5):
        write_run(tmp_path / str(seed), seed=seed, final=FINAL, status=None)
    following = Following(tmp_path)
    following.read(limit=1500)
    assert following.is_behind and len(following.metrics) == 2
    assert len(following.panels((), "env_steps")[1][0].lines[0].points[4]) > 0
    for _ in range(5):
        following.read(limit=1500)
    at_once = Following(tmp_path)
    at_once.read()
    assert not following.is_behind and following.panels((), "env_steps") == at_once.panels((), "env_steps")


def test_a_line_is_about_the_seeds_that_have_come_so_far():
    points = [(np.arange(0, end + 1, 10.0), np.arange(0, end + 1, 10.0) * rate) for end, rate in ((20, 1), (40, 3))]
    line = make_running_line("a", "#000000", "--", points, "env_steps")
    steps, middle, low, high, counts = line.points
    assert steps == [0, 10, 20, 30, 40] and counts == [2, 2, 2, 1, 1]
    assert middle == [0, 20, 40, 90, 120]
    assert low == [0, 10, 20, None, None] and high == [0, 30, 60, None, None]


def test_runs_beside_a_plan_are_not_taken_for_planned_ones(tmp_path):
    planned = [{"directory": str(seed), "task": "t", "arm": "b", "seed": seed} for seed in (1, 2)]
    (tmp_path / "plan.json").write_text(json.dumps({"experiment": "e", "runs": planned}))
    for other in ("a", "b"):
        write_run(tmp_path / other, seed=7, final=FINAL)
    following = Following(tmp_path)
    following.read()
    assert following.progress().words == "2/4 runs finished" and not following.progress().has_ended
    for seed in (1, 2):
        write_run(tmp_path / str(seed), seed=seed, final=FINAL)
    following.read()
    assert following.progress().words == "4/4 runs finished" and following.progress().has_ended


def test_one_line_is_about_all_runs(tmp_path, monkeypatch):
    """Whoever trains them; it ends with what was planned, of which one fails."""
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "SHARE", 1.0)
    planned = [{"directory": str(seed), "task": "t", "arm": "b", "seed": seed} for seed in (1, 2, 3)]
    (tmp_path / "plan.json").write_text(json.dumps({"experiment": "e", "runs": planned}))
    going = threading.Thread(target=watch.follow, args=(tmp_path,), daemon=True)
    going.start()
    wait_until(lambda: "0/3 runs finished" in stream.getvalue())
    half = {"final": FINAL, "steps": range(0, 501, 100), "top": {"total_env_steps": 1000}}
    write_run(tmp_path / "1", seed=1, status=None, **half)
    write_run(tmp_path / "2", seed=2, final=FINAL)
    wait_until(lambda: "1/3 runs finished" in stream.getvalue())
    write_run(tmp_path / "3", seed=3, status="stopped", **half)
    wait_until(lambda: "1/3 runs finished, 1 failed" in stream.getvalue())
    assert going.is_alive()
    shutil.rmtree(tmp_path / "1")
    write_run(tmp_path / "1", seed=1, final=FINAL)
    going.join(DEADLINE_SECONDS)
    lines = stream.getvalue().splitlines()
    assert not going.is_alive() and all(line.startswith(f"{tmp_path.name}: ") for line in lines)
    of_three = next(line for line in lines if "1/3 runs finished " in line)
    assert "50% 1500/3000 env steps" in of_three, "the third is planned"
    assert "2/3 runs finished, 1 failed 100% 2500/2500 env steps" in lines[-1], "the third makes no more"


@pytest.fixture
def serve():
    servers = []

    def start(directory, **settings):
        servers.append(watch.make_server(directory, 0, **settings))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_only_this_machine_asks_and_only_for_the_page(tmp_path, serve):
    address = serve(tmp_path)
    write_run(tmp_path / "run", final=FINAL, status=None)
    asked = {"": 200, "data": 200, "data?metric=nothing&x=nothing&since=x": 200, "data/..": 404, "../etc/passwd": 404}
    for path, status in asked.items():
        try:
            with urllib.request.urlopen(address + path) as answer:
                assert answer.status == status
        except urllib.error.HTTPError as error:
            assert error.code == status, path
    request = urllib.request.Request(address, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


def test_the_page_shows_what_comes(tmp_path, serve, browser):
    """It says that there is no run, then shows one, and then what is appended; a name that is HTML is text."""
    runs = tmp_path / "runs"
    runs.mkdir()
    browser.open(serve(runs))
    browser.run("await until(() => document.body.innerText.includes('no run yet, waiting for the first'))")
    for seed in (1, 2):
        write_run(runs / str(seed), retries=4, seed=seed, final=FINAL, status=None, top={"arm": EVIL}, x=EVIL)
    for name, settings in (("other", {"x": "y"}), ("third", {"x": EVIL + "2"})):  # two arms of one M: named by these
        write_run(runs / name, retries=4, final=FINAL, status=None, **settings)
    write_run(runs / "sac", final=FINAL, status=None)
    browser.run("await until(() => document.body.innerText.includes('5 runs: 5 unfinished'))")
    browser.run("await until(() => document.querySelectorAll('.panel canvas').length === 2)")
    legend = browser.run("return document.querySelector('.panel .u-legend').innerText")
    table = browser.run("return document.querySelector('#rows').innerText")
    assert EVIL in legend and EVIL in table and browser.run("return document.scripts.length") == 1

    far = "document.querySelector('.panel').plot.data[0].at(-1)"
    assert browser.run(f"return {far}") == 1000
    append(runs / "1", [5000], value=300.0)
    browser.run(f"await until(() => {far} === 5000)")
    assert "1,000 to 5,000 of 1,000" in browser.run("return document.querySelector('#rows').innerText")
    chosen = browser.run("""
      const select = document.querySelector("#metric");
      select.value = "actor/entropy";
      select.dispatchEvent(new Event("change"));
      await until(() => document.querySelectorAll(".panel").length === 1);
      return select.value;
    """)
    assert chosen == "actor/entropy"

    shot = tmp_path / "page.png"
    browser.run("await until(() => document.querySelectorAll('.panel canvas').length === 1)")
    browser.screenshot(shot)
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert (pixels == (0x00, 0x9E, 0x73)).all(axis=1).sum() > 100, "the line of SAC"
    shutil.rmtree(runs)
    browser.run("await until(() => document.body.innerText.includes('no run yet'))")
    assert browser.run("return document.querySelectorAll('.panel').length") == 0


def test_a_page_whose_server_is_gone_says_so(tmp_path, browser):
    write_run(tmp_path / "runs/1", final=FINAL, status=None)
    server = watch.make_server(tmp_path / "runs", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
    browser.run("await until(() => document.body.innerText.includes('1 run: '))")
    server.shutdown()
    server.server_close()
    browser.run("await until(() => document.body.innerText.includes('no answer, trying again'))")


def test_bad_input_is_one_line(tmp_path, run_module):
    (tmp_path / "file").touch()
    (tmp_path / "runs").mkdir()
    with socket.socket() as taken:
        taken.bind((watch.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in (
            ([], "must name at least one run directory"),
            (["nowhere"], "directory=nowhere: does not exist"),
            (["file"], "directory=file: is no folder"),
            (["runs", "file"], "must be one"),
            (["runs", "port=80a"], "port=80a: must be a whole number from 0 to 65535"),
            (["runs", "port=65536"], "port=65536"),
            (["runs", f"port={port}"], f"port={port}: cannot be had"),
            (["runs", "x=time"], "x=time: must be one of env_steps"),
            (["runs", "follow=yes"], "follow=yes: must be one of false, true"),
            (["runs", "every=3"], "no such key; there are"),
        ):
            status, out, err = run_module("watch", *arguments)
            assert (status, out, len(err.splitlines())) == (2, "", 1) and words in err, err
