"""Writes the reference pages made from the code: ``python -m experiments.reference [out=docs]``.

``hyperparameters.md``: every agent's hyperparameters with default, what is allowed and what they mean, from the agents'
own declarations. ``commands.md``: what every command says of itself. Exit statuses: 0 done, 2 bad input (one line on
stderr).
"""

from collections.abc import Sequence
from typing import Any

from agents import AGENTS
from experiments.__main__ import docstrings
from experiments.console.key_value import exit_with, parse, require_folder
from experiments.console.pasting import as_path
from remac.hyperparameters import Hyperparameter, hyperparameters


def main(arguments: Sequence[str]) -> None:
    """Writes the pages into a folder."""
    _, settings = parse(arguments, {"out": "docs"}, with_directories=False)
    folder = as_path(settings["out"])
    require_folder("out", folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)
        print(folder / name)


def pages() -> dict[str, str]:
    """Returns every page by its file's name."""
    return {"commands.md": command_page(), "hyperparameters.md": hyperparameter_page()}


def command_page() -> str:
    """Writes what every command says of itself."""
    sections = [
        "# Commands",
        "`remac <command>` is `python -m experiments.<command>`. Keys of `train`, `evaluate` and `sweep` are Hydra's:\n"
        "a text with a comma needs quotes of its own, and `-m` runs several values.\n\n"
        "Made by `python -m experiments.reference`.",
    ]
    for name, text in docstrings().items():
        sections += [f"## {name}", text.replace("``", "`").strip()]
    return "\n\n".join(sections) + "\n"


def hyperparameter_page() -> str:
    """Writes what all agents declare, and then what each one adds."""
    declared = {name: hyperparameters(agent) for name, agent in AGENTS.items()}
    shared = {
        key: one
        for key, one in next(iter(declared.values())).items()
        if all(others.get(key) == one for others in declared.values())
    }
    sections = [
        "# Hyperparameters",
        "Keys of the command line, `agent.<name>=<value>`. What is not given is the task's value in the setting\n"
        "chosen (`setting=protocol` or `setting=modern`, see `conf/tuned/`), `env.tuned.<setting>.<agent>.<name>` or\n"
        "`env.tuned.<setting>.all.<name>`, or else the default. Jobs of a sweep that differ only in seeds and in\n"
        "hyperparameters marked * are one program.\n\n"
        "Made by `python -m experiments.reference`.",
        "## All agents",
        _table(shared),
    ]
    for name, own in declared.items():
        sections += [f"## agent={name}", _table({key: one for key, one in own.items() if shared.get(key) != one})]
    return "\n\n".join(sections) + "\n"


def _table(declared: dict[str, Hyperparameter]) -> str:
    rows = [
        f"| `{key}`{' *' if one.is_leaf else ''} | {_value(one.default)} | {one.allowed} | {one.meaning} |"
        for key, one in sorted(declared.items())
    ]
    return "\n".join(["| name | default | allowed | meaning |", "|---|---|---|---|", *rows])


def _value(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, tuple):
        return str(list(default))
    return str(default).lower() if isinstance(default, bool) else str(default)


if __name__ == "__main__":
    exit_with(main)
