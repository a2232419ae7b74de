"""Executes the notebooks of ``examples/``; ``python tests/notebooks.py [name]`` keeps their new outputs in them."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
PATHS = {path.stem: path for path in sorted((ROOT / "examples").glob("*.ipynb"))}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def executed(path: Path, directory: Path) -> nbformat.NotebookNode:
    """Runs a notebook in a new kernel, whose working directory is given; returns it as it is kept.

    Raises:
        nbclient.exceptions.CellExecutionError: With the traceback, if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(directory)}},
    ).execute()
    return cleaned(notebook)


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Takes away what differs from one execution to the next: counts, warnings, and the kernel's version."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    return notebook


if __name__ == "__main__":
    # A notebook stands where the package is installed; here it may not be.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    for name in sys.argv[1:] or PATHS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(PATHS[name], Path(folder)), PATHS[name])
