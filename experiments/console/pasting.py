"""Overrides and commands as a shell and Hydra read them back."""

import contextlib
import os
import re
import shlex
from pathlib import Path


def key_of(argument: str) -> str:
    """Returns the key that an override of Hydra's changes, without its signs: ``a.b`` of ``++a.b=1``."""
    return argument.partition("=")[0].lstrip("+~")


def override(key: str, value: Path | str) -> str:
    """Returns ``key=value`` so that Hydra reads the value as this text, with quotes where it would read another."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    text = str(value)
    plain = f"{key}={text}"
    try:
        parsed = OverridesParser.create().parse_override(plain)
        if "${" not in text and not parsed.is_sweep_override() and parsed.value() == text:
            return plain
    except HydraException:
        pass
    # OmegaConf takes ${ for a reference, unless an odd number of backslashes is before it.
    literal = re.sub(r"(\\*)\$\{", lambda match: rf"{match[1] * 2}\${{", text)
    return f"{key}={QuotedString(literal, Quote.double).with_quotes()}"


def pasted(key: str, value: Path | str) -> str:
    """Returns an override as it is typed into a shell."""
    return shlex.quote(override(key, value))


def as_path(text: str) -> Path:
    """Returns the path that a text names; a ``~`` is the home folder, which a shell leaves as it is inside quotes."""
    with contextlib.suppress(RuntimeError):  # there is no home
        if not os.path.lexists(text):
            return Path(text).expanduser()
    return Path(text)
