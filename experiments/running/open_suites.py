"""Tasks that no file can list: ``env=<suite>/<task>`` of a suite in ``envs.OPEN_SUITES``, with any name of a task.

To Hydra it is as if ``conf/env/<suite>/<task>.yaml`` were there, with the suite's values. A file of that name comes
first. What is no task the suite itself refuses, when environments are made.
"""

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

import envs

SCHEME = "remac-tasks"
_GROUP = "env/"


class OpenSuites(ConfigSource):
    """What Hydra asks for the configuration of a task, in its search path as ``remac-tasks://``."""

    @staticmethod
    def scheme() -> str:
        """Returns what its entry in the search path begins with."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Makes the configuration of a task."""
        suite, _, task = config_path.removeprefix(_GROUP).partition("/")
        config = OmegaConf.create({"defaults": [f"{suite}/_suite", "_self_"], "env": {"task": task}})
        return ConfigResult(self.provider, f"{SCHEME}://", config, {"package": "_global_"})

    def is_config(self, config_path: str) -> bool:
        """Whether a name can be a task's."""
        name = config_path.removeprefix(_GROUP)
        return name != config_path and envs.is_open(name) and not name.endswith("/_suite")

    def is_group(self, config_path: str) -> bool:
        """There are none: tasks cannot be listed."""
        return False

    def available(self) -> bool:
        """It needs nothing."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Returns nothing, likewise."""
        return []
