"""The configuration: typed schemas for Hydra, and their translation into agent, environment and training settings.

Nothing below this package sees a DictConfig.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

import jax
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

import envs
from agents import AGENTS
from remac.loop import TrainConfig
from remac.machine import available_bytes
from remac.types import Environment, InvalidValueError
from remac.validation import require_int, require_one_of

CONFIG_DIRECTORY = Path(__file__).resolve().parent.parent / "conf"
LOGGERS = ("none", "wandb")
WANDB_MODES = ("online", "offline")
RESERVED_OPTIONS = {"name", "task", "num_envs"}


@dataclasses.dataclass
class AgentConfig:
    """Hyperparameters that all agents have; see ``agents.actor_critic.ActorCritic``."""

    name: str = MISSING
    learning_rate: float = MISSING
    gamma: float = MISSING
    tau: float = MISSING
    target_update_period: int = MISSING
    actor_adam_epsilon: float = 1e-8
    critic_adam_epsilon: float = 1e-8
    batch_size: int = MISSING
    hidden_sizes: list[int] = MISSING
    activation: str = MISSING
    num_critics: int = 2
    critic_aggregate: str = "min"
    actor_optimizer: str = "adam"
    normalize_observations: bool = True


@dataclasses.dataclass
class ReMACConfig(AgentConfig):
    """Hyperparameters of ``agents.remac.ReMAC``; the objective is a preset or a list of weights."""

    num_retries: int = 4
    num_samples: int = 8
    objective: Any = "max"
    gradient: str = "pathwise"


@dataclasses.dataclass
class SACConfig(AgentConfig):
    """Hyperparameters of ``agents.sac.SAC``."""

    temperature: str = "auto"
    target_entropy: float | None = None


AGENT_CONFIGS = {"remac": ReMACConfig, "sac": SACConfig}


@dataclasses.dataclass
class TunedValues:
    """A task's values for one agent."""

    learning_rate: float = MISSING
    batch_size: int = MISSING
    gamma: float = MISSING
    tau: float = MISSING
    target_update_period: int = MISSING
    hidden_sizes: list[int] = MISSING
    activation: str = MISSING


@dataclasses.dataclass
class EnvironmentConfig:
    """Which task, with which options, and the values that each agent takes on it by default."""

    suite: str = MISSING
    task: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    remac: TunedValues = field(default_factory=TunedValues)
    sac: TunedValues = field(default_factory=TunedValues)


@dataclasses.dataclass
class LoggerConfig:
    """Where metrics go besides the run directory: ``none`` or ``wandb``."""

    name: str = MISSING
    mode: str = "online"
    project: str = "remac"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclasses.dataclass
class Config:
    """One run; ``experiment`` and ``arm`` name what it belongs to, in tables, pictures and W&B's tags."""

    agent: AgentConfig = MISSING
    env: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    experiment: str | None = None
    arm: str | None = None
    seed: int = 0
    eval_seed: int = MISSING
    total_env_steps: int = MISSING
    num_envs: int = MISSING
    updates_per_round: int = MISSING
    prefill_env_steps: int = MISSING
    eval_every_env_steps: int = MISSING
    num_eval_episodes: int = MISSING
    replay_capacity: int = MISSING


def register_schemas() -> None:
    """Makes the schemas known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=Config)
    for name, node in AGENT_CONFIGS.items():
        store.store(group="agent", name=f"{name}_schema", node=node)
    store.store(group="logger", name="logger_schema", node=LoggerConfig)


@dataclasses.dataclass(frozen=True)
class Job:
    """A configuration made real, without anything compiled yet.

    Attributes:
        config: The resolved configuration, as plain data.
        agent: The agent.
        env: Its training environments.
        train_config: How long and how often.
    """

    config: dict[str, Any]
    agent: Any
    env: Environment
    train_config: TrainConfig


def make_job(config: DictConfig) -> Job:
    """Checks a composed configuration and builds what it describes.

    Raises:
        InvalidValueError: Naming the key as it is on the command line, its value and what is allowed.
        omegaconf.errors.OmegaConfBaseException: If the configuration does not resolve.
    """
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    _require_schema(plain)
    require_int("seed", plain["seed"], 0, 2**32 - 1)
    require_one_of("logger.mode", plain["logger"]["mode"], WANDB_MODES)
    env = _make_environment(plain["env"], plain["num_envs"])

    hyperparameters = dict(plain["agent"])
    agent_class = AGENTS[hyperparameters.pop("name")]
    with _named("agent."):
        agent = agent_class.create(env.observation_size, env.action_size, **hyperparameters)

    train_config = TrainConfig(**{spec.name: plain[spec.name] for spec in dataclasses.fields(TrainConfig)})
    train_config.validate(env.num_envs, agent.batch_size)
    _require_memory(train_config, env)
    return Job(plain, agent, env, train_config)


def _require_schema(plain: dict[str, Any]) -> None:
    """Refuses keys that ``+key`` added, and the lack of those that ``~key`` took away."""
    require_one_of("agent.name", plain.get("agent", {}).get("name"), AGENT_CONFIGS)
    schemas = {"": Config, "agent.": AGENT_CONFIGS[plain["agent"]["name"]]}
    schemas |= {"env.": EnvironmentConfig, "logger.": LoggerConfig}
    schemas |= {f"env.{agent}.": TunedValues for agent in AGENT_CONFIGS}
    for prefix, schema in schemas.items():
        names = [spec.name for spec in dataclasses.fields(schema)]
        node = plain
        for part in prefix.split(".")[:-1]:
            node = node[part]
        for key, value in node.items():
            if key not in names:
                raise InvalidValueError(f"{prefix}{key}", value, f"no such key; there are {', '.join(names)}")
        for name in names:
            if name not in node:
                raise InvalidValueError(f"~{prefix}{name}", None, "cannot be taken away; every run needs it")
    require_one_of("logger.name", plain["logger"]["name"], LOGGERS)


_environments: dict[str, Environment] = {}


def _make_environment(config: dict[str, Any], num_envs: int) -> Environment:
    """Builds the environments, once per process: some suites need seconds for it."""
    key = json.dumps([config["suite"], config["task"], config["options"], num_envs], sort_keys=True, default=str)
    if key not in _environments:
        name = f"{config['suite']}/{config['task']}"
        require_one_of("env", name, envs.names())
        require_int("num_envs", num_envs, 1)
        for option in RESERVED_OPTIONS & set(config["options"]):
            raise InvalidValueError(f"env.options.{option}", config["options"][option], "is set by another key")
        with _named("env.options."):
            _environments[key] = envs.make(name, num_envs=num_envs, **config["options"])
    return _environments[key]


def _require_memory(config: TrainConfig, env: Environment) -> None:
    needed, available = config.replay_bytes(env), available_memory_bytes()
    if needed > available:
        fitting = config.replay_rows * available // needed
        raise InvalidValueError(
            "replay_capacity",
            config.replay_capacity,
            f"{config.replay_rows} rows need {needed} bytes ({needed / 2**30:.1f} GiB), "
            f"and {available} are available; must be at most {fitting}",
        )


def available_memory_bytes() -> int:
    """Returns the memory that JAX's default device has left, or on the CPU this process."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        statistics = device.memory_stats() or {}
        return statistics.get("bytes_limit", 2**62) - statistics.get("bytes_in_use", 0)
    return available_bytes()


@contextlib.contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Gives the name in an InvalidValueError the prefix that its key has on the command line."""
    try:
        yield
    except InvalidValueError as error:
        raise InvalidValueError(prefix + error.name, error.value, error.allowed) from None
