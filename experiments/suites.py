"""Lists every suite and task, and what is not on this machine: ``python -m experiments.suites [suite=dmc]``.

Exit statuses: 0 done, 2 bad input (one line on stderr).
"""

import textwrap
from collections.abc import Sequence

import envs
from experiments.console.key_value import exit_with, parse
from experiments.console.messages import counted
from remac.validation import require_one_of

WIDTH = 100


def main(arguments: Sequence[str]) -> None:
    """Prints the list."""
    _, settings = parse(arguments, {"suite": "all"}, with_directories=False)
    require_one_of("suite", settings["suite"], ("all", *envs.SUITES))
    print("\n".join(lines(envs.SUITES if settings["suite"] == "all" else (settings["suite"],))))


def lines(suites: Sequence[str]) -> list[str]:
    """Returns a line for each suite and what its tasks lack, and under it those tasks."""
    told = [f"{suite}/<id>: whatever is registered" for suite in suites if suite in envs.OPEN_SUITES]
    tasks: dict[tuple[str, str | None], list[str]] = {}
    for name in envs.names(*suites):
        suite, _, task = name.partition("/")
        tasks.setdefault((suite, envs.lacks(name)), []).append(task)
    for (suite, reason), found in tasks.items():
        told.append(f"{suite}/<task>, {counted(len(found), 'task')}" + (f"; {reason}" if reason else "") + ":")
        told += textwrap.wrap(
            " ".join(found), WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
    return told


if __name__ == "__main__":
    exit_with(main)
