"""What is wrong with the files of a run is noticed, wherever they are cut or changed, and never becomes a number."""

import json
import os

import pytest
from synthetic_runs import write_run

from experiments import claims
from experiments.comparing.loading import load
from experiments.records.files import METRIC_COLUMNS, csv_text, read_records
from experiments.records.run_directory import RunDirectory

RETURN = "eval/return_stochastic"
STEPS = (0, 50, 100, 150)


def finished(directory, seed=1, *, files=True, **settings):
    """Writes a finished run of four evaluations, whose summary may be one from before it held the files' sums."""
    path = write_run(directory, seed=seed, steps=STEPS, final={RETURN: 24.0, "actor/entropy": -7.5}, **settings)
    summary = json.loads((path / "summary.json").read_text())
    summary |= {"env_steps": 150, "gradient_steps": 150, "metrics": {RETURN: 24.0, "actor/entropy": -7.5}}
    if not files:
        del summary["files"]
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def final(folder, metric=RETURN):
    """Returns what counts of the run under a folder, None if nothing does, and the notes."""
    runs = load([folder])
    finished_runs = [run for run in runs.used if run.status == "finished"]
    return finished_runs[0].final(metric) if finished_runs else None, "\n".join(runs.notes)


@pytest.mark.parametrize("files", [True, False])
def test_a_file_of_metrics_cut_anywhere(tmp_path, files):
    """It counts where the summary has what was lost, and is named in any case."""
    path = finished(tmp_path / "run", files=files)
    metrics = path / "metrics.csv"
    whole = metrics.read_bytes()
    last_evaluation = whole.index(b"150,150,")
    assert final(tmp_path) == (24.0, "")
    for size in range(len(whole)):
        metrics.write_bytes(whole[:size])
        value, said = final(tmp_path)
        assert str(metrics) in said, size
        assert value in (24.0, None), (size, said)
        # From its second line on, the last evaluation is known with its clock.
        if size > whole.index(b"\n", last_evaluation):
            assert value == 24.0 and "taken from summary.json" in said, (size, said)
        elif files:
            assert value is None and "damaged" in said, (size, said)


def test_a_file_of_metrics_with_any_byte_changed(tmp_path):
    path = finished(tmp_path / "run")
    metrics = path / "metrics.csv"
    whole = metrics.read_bytes()
    for place in range(0, len(whole), 3):
        for mask in (1, 0x80, whole[place]):  # another character, no text, and NUL
            changed = bytearray(whole)
            changed[place] ^= mask
            metrics.write_bytes(changed)
            value, said = final(tmp_path)
            assert str(metrics) in said and value in (24.0, None), (place, mask, said)


@pytest.mark.parametrize("files", [True, False])
def test_rows_that_are_missing_twice_or_strange(tmp_path, files):
    path = finished(tmp_path / "run", files=files)
    metrics = path / "metrics.csv"
    header, *rows = metrics.read_bytes().splitlines(keepends=True)
    bad = {
        "a row missing": ([header, *rows[:2], *rows[3:]], f"records of {RETURN} are missing"),
        "an evaluation missing": ([header, *rows[:4], *rows[6:]], "evaluations are missing after 50 env steps"),
        "the header missing": (rows, "its first line is not env_steps,"),
        "nothing in it": ([], "is empty"),
        "NUL bytes": ([header, *rows[:2], b"\0" * 40 + b"\n", *rows[2:]], "1 lines cannot be read (4)"),
        "no text": ([header, *rows[:2], b"\xff\xfe50,1\n", *rows[2:]], "1 lines cannot be read (4)"),
        "another last value": ([header, *rows[:6], rows[6].replace(b"24.0", b"2.0"), rows[7]], ""),
    }
    for kind, (lines, what) in bad.items():
        metrics.write_bytes(b"".join(lines))
        value, said = final(tmp_path)
        assert str(metrics) in said and what in said, (kind, said)
        mended = files and kind in ("another last value", "NUL bytes", "no text")  # the sum shows that all is there
        assert value == (24.0 if mended else None), (kind, said)
    metrics.write_bytes(b"".join([header, *rows, *rows[4:]]))
    value, said = final(tmp_path)
    assert value == 24.0 and str(metrics) in said and "twice" in said


