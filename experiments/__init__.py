"""What a person runs. Hydra, W&B, files and progress bars live here only."""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from experiments.console.loading import say_importing
from experiments.console.messages import escape_what_cannot_be_written
from experiments.console.signals import end_at_once_on_interrupt

escape_what_cannot_be_written()  # here, since not every program comes by a command of ours: launchers start workers
# ``python -m experiments.<command>``, or ``remac <command>``, is being loaded, which takes seconds.
if sys.argv[:1] == ["-m"] or Path(sys.argv[0]).name == "remac":
    end_at_once_on_interrupt()
    say_importing()


class _OwnPackages:
    """Finds the packages beside this one before those of their names in the folder that ``-m`` searches first."""

    _root = str(Path(__file__).resolve().parents[1])

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [cls._root]) if name in ("remac", "agents", "envs") else None


if __name__ == "experiments":  # in a wheel they are below remac
    sys.meta_path.insert(0, _OwnPackages)
