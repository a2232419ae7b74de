"""What the files of a run directory are called, and how they are read."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.console.key_value import require_file
from experiments.console.messages import one_line
from experiments.records.checkpoints import find_misfit, sha256, sums
from remac.validation import InvalidValueError

CONFIG, PROVENANCE, METRICS, SUMMARY = "config.yaml", "provenance.json", "metrics.csv", "summary.json"
PLOTS, POLICY, BEST_POLICY, INPUTS, PLAN = "plots", "policy", "policy_best", "inputs", "plan.json"
LOCK = ".lock"  # of a folder of runs: the process that holds it is at work there
FINISHED = "finished"  # the status of a run that came to its end
FREE_KEYS = ("logger", "checkpoint", "resume")  # of the configuration, that may change when a run is resumed
STAGGER = "stagger_first_episodes"  # the option of an environment that a setting decides, by agent
LATER_KEYS = {"num_eval_retries": 1, "split_batch": False}  # what runs had that were made before there were these
METRIC_COLUMNS = ("env_steps", "gradient_steps", "wall_seconds", "name", "value")
Record = tuple[int, float, float, str, float]  # in the order of METRIC_COLUMNS; NaN where nobody knows
_TORN, _TWICE = "its last line is cut short, left out", "records are there twice, of which the later ones count"


def is_begun(directory: Path | str) -> bool:
    """Whether a directory holds a run, however far it came."""
    with contextlib.suppress(OSError):
        return (Path(directory) / CONFIG).stat().st_size > 0  # 0: a process was killed while it wrote its first file
    return False


def walk(path: Path, seen: set[Path], notes: list[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walks through a folder like ``os.walk``, symbolic links too; a folder that it comes to again is passed over.

    Args:
        path: The folder.
        seen: The folders that have been visited, to which this adds.
        notes: Where it says which links lead nowhere, and which folders cannot be read.
    """

    def note_unread(error: OSError) -> None:
        notes.append(f"{error.filename}: cannot be read ({error.strerror}), left out")

    for folder, subfolders, files in os.walk(path, onerror=note_unread, followlinks=True):
        place = Path(folder).resolve()
        if place in seen:
            subfolders.clear()
            continue
        seen.add(place)
        subfolders.sort()
        for name in sorted(files):
            if _is_dangling(folder, name):
                notes.append(f"{Path(folder, name)}: is a link to nothing")
        yield folder, subfolders, files


def _is_dangling(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.islink(path) and not os.path.exists(path)


def finished_summary(directory: Path | str) -> dict[str, Any] | None:
    """Returns the summary of a run that has finished, None for any other.

    Raises:
        InvalidValueError: If the summary cannot be read.
    """
    path = Path(directory) / SUMMARY
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_text())
        if summary["status"] != FINISHED:
            return None
        float(summary["metrics"]["eval/return"])
        return summary
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidValueError("resume", directory, f"{path} is damaged; restore or remove that file") from None


