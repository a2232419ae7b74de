"""SBX's SAC on HalfCheetah-v5: ``python sbx.py <num_envs> <seconds>``."""

import sys
from pathlib import Path

# This file has the name of the library, and Python looks beside the script first.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
from sbx import SAC  # noqa: E402

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent))
    from _gymnasium_sac import main

    main(SAC)
