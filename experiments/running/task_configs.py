"""Tasks without a file of their own: ``env=<suite>/<task>`` of any suite, and any name of one in ``envs.OPEN_SUITES``.

To Hydra it is as if ``conf/env/<suite>/<task>.yaml`` were there, with the suite's values. A file of that name comes
first. What is no task of an open suite it refuses itself, when environments are made.
"""

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

import envs

SCHEME = "remac-tasks"
_GROUP = "env/"


class TaskConfigs(ConfigSource):
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
        return name != config_path and not name.endswith("/_suite") and envs.may_be(name)

    def is_group(self, config_path: str) -> bool:
        """There are none: not all tasks can be listed."""
        return False

    def available(self) -> bool:
        """It needs nothing."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Returns nothing, likewise."""
        return []
