"""The code blocks of the README and the pages."""

import re
from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """Returns what a page shows in a language, in its order."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
