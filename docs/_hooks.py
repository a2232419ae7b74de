"""For the site: figures of ``experiments/results/`` are pages' neighbours there, and other files' links go to none."""

import functools
from pathlib import Path

from mkdocs.structure.files import File

from experiments import report
from experiments.console.key_value import command_of

RESULTS = Path("experiments", "results")
# Of the tasks with learning curves of several arms; other tables are of what else was varied.
SHOWN = (
    "longer",
    "retries",
    "reacher",
    "ant_humanoid",
    "other_tasks",
    "sparse",
    "sparse_half_cheetah",
    "sparse_walker2d",
    "schedule",
    "dmc",
    "ppo",
    "td3",
)
REPORT = "results/report.html"


def on_files(files, config):
    """Adds every figure, and one page of all learning curves."""
    for path in sorted(RESULTS.rglob("*.png")):
        relative = path.relative_to(RESULTS.parent).as_posix()
        files.append(File.generated(config, relative, abs_src_path=str(path.resolve())))
    tables = tuple(str(RESULTS / name / "curves.csv") for name in SHOWN)
    page = _report(tables, tuple(Path(table).stat().st_mtime for table in tables))
    files.append(File.generated(config, REPORT, content=page))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points at them as they are called there."""
    if page.file.src_uri == "results.md":
        title, _, rest = markdown.partition("\n")
        markdown = f"{title}\n\n[All learning curves on one page]({REPORT}), to be pointed at.\n{rest}"
    return markdown.replace("](../experiments/results/", "](results/")


@functools.lru_cache(maxsize=1)  # while it is served
def _report(tables, changed):
    metric = "eval/return,actor/gaussian_entropy,actor/pre_tanh_std"
    settings = {"metric": metric, "published": "true"}
    command = command_of("experiments.report", [*tables, *("=".join(setting) for setting in settings.items())])
    return report.compare(tables, settings, command)
