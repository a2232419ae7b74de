"""How fast programs ran."""

from experiments.comparing.declarations import Drawing, Look, figure
from experiments.comparing.drawing import Row
from experiments.comparing.panels import draw_speeds
from experiments.comparing.runs import SPEED, Runs


@figure(
    "speed",
    when=lambda runs, _: any(run.experiment == "speed" for run in runs.used),
    needs_final=True,
    place=80,
)
def speed(runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws the env steps a second of whole programs: the seeds that one trains share a clock, and are no sample."""
    rows: list[Row] = []
    figure = draw_speeds(runs, rows)
    return Drawing(
        "speed",
        "Env steps a second",
        "Env steps a second of whole programs, evaluations left out, mean over the last tenth of training: a dot per "
        "program, which trains its members (the seeds of an arm) together, so that there is no interval over seeds: "
        + "; ".join(
            f"{row['arm']} on {row['task']} {row['env_steps_per_second']:.4g} (members: {row['members']})"
            for row in rows
        )
        + ".",
        figure,
        rows,
        (SPEED,),
        "total of the members of a program, which share one clock; a dot per program, no interval",
    )
