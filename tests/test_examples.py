"""The examples run as they stand, with fewer steps."""

import runpy
import sys
from pathlib import Path

import pytest
from slow import fast_are

EXAMPLES = Path(__file__).parent.parent / "examples"
# What each prints among other things, when it is run with so many env steps.
SAID = {
    "estimators": (None, "best of 4: gradient by the mean +1."),
    "train": (2_000, "2,000 env steps: return "),
    "own_environment": (1_600, "ReMAC,  1,600 env steps: return "),
    "own_objective": (25_600, "[0,0,0,0,0,0,0.5,0.5]: mean "),
    "population": (480, "M = 4 by itself: the same"),
}


def test_all_examples_are_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", fast_are(1, SAID))
def test_examples_run(name, monkeypatch, tmp_path, capsys):
    steps, said = SAID[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *([] if steps is None else [str(steps)])])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert said in capsys.readouterr().out
