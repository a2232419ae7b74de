"""One page about runs: ``python -m experiments.report <directories> [out=<file>] [metric=] [reference=]``.

Writes one HTML file (``report.html``) that needs no other file and no network: the figures of ``experiments.plot``,
which tells the other keys, the films of the best and the median run of each task where ``experiments.evaluate`` has
made them, the claims of ``experiments.claims``, each with the figures that it rests on, tables of final values, what is
missing against the plans (``plan.json``) of the sweeps among the directories, and what ran, on what, with which seeds.
Curves tell the numbers under the pointer; tables are sorted by a click on a column and filtered by words of their rows.

Exit statuses: 0 done, 2 bad input (one line on stderr).
"""

import base64
import io
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.comparing.claims import Result, check_all
from experiments.comparing.comparisons import LOOK, Drawing, draw_all, make_look
from experiments.comparing.drawing import own_style
from experiments.comparing.films import FILM, as_webp, best_and_median
from experiments.comparing.judgements import FAIL, NOT_ENOUGH, PASS
from experiments.comparing.loading import TUNING_EXPERIMENTS, load
from experiments.comparing.page import as_json, html_page, plain_panels
from experiments.comparing.panels import LABELS
from experiments.comparing.runs import SPEED, X_AXES, Cell, Run, Runs, as_ranges, value_text
from experiments.comparing.statistics import describe
from experiments.comparing.tuning import learning_rates
from experiments.console.key_value import command_of, exit_with, parse, require_not_read
from experiments.console.messages import counted, one_line
from experiments.console.pasting import as_path, pasted
from experiments.records.files import CONFIG, FINISHED, require_output
from remac.files import write_whole
from remac.validation import require_one_of

FILTERED_FROM = 8  # rows
TASKS_IN_TITLE = 4
CLASSES = {PASS: "pass", FAIL: "fail", NOT_ENOUGH: "unknown"}


class Html(str):
    """Text that is HTML already."""


def main(arguments: Sequence[str]) -> None:
    """Writes the page."""
    paths, settings = parse(arguments, {"out": "report.html", **LOOK})
    out = as_path(settings["out"])
    require_output("out", out)
    require_not_read("out", out, [out], [*paths, settings["published"]])
    require_one_of("x", settings["x"], X_AXES)
    page = compare(paths, settings, command_of("experiments.report", arguments))
    out.parent.mkdir(parents=True, exist_ok=True)
    # Names of files may hold bytes that are no text.
    write_whole(out, page.encode(errors="backslashreplace"))
    print(out)


def compare(paths: Sequence[Path | str], settings: dict[str, str], command: str) -> str:
    """Reads runs and files of curves, and returns the page; ``settings`` are of the keys of ``LOOK``."""
    runs = load(paths, keep_tuning=True)
    look = make_look(runs, settings, command)
    notes = list(runs.notes)
    drawings = draw_all(runs, look, notes)
    return write_page(runs, drawings, check_all(runs), look.metrics, notes, look.command)


def write_page(
    runs: Runs,
    drawings: Sequence[Drawing],
    results: Sequence[Result],
    metrics: Sequence[str],
    notes: Sequence[str],
    command: str,
) -> str:
    """Returns the whole page."""
    experiments = {run.experiment for run in runs.used} | {plan.experiment for plan in runs.plans}
    names = ", ".join(sorted(name.replace("_", " ") for name in experiments if name)) or "runs"
    tasks = ", ".join(runs.tasks) if len(runs.tasks) <= TASKS_IN_TITLE else counted(len(runs.tasks), "task")
    title = f"{names[0].upper()}{names[1:]} on {tasks}"
    sections = [
        ("summary", "Summary", _summary(runs)),
        ("figures", "Figures", "".join(map(_figure, drawings))),
        *([("films", "Films", films)] if (films := _films(runs)) else []),
        ("claims", "Claims", _claims(results, drawings)),
        ("tables", "Final values", _tables(runs, metrics)),
        ("missing", "What is missing", _missing(runs, notes)),
        ("ran", "What ran, and on what", _what_ran(runs, command)),
    ]
    if _is_tuning(runs) and learning_rates(runs):
        sections.insert(1, ("tuning", "The learning rate of each task", _tuning(runs)))
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{heading}</h2>{text}</section>' for name, heading, text in sections)
    head = f'<header><h1>{escape(title)}</h1><nav aria-label="Sections"><ul>{links}</ul></nav></header>'
    return html_page(title, f"{head}\n<main>{body}</main>", ("tables.js", "uplot.js", "curves.js"))


