"""What a person runs. Hydra, W&B, files and progress bars live here only."""

import sys
from pathlib import Path

from experiments.console.messages import escape_what_cannot_be_written
from experiments.console.signals import end_at_once_on_interrupt

escape_what_cannot_be_written()  # here, since not every program comes by a command of ours: launchers start workers
# ``python -m experiments.<command>``, or ``remac <command>``, is being loaded, which takes seconds.
if sys.argv[:1] == ["-m"] or Path(sys.argv[0]).name == "remac":
    end_at_once_on_interrupt()
