import time

from experiments.console.progress import ProgressBar


def test_the_bar_moves_every_second_even_when_nothing_is_reported(capsys):
    """So it does while programs compile."""
    bar = ProgressBar(100)
    time.sleep(2.5)
    assert capsys.readouterr().err.count("0/100 env steps") >= 2
    bar.update(40, "training")
    bar.show(**{"return": 12.34, "entropy": -1.0})
    bar.update(1000, "evaluating")
    bar.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("evaluating 100%") and "100/100 env steps" in last
    assert "return=12.3, entropy=-1.0" in last