def compare_with_plans(runs: Runs) -> list[dict[str, Any]]:
    """Returns the planned cells of which not every seed has finished: task, arm, seeds, and what became of the rest."""
    found = {run.directory.resolve(): run for run in runs.all}
    lacking = []
    for plan in runs.plans:
        cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for entry in plan.runs:
            cells.setdefault((str(entry["task"]), str(entry["arm"])), []).append(entry)
        for (task, arm), entries in cells.items():
            states = [(entry["seed"], _state(found, Path(entry["directory"]))) for entry in entries]
            rest = [f"seed {seed}: {state}" for seed, state in states if state != FINISHED]
            if rest:
                finished = as_ranges(seed for seed, state in states if state == FINISHED)
                planned = as_ranges(seed for seed, _ in states)
                lacking.append(
                    {"experiment": plan.experiment, "task": task, "arm": arm, "planned": planned}
                    | {"finished": finished or "none", "rest": "; ".join(rest)}
                )
    return lacking


def _state(found: dict[Path, Run], directory: Path) -> str:
    if (run := found.get(directory)) is None:
        return "cannot be read" if (directory / CONFIG).exists() else "not started (no run directory)"
    return FINISHED if run.status == FINISHED else f"{run.status} at {run.env_steps:,} env steps ({run.reason})"


def _summary(runs: Runs) -> str:
    states = Counter(run.status for run in runs.all)
    seeds = as_ranges(run.seed for cell in runs.cells for run in cell.finished)
    items = [
        f"{counted(len(runs.all), 'run')}: {', '.join(f'{count} {state}' for state, count in sorted(states.items()))}.",
        f"Tasks: {', '.join(runs.tasks)}; {counted(len(runs.arms), 'arm')}; finished seeds {seeds or 'none'}.",
        "A final value is the mean over the last tenth of a run's training; only finished runs count.",
    ]
    if any(run.status != FINISHED for run in runs.all):
        items.append("python -m experiments.watch shows the curves of runs that have not finished, too.")
    if lacking := compare_with_plans(runs):
        cells = counted(len(lacking), "planned cell")
        items.append(f"{cells} of a task and an arm without all seeds: see what is missing.")
    if _is_tuning(runs):
        items.insert(0, "These runs tune a hyperparameter: none of their numbers may be reported.")
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _is_tuning(runs: Runs) -> bool:
    return all(run.experiment in TUNING_EXPERIMENTS for run in runs.used)


def _tuning(runs: Runs) -> str:
    rows = [
        (
            row["task"],
            value_text(row["learning_rate"]),
            ", ".join(f"M={m}: {value:.4g}" for m, value in row["returns"].items()),
            ", ".join(f"M={m}: {rank}" for m, rank in row["ranks"].items())
            or "not every M has finished with a final value",
            row["worst"] or "",
            "chosen" if row["chosen"] else "",
        )
        for row in learning_rates(runs)
    ]
    header = ("task", "learning rate", "mean final return", "rank", "worst rank", "")
    return _table("The best worst rank over all M is chosen; among equals the least sum of ranks", header, rows)


