import io
import logging
import multiprocessing
import os
import re
import subprocess
import sys
import time

import pytest
from synthetic_runs import write_run
from waiting import wait_until

from experiments.console import progress
from experiments.console.messages import warn
from experiments.console.progress import ProgressBar


class Terminal(io.TextIOWrapper):
    """Shows what a person would see: lines, of which a carriage return begins the last one again."""

    def __init__(self):
        super().__init__(io.BytesIO(), "utf-8", write_through=True)

    def isatty(self):
        return True

    @property
    def text(self):
        return self.buffer.getvalue().decode()

    @property
    def lines(self):
        shown = []
        for line in self.text.split("\n"):
            seen = ""
            for part in line.split("\r"):
                seen = part + seen[len(part) :]
            shown.append(seen.rstrip())
        return shown


def use_terminal(monkeypatch):
    """For the test's own body, since pytest sets both streams anew for it."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    return terminal


def test_on_a_terminal_the_bar_moves_even_when_nothing_is_reported(monkeypatch):
    """So it does while programs compile."""
    terminal = use_terminal(monkeypatch)
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.01)
    bar = ProgressBar(100)
    assert terminal.lines[-1].startswith("compiling   0%"), "from the start"
    wait_until(lambda: terminal.text.count("0/100 env steps") >= 4)
    bar.update(40)
    bar.phase("training")
    bar.show(**{"return": 12.34, "entropy": -1.0})
    bar.update(1000)
    bar.phase("evaluating")
    bar.close()
    last = terminal.lines[-2]
    assert last.startswith("evaluating 100%") and "100/100 env steps" in last
    assert "return=12.3, entropy=-1.0" in last


def test_steps_of_before_a_resume_say_nothing_of_the_rate(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bar = ProgressBar(1_000_000)
    bar.skip_to(500_000)
    assert bar.env_steps == 500_000
    time.sleep(0.1)
    bar.update(510_000)
    bar.phase("training")
    bar.close()
    last = sys.stderr.getvalue().splitlines()[-1]
    rate = float(re.search(r"([\d.]+)step/s", last)[1])
    assert "510000/1000000 env steps" in last and 0 < rate <= 100_000, last


def test_the_time_left_is_by_the_pace_of_training(monkeypatch):
    """Not by that of compiling, before it."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bar = ProgressBar(1_000_000)
    bar._bar.start_t -= 1000
    bar._bar.last_print_t -= 1000  # since when programs have been compiled
    bar.skip_to(1_000)
    time.sleep(0.1)
    bar.update(11_000)
    bar.close()
    rate = float(re.search(r"([\d.]+)step/s", sys.stderr.getvalue().splitlines()[-1])[1])
    assert rate > 20, "10,000 steps in a thousand seconds would be 10 a second"


def test_nothing_that_is_written_lands_on_the_line_of_the_bar(monkeypatch):
    terminal = use_terminal(monkeypatch)
    earlier = logging.StreamHandler(sys.stderr)  # as libraries have them that were imported before
    logger = logging.getLogger("somebody's library")
    logger.addHandler(earlier)
    bar = ProgressBar(100)
    try:
        warn("ours")
        sys.stderr.write("file.py:1: UserWarning: Python's\n  its line\n")
        logger.warning("a library's")
        print("in", end=" ")
        bar.refresh()
        print("parts")
        print("no end", end="")
    finally:
        bar.close()
        logger.removeHandler(earlier)
    told = [line for line in terminal.lines if "env steps" not in line and line]
    assert told == [
        "warning: ours",
        "file.py:1: UserWarning: Python's",
        "  its line",
        "a library's",
        "in parts",
        "no end",
    ]
    print("after")
    assert terminal.lines[-2:] == ["no endafter", ""]


def test_without_a_terminal_there_is_a_line_now_and_then(capsys):
    now = 0.0
    bar = ProgressBar(1000, clock=lambda: now)
    for second in range(1, 3601):
        now = float(second)
        bar.update(second // 4)
        bar.phase("training" if second % 100 else "evaluating")
        bar.refresh()
    bar.update(1000)
    bar.phase("training")
    bar.close()
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert "\r" not in text and len(text) < 8_000
    # The first of each kind, every 30 s in ten minutes, then 5% later each time, and the end.
    assert 3 + 20 + 35 <= len(lines) <= 3 + 20 + 45
    assert lines[0].startswith("compiling   0% 0/1000 env steps [") and lines[1].startswith("training   0%")
    assert lines[-1].startswith("training 100% 1000/1000 env steps [")


def test_processes_that_share_a_terminal_write_lines_with_their_names(monkeypatch):
    """As those of Hydra's joblib launcher do, whose bars would be drawn over each other."""
    terminal = use_terminal(monkeypatch)
    monkeypatch.setattr(multiprocessing.current_process(), "name", "LokyProcess-1")
    bar = ProgressBar(100, name="0_sac")
    bar.update(40)
    bar.phase("training")
    print("said")
    bar.close()
    assert "\r" not in terminal.text
    assert [line.partition("/100 env")[0] for line in terminal.lines[:-1]] == [
        "0_sac: compiling   0% 0",
        "0_sac: training  40% 40",
        "said",
        "0_sac: training  40% 40",
    ]


class Broken(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal

    def write(self, text):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [None, Broken(False), Broken(True)])
def test_a_standard_error_that_takes_nothing_stops_nothing(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    bar = ProgressBar(10)
    bar.update(5)
    bar.phase("training")
    bar.refresh()
    warn("unheard")
    bar.close()
    assert bar.env_steps == 5


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_commands_can_print_anything_in_ascii(tmp_path, settings):
    run = write_run(tmp_path / "run", final={"actor/entropy": 1.0}, top={"arm": "größer"})
    write_run(tmp_path / "run2", seed=2, final={"actor/entropy": 1.0}, top={"arm": "größer"})
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LC_")} | settings
    command = [sys.executable, "-m", "experiments.claims", str(run), str(tmp_path / "run2"), "json=c.json"]
    environment["PYTHONPATH"] = str(os.path.dirname(os.path.dirname(progress.__file__)) + "/..")
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"mean \xb1 standard deviation" in done.stdout


def test_a_terminal_is_told_that_a_command_is_being_imported():
    """The first thing that a person sees, and nothing of it stays; with no terminal there is no such word."""
    command = [sys.executable, "-m", "experiments.plot", "nowhere"]
    reader, writer = os.openpty()
    outcome = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writer)
    first, *_, last = os.read(reader, 4096).decode().rstrip("\r\n").split("\r")
    os.close(writer)
    os.close(reader)
    assert outcome.returncode == 2
    assert first == "importing" and "nowhere" in last and "importing" not in last
    assert b"importing" not in subprocess.run(command, capture_output=True).stderr
