"""What a person runs. Hydra, W&B, files and progress bars live here only."""

import sys

from experiments.console.signals import end_at_once_on_interrupt

if sys.argv[:1] == ["-m"]:  # ``python -m experiments.<program>`` is being loaded, which takes seconds
    end_at_once_on_interrupt()