def _missing(runs: Runs, notes: Sequence[str]) -> str:
    lacking = compare_with_plans(runs)
    parts = []
    if not runs.plans:
        parts.append("<p>No plan is among the directories, so what was planned is not known.</p>")
    elif lacking:
        header = ("experiment", "task", "arm", "seeds planned", "seeds finished", "the rest")
        parts.append(
            _table("Cells with fewer finished seeds than planned", header, [tuple(c.values()) for c in lacking])
        )
    else:
        parts.append("<p>Every planned seed has finished.</p>")
    unfinished = [run for run in runs.all if run.status != FINISHED]
    if unfinished:
        rows = [(run.directory, run.task, run.seed, run.status, f"{run.env_steps:,}", run.reason) for run in unfinished]
        header = ("directory", "task", "seed", "status", "env steps", "reason")
        parts.append(_table("Runs that failed or have not finished", header, rows))
    everyone = {task: {run.seed for cell in runs.on(task) for run in cell.finished} for task in runs.tasks}
    fewer = [
        (cell.task, cell.arm, as_ranges(r.seed for r in cell.finished) or "none", as_ranges(everyone[cell.task]))
        for cell in runs.cells
        if {run.seed for run in cell.finished} != everyone[cell.task]
    ]
    if fewer:
        parts.append(
            _table(
                "Arms without some of the other arms' seeds",
                ("task", "arm", "finished seeds", "seeds of any arm on the task"),
                fewer,
            )
        )
    if notes:
        parts.append("<h3>Notes</h3><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
    return "".join(parts)


def _claims(results: Sequence[Result], drawings: Sequence[Drawing]) -> str:
    tasks = list(dict.fromkeys(task for result in results for task in result.tasks))
    rows = [
        (
            Html(f'<a href="#claim-{escape(result.claim.name)}">{escape(result.claim.name)}</a>'),
            result.claim.statement,
            *(_verdict(result.tasks[task].verdict) if task in result.tasks else "" for task in tasks),
            _verdict(result.verdict),
            Html(", ".join(_figures_of(result, drawings)[:1]) or "none"),
        )
        for result in results
    ]
    parts = [
        _table("", ("claim", "", *tasks, "all tasks", "figure"), rows),
        "<p>Judged per task; over all tasks one failure fails a claim, except where it says most tasks. Other metrics "
        "stand beside and decide nothing.</p>",
        *(_claim(result, _figures_of(result, drawings)) for result in results),
    ]
    text = "".join(parts)
    if all(judgement.verdict == NOT_ENOUGH for result in results for judgement in result.tasks.values()):
        summary = f"These runs are not enough to judge any of {counted(len(results), 'claim')}"
        return f"<details><summary>{summary}</summary>{text}</details>"
    return text


def _figures_of(result: Result, drawings: Sequence[Drawing]) -> list[str]:
    """Returns links to the figures that show what decides a claim: final values first, against M before others."""
    shown = [drawing for drawing in drawings if result.claim.metric in drawing.metrics]
    shown.sort(key=lambda drawing: ("against_num_retries" not in drawing.name, "final" not in drawing.name))
    return [f'<a href="#figure-{escape(one.name)}">{escape(one.title)}</a>' for one in shown]


def _claim(result: Result, figures: Sequence[str]) -> str:
    """Returns what a claim rests on, folded away."""
    claim, rows, comments = result.claim, [], []
    for task, judgement in result.tasks.items():
        asked = {(claim.metric, claim.window): judgement} | {
            key: other for key, other in result.beside[task].items() if other.values
        }
        for (metric, window), one in asked.items():
            what = f"{metric}, {window}"
            rows += [
                (task, what, value.name, value.cell.arm, len(value.by_seed), f"{value.mean:.4g}", f"{value.std:.2g}")
                for value in one.values
            ]
            comments.append((task, what, _verdict(one.verdict), one.comment, one.unsure()))
    seen = (
        f"In the figures: {', '.join(figures)}" if figures else f"No figure here shows it; metric={claim.metric} does"
    )
    held_zero = "differences on the same seeds whose 95% interval holds 0"
    return (
        f'<details id="claim-{escape(claim.name)}"><summary>{escape(f"{claim.name}. {claim.statement}")}: '
        f"{_verdict(result.verdict)}</summary>"
        f"<p>Decided on <code>{escape(claim.metric)}</code>, {escape(claim.window)}. {seen}.</p>"
        + _table("", ("task", "by", "verdict", "why", held_zero), comments)
        + _table("", ("task", "of", "M", "arm", "seeds", "mean", "standard deviation"), rows)
        + "</details>"
    )


def _verdict(verdict: str) -> Html:
    return Html(f'<span class="verdict {CLASSES[verdict]}">{verdict}</span>')


def _figure(drawing: Drawing) -> str:
    buffer = io.BytesIO()
    try:
        with own_style():
            drawing.figure.savefig(buffer, format="png", dpi=110)
    except Exception as error:
        return f"<p>{escape(f'{drawing.name}: cannot be drawn ({one_line(error)}), left out')}</p>"
    data = base64.b64encode(buffer.getvalue()).decode()
    picture = f'<img alt="{escape(drawing.description)}" src="data:image/png;base64,{data}">'
    if panels := [panel for panel in drawing.panels if panel.lines]:
        curves = as_json(plain_panels(panels))
        # Open where no script runs.
        picture = (
            f'<script class="curves" type="application/json">{curves}</script>'
            f'<details class="picture" open><summary>The picture, with every seed</summary>{picture}</details>'
        )
    return (
        f'<figure id="figure-{escape(drawing.name)}">{picture}<figcaption><strong>{escape(drawing.title)}.</strong> '
        f"{escape(drawing.description)}</figcaption></figure>"
    )


def _films(runs: Runs) -> str:
    """Shows the best and the median run of each task, if any of these has been filmed; nothing is rendered here."""
    chosen = best_and_median(runs)
    if not any((run.directory / FILM).is_file() for _, run, _, _ in chosen):
        return ""
    parts = []
    for which, run, title, value in chosen:
        caption = (
            f"<strong>{which.capitalize()}: {escape(title)}.</strong> Final return of the mean action {value:,.4g}"
        )
        try:
            data = base64.b64encode(as_webp(run.directory / FILM)).decode()
            alt = escape(f"An episode of the {which} run: {title}")
            parts.append(
                f'<figure><img loading="lazy" alt="{alt}" src="data:image/webp;base64,{data}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
        except FileNotFoundError:
            command = f"python -m experiments.evaluate {pasted('run', run.directory)} render=true"
            parts.append(f"<p>{caption}; not filmed yet: <code>{escape(command)}</code></p>")
        except (OSError, ValueError) as error:
            parts.append(f"<p>{caption}; its film cannot be read ({escape(one_line(error))})</p>")
    return f'<div class="films">{"".join(parts)}</div>'


def _tables(runs: Runs, metrics: Sequence[str]) -> str:
    has_speed = any(SPEED in run.metrics for run in runs.used)
    header = ("arm", "seeds", *(" ".join(LABELS.get(name, name).split()) for name in metrics))
    header += ("env steps a second, of a program's members together",) * has_speed
    parts = [
        "<p>Mean ± standard deviation over finished seeds; in brackets the interquartile mean and its 95% bootstrap "
        "interval, which is too short for few seeds.</p>"
    ]
    for task in runs.tasks:
        rows = [
            (
                cell.arm,
                as_ranges(run.seed for run in cell.finished) or "none",
                *(_numbers(cell, name) for name in metrics),
                *((_speeds(cell),) * has_speed),
            )
            for cell in runs.on(task)
        ]
        parts.append(_table(task, header, rows))
    return "".join(parts)


def _speeds(cell: Cell) -> str:
    return ", ".join(f"{rate:.4g} (members: {members})" for rate, members in cell.speeds()) or "no value"


def _numbers(cell: Cell, metric: str) -> str:
    values = list(cell.by_seed(metric).values())
    if not values:
        return "no value"
    numbers = {key: f"{value:.{2 if key == 'std' else 4}g}" for key, value in describe(values).items()}
    if len(values) == 1:
        return f"{numbers['mean']} (one seed)"
    short = "" if len(values) == len(cell.finished) else f", {len(values)} seeds"
    return Html("{mean} ± {std}<br>[{iqm}; {low}, {high}]".format(**numbers) + short)


def _what_ran(runs: Runs, command: str) -> str:
    parts = [f"<p>This page: <code>{escape(command)}</code></p>"]
    if runs.plans:
        sweeps = [
            (
                plan.experiment,
                plan.scale,
                plan.folder,
                len(plan.runs),
                Html(f"<code>{escape(_pasted(plan.command))}</code>"),
            )
            for plan in runs.plans
        ]
        parts.append(_table("Sweeps", ("experiment", "scale", "folder", "planned runs", "command"), sweeps))
    arms = [
        (cell.task, cell.arm, cell.runs[0].experiment or "", *_settings(cell), as_ranges(run.seed for run in cell.runs))
        for cell in runs.cells
    ]
    header = (
        "task",
        "arm",
        "experiment",
        "agent",
        "M",
        "N",
        "epsilon",
        "learning rate",
        "optimiser",
        "env steps",
        "seeds",
    )
    parts.append(_table("Arms", header, arms))
    parts.append(_machines(runs.used))
    rows = [
        (run.directory, run.task, run.seed, run.status, *_times(run), Html(f"<code>{escape(_command(run))}</code>"))
        for run in runs.all
    ]
    every = _table("", ("directory", "task", "seed", "status", "env steps", "started", "seconds", "command"), rows)
    parts.append(f"<details><summary>Every run ({len(rows)})</summary>{every}</details>")
    return "".join(parts)


def _settings(cell: Cell) -> tuple[str, ...]:
    keys = ("name", "num_retries", "num_samples", "actor_adam_epsilon", "learning_rate", "actor_optimizer")
    values = [cell.agent.get(key) for key in keys]
    lengths = sorted({run.env_steps for run in cell.runs})
    return (*("" if value is None else value_text(value) for value in values), ", ".join(f"{n:,}" for n in lengths))


def _machines(runs: Iterable[Run]) -> str:
    """Tabulates commit, device, machine and versions, with the number of runs that had them."""
    kinds: Counter[str] = Counter()
    for run in runs:
        kinds[json.dumps({key: run.provenance.get(key) for key in ("commit", "device", "machine", "versions")})] += 1
    rows = []
    for text, count in kinds.most_common():
        kind = json.loads(text)
        device, machine = kind["device"] or {}, kind["machine"] or {}
        versions = ", ".join(f"{name} {version}" for name, version in (kind["versions"] or {}).items() if version)
        what = f"{device.get('count', '?')} x {device.get('platform', '?')} ({device.get('kind', '?')})"
        rows.append((count, kind["commit"] or "unknown", what, " ".join(map(str, machine.values())), versions))
    return _table("Commits, machines and versions", ("runs", "commit", "device", "system and Python", "versions"), rows)


def _times(run: Run) -> tuple[str, str, str]:
    seconds = (run.summary or {}).get("wall_seconds")
    return (
        f"{run.env_steps:,}",
        str(run.provenance.get("started") or "unknown"),
        "" if seconds is None else f"{seconds:g}",
    )


def _command(run: Run) -> str:
    command = run.provenance.get("command")
    return _pasted(command) if isinstance(command, list) else "unknown"


def _pasted(command: Sequence[str]) -> str:
    """Returns a command as it is typed; its first part is the program, in one or several words."""
    return " ".join([str(command[0]), shlex.join(map(str, command[1:]))]).strip()


def _table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table that scrolls by itself if it is wider than the page; a long one has a field to filter it."""
    head = "".join(f'<th scope="col"><button>{escape(name)}</button></th>' for name in header)
    cells = ["".join(f"<td>{_cell(value)}</td>" for value in row) for row in rows]
    name = escape(caption or header[0])
    above = f"<strong>{escape(caption)}</strong> " if caption else ""
    if len(cells) >= FILTERED_FROM:
        above += f'<input type="search" placeholder="only rows with these words" aria-label="Filter: {name}">'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Table: {name}"><p>{above}</p><table class="rows">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in cells)}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    return value if isinstance(value, Html) else escape(str(value))


if __name__ == "__main__":
    exit_with(main)
