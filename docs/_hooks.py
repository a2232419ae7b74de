"""For the site: figures of ``experiments/results/`` are pages' neighbours there, and other files' links go to none."""

from pathlib import Path

from mkdocs.structure.files import File

RESULTS = Path("experiments", "results")


def on_files(files, config):
    """Adds every figure."""
    for path in sorted(RESULTS.rglob("*.png")):
        relative = path.relative_to(RESULTS.parent).as_posix()
        files.append(File.generated(config, relative, abs_src_path=str(path.resolve())))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points at them as they are called there."""
    return markdown.replace("](../experiments/results/", "](results/")
