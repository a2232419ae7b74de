"""All commands in one: remac <command> ... is python -m experiments.<command> ...; --help after one tells more.

Commands:
"""

import os
import runpy
import sys
from pathlib import Path

from experiments.console.pipes import outlive_readers

HERE = Path(__file__).resolve().parent


def docstrings() -> dict[str, str]:
    """Returns every command with what is said of it, read from its file without loading it."""
    files = {path.stem: path for path in HERE.glob("[a-z]*.py")}
    files |= {path.parent.name: path for path in HERE.glob("[a-z]*/__main__.py")}
    return {name: path.read_text().split('"""')[1] for name, path in sorted(files.items())}


def commands() -> dict[str, str]:
    """Returns every command with the first words of what it does."""
    return {name: text.partition(": `")[0] for name, text in docstrings().items()}


def main() -> None:
    """Runs the command that the first argument names."""
    outlive_readers()
    known = commands()
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("-h", "--help"):
        width = max(map(len, known))
        print(__doc__ + "\n".join(f"  {command.ljust(width)}  {meaning}" for command, meaning in known.items()))
        return
    if name not in known:
        print(f"command={name}: no such command; there are {', '.join(known)}", file=sys.stderr)
        sys.exit(2)
    # As with python -m, modules of the folder where the person stands are found, such as one that registers tasks.
    sys.path.append(os.getcwd())
    module = f"{__package__}.{name}"
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
