"""What a person runs. Hydra, W&B, files and progress bars live here only."""

import sys

from experiments.console.messages import escape_what_cannot_be_written
from experiments.console.signals import end_at_once_on_interrupt

escape_what_cannot_be_written()  # here, since not every program comes by a command of ours: launchers start workers
if sys.argv[:1] == ["-m"]:  # ``python -m experiments.<program>`` is being loaded, which takes seconds
    end_at_once_on_interrupt()