def test_evaluations_that_are_missing_show_by_their_distances(tmp_path):
    run = RunDirectory(tmp_path / "run", {})
    for step in (0, 10, 20, 40, 45):
        run.log(step, step, {"a": 1.0, "b": 1.0} | ({"train/episode_return": 1.0} if step % 20 else {}))
    run.close()
    _, problems, _ = read_records(run.path)
    assert problems == [f"{run.path / 'metrics.csv'}: evaluations are missing after 20 env steps"]


def test_what_is_no_file(tmp_path):
    for name in ("metrics.csv", "config.yaml", "summary.json", "provenance.json"):
        folder = tmp_path / name.partition(".")[0]
        finished(folder / "good")
        path = finished(folder / "run", seed=2)
        (path / name).unlink()
        (path / name).mkdir()
        notes = "\n".join(load([folder]).notes)
        assert str(path) in notes and name in notes, (name, notes)


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json", "summary.json"])
def test_other_files_cut_anywhere_or_changed(tmp_path, name):
    """A configuration that lost its end can be another one's; a note names the file, or no number is at stake."""
    finished(tmp_path / "good")
    path = finished(tmp_path / "run", seed=2)
    file = path / name
    whole = file.read_bytes()
    spoiled = [whole[:size] for size in range(0, len(whole) - 1, 5)]
    if name != "summary.json":  # whose numbers are in metrics.csv as well
        spoiled += [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 5)]
    for content in spoiled:
        file.write_bytes(content)
        runs = load([tmp_path])
        said = "\n".join(runs.notes)
        assert str(path) in said and name in said, content
        assert {run.final(RETURN) for cell in runs.cells for run in cell.finished} == {24.0}


def test_a_summary_that_disagrees(tmp_path):
    path = finished(tmp_path / "run")
    summary = json.loads((path / "summary.json").read_text())
    summary["metrics"][RETURN] = 2.0
    (path / "summary.json").write_text(json.dumps(summary))
    value, said = final(tmp_path)
    assert value == 24.0 and f"{path / 'summary.json'}: does not say what metrics.csv says of {RETURN}" in said
    del summary["files"]
    (path / "summary.json").write_text(json.dumps(summary))
    value, said = final(tmp_path)
    assert value is None and f"metrics.csv: does not say what summary.json says of {RETURN}" in said


def test_what_is_compared_leaves_half_a_number_out(tmp_path, capsys):
    for seed, value in enumerate((24.0, 25.0, 26.0)):
        write_run(tmp_path / f"runs/{seed}", seed=seed, retries=2, final={"actor/entropy": value})
    metrics = tmp_path / "runs/0/metrics.csv"
    os.truncate(metrics, metrics.stat().st_size - len("4.0\r\n"))
    assert metrics.read_bytes().endswith(b",2")
    claims.main([str(tmp_path / "runs")])
    said = capsys.readouterr().out
    assert f"note: {metrics}: was cut short or changed" in said
    assert "M=2 (N=8) 25.5 ± 0.71 (2 seeds)" in said


def test_a_file_of_metrics_is_written_as_it_is_read(tmp_path):
    rows = [(8, 8, "1.500", "eval/return", repr(0.1 + 0.2)), (8, 8, "1.500", 'a "b", c', "nan")]
    (tmp_path / "metrics.csv").write_bytes(csv_text([METRIC_COLUMNS, *rows]))
    records, problems, is_trusted = read_records(tmp_path)
    assert records[0] == (8, 8, 1.5, "eval/return", 0.1 + 0.2) and records[1][3] == 'a "b", c'
    assert problems == [] and is_trusted
