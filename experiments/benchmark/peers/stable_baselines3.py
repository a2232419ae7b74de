"""Stable-Baselines3 on Gymnasium's MuJoCo tasks; its arguments are those of ``_gymnasium.py``."""

import sys
from pathlib import Path

# This file has the name of the library, and Python looks beside the script first.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
import stable_baselines3  # noqa: E402

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent))
    from _gymnasium import main

    main(stable_baselines3)
