"""How the wheel differs from the repository: all its packages are below ``remac``, so that it owns no other name.

``agents``, ``envs``, ``experiments`` and ``conf`` stand at the top of the repository, where they are read and run. In
site-packages these names may be another project's, so there they are ``remac.agents`` and so on, and what the sources
say of them is rewritten as they are copied. An editable installation is the repository as it is.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

MOVED = ("agents", "envs", "experiments")
_NAME = rf"({'|'.join(MOVED)})\b"
REWRITTEN = (
    (rf"^( *from ){_NAME}(?=\S* import )", r"\1remac.\2"),
    (rf"^( *)import {_NAME}$", r"\1from remac import \2"),
    (r"python -m experiments\.(\w+)(?![\w.])", r"remac \1"),
    (rf"(-m |_target_: ){_NAME}", r"\1remac.\2"),
    (rf"([\"'`]){_NAME}(?=\.\w)", r"\1remac.\2"),
    (r"pip install -c constraints\.txt -e '\.\[", "pip install 'remac["),
)


def as_in_wheel(text: str) -> str:
    """Returns a source or configuration file as it stands in the wheel."""
    for pattern, new in REWRITTEN:
        text = re.sub(pattern, new, text, flags=re.MULTILINE)
    return text


class BuildPy(build_py):
    """Copies the packages, and rewrites what they say of each other."""

    def run(self) -> None:
        """Copies nothing where the installation is editable."""
        super().run()
        for path in Path(self.build_lib, "remac").rglob("*"):
            if path.suffix in (".py", ".yaml"):
                path.write_text(as_in_wheel(path.read_text("utf-8")), "utf-8")


class EditableWheel(editable_wheel):
    """Makes the repository's own packages importable, by the names that they have there."""

    def run(self) -> None:
        """Forgets where the wheel has them."""
        self.distribution.packages = find_packages(include=["remac*", *(f"{name}*" for name in MOVED)])
        self.distribution.package_dir, self.distribution.package_data = {}, {}
        super().run()


if __name__ == "__main__":
    moved = find_packages(include=[f"{name}*" for name in MOVED]) + find_namespace_packages(include=["conf*"])
    setup(
        packages=[*find_packages(include=["remac*"]), *(f"remac.{name}" for name in moved)],
        package_dir={f"remac.{name}": name for name in (*MOVED, "conf")},
        package_data={"": ["*.yaml"], "remac": ["py.typed"], "remac.experiments.comparing": ["page_parts/*", "*.csv"]},
        cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel},
    )