def read_json(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Reads a JSON object; returns it or None, and what is wrong with the file. One that is missing is not wrong."""
    try:
        content = json.loads(path.read_bytes())
        return (content, None) if isinstance(content, dict) else (None, f"{path}: is damaged (holds no object)")
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"{path}: cannot be read ({error.strerror or error})"
    except (ValueError, RecursionError) as error:
        return None, f"{path}: is damaged ({one_line(error)})"


def require_output(key: str, path: Path) -> None:
    """Requires that a file can be made, or written anew, and is none that a run is known by.

    Raises:
        InvalidValueError: If it is a folder, one above it is a file, or it is a run's own.
    """
    require_file(key, path)
    if path.name in (CONFIG, PROVENANCE, METRICS, SUMMARY) and (path.parent / CONFIG).is_file():
        raise InvalidValueError(key, path, "is a file that the run there is known by; must be another one")


def sums_of(directory: Path) -> dict[str, Any]:
    """Returns the ``sums`` of the files that a finished run is known by, for its summary."""
    kept = (path for folder in (POLICY, BEST_POLICY, INPUTS) for path in sorted((directory / folder).rglob("*")))
    paths = (directory / CONFIG, directory / PROVENANCE, directory / METRICS, *kept)
    return {path.relative_to(directory).as_posix(): sums(path) for path in paths if path.is_file()}


def find_damage(directory: Path | str, summary: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns for each file that is not what a run's summary says it was what is wrong with it, in words.

    Only the summaries of finished runs say so, since the files of others change; older ones do not.
    """
    files = (summary or {}).get("files")
    found = {
        name: find_misfit(Path(directory, name), _entry(summary, name), f"{SUMMARY}'s")
        for name in (files if isinstance(files, Mapping) else ())
    }
    return {name: f"{Path(directory, name)}: {what}" for name, what in found.items() if what}


def kept_inputs(directory: Path | str, key: str = "run") -> dict[str, Path]:
    """Returns the options of a run's environment that name files of the user's, each with the copy that the run keeps.

    Args:
        directory: The run directory.
        key: What names it on the command line.

    Raises:
        InvalidValueError: If a copy is not what the run was begun with.
    """
    folder = Path(directory) / INPUTS
    known, problem = read_json(Path(directory) / PROVENANCE)
    if problem and folder.is_dir():
        raise InvalidValueError(key, directory, f"{problem}; without it {folder} cannot be checked")
    inputs = {}
    for name, expected in ((known or {}).get("inputs") or {}).items():
        path = folder / name
        if misfit := find_misfit(path, expected, f"{PROVENANCE}'s"):
            raise InvalidValueError(f"env.options.{path.stem}", path, f"{misfit}; restore that file")
        inputs[path.stem] = path
    return inputs


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a configuration with dotted keys, as on the command line."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def metrics_fit(directory: Path | str, position: Mapping[str, Any]) -> bool:
    """Whether ``metrics.csv`` begins with what it was at a position that ``RunDirectory.position`` returned."""
    path, size = Path(directory) / METRICS, position["metrics_bytes"]
    return path.is_file() and path.stat().st_size >= size and sha256(path, size) == position["metrics_sha256"]


def read_records(
    directory: Path | str, summary: Mapping[str, Any] | None = None
) -> tuple[list[Record], list[str], bool]:
    """Reads ``metrics.csv`` as a whole, and never fails; ``NewRecords`` follows one that grows.

    Lines that are not whole are left out: a process that was killed can leave half of one. What the last evaluation of
    a finished run lacks is in its summary as well, and is taken from there.

    Args:
        directory: The run directory.
        summary: The content of its ``summary.json``, where that has been read.

    Returns:
        The records in the order of writing (of two of one step and name the later one counts), what is wrong with the
        file, and whether the numbers of a finished run can be trusted: they are those that were written, or where an
        older summary does not tell, nothing speaks against it.
    """
    path = Path(directory) / METRICS
    try:
        content = path.read_bytes()
    except OSError as error:
        return [], [f"{path}: cannot be read ({error.strerror or error})"], False
    records, problems = _parse(content)
    if summary is None or summary.get("status") != FINISHED:
        problems += _find_irregular(records)
        return records, [f"{path}: {'; '.join(problems)}"] if problems else [], not problems
    expected = _entry(summary, METRICS)
    misfit = None if expected is None else find_misfit(path, expected, f"{SUMMARY}'s")
    mended, added, contradicted = _completed(records, summary)
    if expected is not None and misfit is None:
        wrong = f"{Path(directory) / SUMMARY}: does not say what {METRICS} says of {', '.join(contradicted)}, left out"
        return records, [wrong] if contradicted else [], True
    if expected is not None and misfit is not None:
        rows = [(*one[:2], f"{one[2]:.3f}", one[3], repr(one[4])) for one in mended]
        is_trusted = hashlib.sha256(csv_text([METRIC_COLUMNS, *rows])).hexdigest() == expected.get("sha256")
        problems = [misfit, *problems, *([] if is_trusted else _find_irregular(mended))]
    else:
        problems += _find_irregular(mended)
        problems += [f"does not say what {SUMMARY} says of {', '.join(contradicted)}"] if contradicted else []
        # What a torn last line lacks is known, and of two records the later one counts.
        is_trusted = not contradicted and all(problem in (_TORN, _TWICE) for problem in problems)
    if is_trusted and (added or contradicted):
        problems.append(f"{', '.join(added + contradicted)} of the last evaluation taken from {SUMMARY}")
    if is_trusted and misfit is not None:
        problems.append("so all that was written is there")
    return mended if is_trusted else records, [f"{path}: {'; '.join(problems)}"] if problems else [], is_trusted


class NewRecords:
    """Reads of a ``metrics.csv`` that grows what is new, and never fails.

    Attributes:
        num_bytes: That the last call read.
        is_behind: Whether there was more than it might read.
    """

    def __init__(self, directory: Path | str) -> None:
        """Takes the run directory."""
        self.num_bytes, self.is_behind = 0, False
        self._path = Path(directory) / METRICS
        self._file, self._position, self._last = (0, 0), 0, b""  # which file, how much of it, and its last line

    def read(self, limit: int) -> tuple[list[Record], bool]:
        """Returns the records since the last call, and whether all earlier ones are void.

        They are once the file is another one, or has been cut back by a run that goes on from a checkpoint. A line that
        is not whole yet is left for the next call, and one that cannot be read is left out.

        Args:
            limit: Bytes to read at most.
        """
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                file.seek(self._position - len(self._last))
                # The time in the line is another one where it was written again.
                is_same = self._file == (status.st_dev, status.st_ino) and file.read(len(self._last)) == self._last
                is_void = not is_same and self._position > 0
                if not is_same:
                    self._file, self._position, self._last = (status.st_dev, status.st_ino), 0, b""
                    file.seek(0)
                content = file.read(limit)
        except OSError:
            self.num_bytes, self.is_behind = 0, False
            return [], False
        self.num_bytes, self.is_behind = len(content), len(content) == limit
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            return [], is_void
        lines = whole[:-1].split(b"\n")
        records, _ = _read_what_can_be(lines[1:] if self._position == 0 else lines, first=1)
        self._position += len(whole)
        self._last = lines[-1] + b"\n"
        return records, is_void


def _entry(summary: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    """Returns the sums that a summary has of a file; None if it says nothing of it, as older ones do not."""
    files = (summary or {}).get("files")
    if not isinstance(files, Mapping) or name not in files:
        return None
    return files[name] if isinstance(files[name], Mapping) else {}


def _parse(content: bytes) -> tuple[list[Record], list[str]]:
    """Returns the records of ``metrics.csv``, and what is wrong with its lines."""
    if not content:
        return [], ["is empty"]
    *lines, rest = content.split(b"\n")
    problems = [_TORN] if rest else []
    if lines and lines[0].strip() != ",".join(METRIC_COLUMNS).encode():
        problems.append(f"its first line is not {','.join(METRIC_COLUMNS)}")
    records, unreadable = _read_what_can_be(lines[1:], first=2)
    if unreadable:
        shown = ", ".join(map(str, unreadable[:5])) + (", ..." if len(unreadable) > 5 else "")
        problems.append(f"{len(unreadable)} lines cannot be read ({shown}), left out")
    if len({(record[0], record[3]) for record in records}) < len(records):
        problems.append(_TWICE)
    return records, problems


def _read_what_can_be(lines: Sequence[bytes], first: int) -> tuple[list[Record], list[int]]:
    """Returns the records of some lines, and the numbers of those that hold none, where the first has a given one."""
    try:
        return _read_lines(lines), []
    except (ValueError, csv.Error):  # one by one, which takes ten times as long
        records, unreadable = [], []
        for number, line in enumerate(lines, first):
            try:
                records += _read_lines([line])
            except (ValueError, csv.Error):
                unreadable.append(number)
        return records, unreadable


def _read_lines(lines: Sequence[bytes]) -> list[Record]:
    """Reads lines of ``metrics.csv``.

    Raises:
        ValueError: If one of them is not a record.
        csv.Error: Likewise.
    """
    text = b"\n".join(lines).decode("ascii").replace("\r\n", "\n").removesuffix("\r")
    texts = text.split("\n") if lines else []
    if not "".join(texts).isprintable():
        raise ValueError("not printable")
    rows = list(csv.reader(texts))
    if len(rows) != len(texts):  # one went on in the next
        raise ValueError("not one record a line")
    if not rows:
        return []
    env_steps, gradient_steps, wall_seconds, names, values = zip(*rows, strict=True)
    steps = (map(int, env_steps), map(int, gradient_steps))
    return list(zip(*steps, map(float, wall_seconds), names, map(float, values), strict=True))


def _find_irregular(records: Sequence[Record]) -> list[str]:
    """Returns what shows that records are missing: evaluations come at equal distances, and are alike."""
    problems = []
    names: dict[int, set[str]] = {}
    for env_steps, _, _, name, _ in records:
        names.setdefault(env_steps, set()).add(name)
    steps = sorted(names)
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    usual = min(gaps[:-1], default=0)
    holes = [steps[place] for place, gap in enumerate(gaps) if usual and gap > usual]
    if holes:
        problems.append(f"evaluations are missing after {', '.join(map(str, holes[:5]))} env steps")
    # No episode may have ended since the last evaluation, and a resumed process has no clock of what was before.
    seen, missing = set[str](), set[str]()
    for step in steps:
        missing |= {name for name in seen - names[step] if not name.startswith(("train/episode_return", "time/"))}
        seen |= names[step]
    if missing:
        problems.append(f"records of {', '.join(sorted(missing))} are missing")
    return problems


def _completed(records: Sequence[Record], summary: Mapping[str, Any]) -> tuple[list[Record], list[str], list[str]]:
    """Completes the last evaluation of a finished run by its summary.

    Returns:
        The records, with those of the last evaluation in the summary's order; the names of those that were added; and
        the names of which the summary says something else.
    """
    env_steps, gradient_steps = summary.get("env_steps"), summary.get("gradient_steps")
    try:
        metrics = {name: float(value) for name, value in dict(summary["metrics"]).items()}
    except (KeyError, TypeError, ValueError):
        return list(records), [], ["any metric"]
    if not metrics or not isinstance(env_steps, int) or not isinstance(gradient_steps, int):
        return list(records), [], []
    there = {record[3]: record for record in records if record[0] == env_steps}
    wall_seconds = next((record[2] for record in there.values()), math.nan)
    last = [(env_steps, gradient_steps, wall_seconds, name, value) for name, value in metrics.items()]
    # Lines that were copied are there once.
    before = [one for one in dict.fromkeys(records) if one[0] != env_steps or one[3] not in metrics]
    contradicted = [name for name in metrics if name in there and repr(there[name][4]) != repr(metrics[name])]
    return [*before, *last], [name for name in metrics if name not in there], contradicted


def read_metrics(directory: Path | str) -> dict[str, tuple[list[int], list[float]]]:
    """Reads for every name of ``metrics.csv`` its env steps and values, in the order of writing."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for env_steps, _, _, name, value in read_records(directory)[0]:
        steps, values = series.setdefault(name, ([], []))
        steps.append(env_steps)
        values.append(value)
    return series


def csv_text(rows: Iterable[Sequence[Any]]) -> bytes:
    """Returns rows as ``metrics.csv`` holds them."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def read_config(directory: Path | str) -> dict[str, Any]:
    """Reads the configuration of a run.

    Raises:
        InvalidValueError: If there is none that can be read.
    """
    path = Path(directory) / CONFIG
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InvalidValueError("resume", directory, f"holds no run (no {path.name} in it)") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidValueError("resume", directory, f"{path} is damaged ({str(error).splitlines()[0]})") from None
    if not isinstance(config, dict):
        raise InvalidValueError("resume", directory, f"{path} is damaged; restore that file")
    return config
