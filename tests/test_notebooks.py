"""The notebooks run from top to bottom, and the outputs kept in them are still what they print."""

import base64
import copy
import os
import re

import nbformat
import pytest
from notebooks import PATHS, ROOT, cleaned, executed

MAX_PICTURE_KB = 60


def outputs(notebook):
    """Returns what each cell says, without digits, which are another machine's in the last places."""
    return [
        [
            (
                output.output_type,
                re.sub(r"[-+]?\d[\d.,]*|\s+", " ", output.get("text", "")).split(),
                output.get("data", {}).keys(),
            )
            for output in cell.get("outputs", [])
        ]
        for cell in notebook.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy_problem", "remac_against_sac", "reading_a_sweep"])
def test_notebooks_run_and_say_what_is_kept(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    assert outputs(executed(PATHS[name], tmp_path)) == outputs(nbformat.read(PATHS[name], as_version=4))


def test_what_is_kept_is_small_and_the_same_for_everybody():
    assert set(PATHS) == {"toy_problem", "remac_against_sac", "reading_a_sweep"}
    for path in PATHS.values():
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert cleaned(copy.deepcopy(notebook)) == notebook, f"{path.name}: run python tests/notebooks.py {path.stem}"
        kept = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        pictures = [base64.b64decode(one["data"]["image/png"]) for one in kept if "image/png" in one.get("data", {})]
        assert len(pictures) == 1 and len(pictures[0]) < MAX_PICTURE_KB * 1000
        text = "".join(output.get("text", "") for output in kept)
        assert 100 < len(text) < 2000 and "/tmp" not in text and str(ROOT) not in text
