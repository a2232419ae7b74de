"""Checks the paper's claims against runs: ``python -m experiments.claims <directories> [json=<file>]``.

Each claim is judged per task, and then over all tasks: pass, fail, or not enough data. A claim about every M or every
epsilon passes only if all of the protocol's are there; one counterexample fails it. Returns are those of sampled actions.
A value of an arm is the mean over its finished seeds, of which there must be two. What other metrics would say stands
beside, and decides nothing.

| claim | statement | decided on |
|---|---|---|
| a | at epsilon 1e-8, the entropy of every M > 1 exceeds that of M = 1 | `actor/entropy`, last 10% |
| b | at epsilon 1e-8, the final standard deviation rises with M | `actor/pre_tanh_std`, last 10% |
| c | the entropy of M = 8 exceeds that of M = 1 at every epsilon | `actor/entropy`, last 10% |
| d (SAC) | the best M > 1 is at most one standard deviation of SAC's seeds below SAC | `eval/return_stochastic`, last 10% |
| d (PPO) | the best M > 1 is above PPO, on most tasks | `eval/return_stochastic`, last 10% |
| e | the share of updates that raise sigma grows with M | `actor/raises_std`, whole training |
| f (gradient) | the actor's gradient norm falls with M | `actor/grad_norm`, last 10% |
| f (update) | with Adam at epsilon 1e-8 the update norm does not: M = 8 is at most one standard deviation of M = 1's seeds below M = 1 | `actor/update_norm`, last 10% |

In d the best M is chosen for each seed by the mean over the other seeds: chosen and judged on the same seeds, the best
of several equal arms would be above each of them by selection alone.

Only arms that share all settings but the agent's are compared: of each task the longest training that has finished.
Where several arms fit (one M and epsilon, but other settings of the agent too), the one counts that deviates least from the task's
values and from the protocol's N: 16 for M = 8 and 8 below, and 16 for every M in b and e. Tables of curves, which tell
neither epsilon nor N, are named and not judged.

Exit statuses: 0 done, whatever the verdicts; 2 bad input (one line on stderr).
"""  # noqa: E501

import json
from collections.abc import Sequence

from experiments.comparing.claims import as_json, as_text, check_all
from experiments.comparing.loading import load
from experiments.console.key_value import command_of, exit_with, parse, require_not_read
from experiments.console.pasting import as_path
from experiments.records.files import require_output
from remac.files import write_whole


def main(arguments: Sequence[str]) -> None:
    """Prints every claim's verdict."""
    paths, settings = parse(arguments, {"json": ""})
    file = as_path(settings["json"]) if settings["json"] else None
    if file is not None:
        require_output("json", file)
        require_not_read("json", file, [file], paths)
    runs = load(paths)
    results = check_all(runs)
    print(as_text(results))
    for note in runs.notes:
        print(f"note: {note}")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = as_json(results, runs, command_of("experiments.claims", arguments))
        write_whole(file, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    exit_with(main)
