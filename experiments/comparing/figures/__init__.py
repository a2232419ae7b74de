"""The figures that compare runs: each is a function of a module here, found by its declaration.

A new one is a new module: ``@figure`` says when there is something to draw, and nothing else needs to know it.
"""

import importlib
import pkgutil

from experiments.comparing.declarations import Figure


def find() -> list[Figure]:
    """Returns all figures that the modules of this package declare, in their order."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Figure)}
    return sorted(found.values(), key=lambda figure: (figure.place, figure.name))
