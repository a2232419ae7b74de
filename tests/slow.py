"""Marks some of a test's cases slow."""

from collections.abc import Iterable
from typing import Any

import pytest


def fast_are(count: int, cases: Iterable[Any]) -> list[Any]:
    """Returns cases for ``parametrize``, of which those after the first ``count`` are marked ``slow``."""

    def values(case: Any) -> tuple[Any, ...]:
        return case if isinstance(case, tuple) else (case,)

    return [pytest.param(*values(case), marks=pytest.mark.slow if i >= count else ()) for i, case in enumerate(cases)]
