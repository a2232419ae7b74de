"""The code blocks of the README and the pages."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """Returns what a page shows in a language, in its order."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> Iterator[tuple[str, ...]]:
    """Yields every command line of ``experiments`` without its comment: the module, and its arguments."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if (start := line.find("python -m experiments.")) >= 0:
                yield tuple(shlex.split(line[start:], comments=True)[2:])
