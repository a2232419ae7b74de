"""Files that are whole or not there."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that at every moment there is the old content or the new, never a part.

    Raises:
        OSError: If it cannot be written; the old content is still there.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(content)
            sync(file.fileno())
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        error.filename = str(path)  # what a full disk refuses has no name
        raise


def sync(file: Path | int) -> None:
    """Puts what was written to a file, or a directory's list of files, on the disk."""
    descriptor = file if isinstance(file, int) else os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        if not isinstance(file, int):
            os.close(descriptor)


def is_too_long(path: Path) -> bool:
    """Whether the file system takes no path of this length, or with names of such length."""
    whole = path.absolute()
    above = next(parent for parent in (whole, *whole.parents) if os.path.exists(parent))
    names, length = (os.pathconf(above, name) for name in ("PC_NAME_MAX", "PC_PATH_MAX"))
    return any(len(os.fsencode(part)) > names for part in whole.parts) or len(os.fsencode(whole)) >= length
