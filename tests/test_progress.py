from waiting import wait_until

from experiments.console import progress
from experiments.console.progress import ProgressBar


def test_the_bar_moves_though_nothing_is_reported(monkeypatch, capsys):
    """So it does while programs compile."""
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.01)
    bar, seen = ProgressBar(100), []

    def has_moved():
        seen.append(capsys.readouterr().err)
        return "".join(seen).count("0/100 env steps") >= 4

    wait_until(has_moved)
    bar.update(40, "training")
    bar.show(**{"return": 12.34, "entropy": -1.0})
    bar.update(1000, "evaluating")
    bar.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("evaluating 100%") and "100/100 env steps" in last
    assert "return=12.3, entropy=-1.0" in last
