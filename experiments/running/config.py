"""The configuration: typed schemas for Hydra, and their translation into agent, environment and training settings.

Nothing below this package sees a DictConfig.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import hydra
import jax
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import envs
from agents import AGENTS
from experiments.console.pasting import key_of
from experiments.records.checkpoints import sha256
from experiments.records.files import FREE_KEYS, LATER_KEYS, STAGGER, flatten, kept_inputs, read_config
from experiments.records.loggers import require_logger
from experiments.running.task_configs import TaskConfigs
from remac.hyperparameters import defaults, hyperparameters
from remac.machine import available_bytes
from remac.training.agent import Agent
from remac.training.loop import TrainConfig, env_steps_of_round, round_bytes
from remac.types import Environment
from remac.validation import InvalidValueError, require_bool, require_int, require_number, require_one_of

CONFIG_DIRECTORY = Path(__file__).resolve().parents[2] / "conf"
WANDB_MODES = ("online", "offline", "disabled")
AUTO = "auto"
RESERVED_OPTIONS = {"name", "task", "num_envs"}
ALL, TRAINING = "all", "training"  # whose the values of a setting are, besides agents by name
CHOOSING = {"agent": ("agent.name",), "env": ("env.suite", "env.task")}  # the keys of a group that say which
UPDATE_RATIO = "updates_per_env_step"  # of a setting: gradient steps, of which the rounds' are made
TRAINING_KEYS = ("num_envs", UPDATE_RATIO, "prefill_env_steps", "replay_capacity", STAGGER)
TRAINING_DEFAULTS = {
    spec.name: spec.default for spec in dataclasses.fields(TrainConfig) if spec.default is not dataclasses.MISSING
} | {UPDATE_RATIO: 1, STAGGER: False}


def agent_config(name: str) -> type:
    """Makes the schema of an agent's settings from what the agent declares; unset ones are those that fit the task."""
    declared = hyperparameters(AGENTS[name])
    fields = [(key, one.type, field(default=f"${{tuned:{key}}}")) for key, one in declared.items()]
    return dataclasses.make_dataclass(f"{name}_agent", [("name", str, MISSING), *fields])


def tuned_value(key: str, *, _parent_: DictConfig, _root_: DictConfig) -> Any:
    """Returns what a key of the agent or of the training is on the task, in the setting that is chosen.

    Of a hyperparameter that is ``env.tuned.<setting>.<agent>``'s value, ``env.tuned.<setting>.all``'s, or its default;
    of a key of the training that of ``env.tuned.<setting>.<agent>.training``, ``env.tuned.<setting>.training``, or its
    default. What comes with the kind of agent (``BaseAgent.TRAINING``) wins. The gradient steps of a round are its env
    steps times ``updates_per_env_step``.
    """
    name = OmegaConf.select(_root_, "agent.name", default=None)
    of_kind = AGENTS[name].TRAINING if name in AGENTS and _parent_.get("name") is None else {}
    if key in of_kind:
        return of_kind[key]
    if key == "updates_per_round":
        ratio, full_key = _tuned_with_key(UPDATE_RATIO, _parent_, _root_)
        num_envs = _root_["num_envs"]
        of_round = num_envs * ratio
        if num_envs > 0 and (of_round != round(of_round) or of_round < 1):
            allowed = f"must make a whole number of gradient steps, at least one, of the {num_envs} of a round"
            raise InvalidValueError(full_key, ratio, allowed)
        return round(of_round)
    return _tuned_with_key(key, _parent_, _root_)[0]


def _tuned_with_key(key: str, _parent_: DictConfig, _root_: DictConfig) -> tuple[Any, str]:
    """Returns the value, and the key that it has among the tuned ones, or would have."""
    name = OmegaConf.select(_root_, "agent.name", default=None)
    setting, agent = _root_["setting"], _parent_.get("name")
    tuned = _root_["env"]["tuned"].get(setting) or {}
    if agent is None:
        of_agent = tuned.get(name) or {}
        owners = {f"{name}.{TRAINING}": of_agent.get(TRAINING), TRAINING: tuned.get(TRAINING)}
    else:
        owners = {owner: tuned.get(owner) for owner in (agent, ALL)}
    for owner, values in owners.items():
        if isinstance(values, DictConfig) and key in values:
            value, full_key = values[key], f"env.tuned.{setting}.{owner}.{key}"
            if agent is not None:
                hyperparameters(AGENTS[agent])[key].check(full_key, value)
            elif key == UPDATE_RATIO:
                require_number(full_key, value, 0, open_minimum=True)
            elif key == STAGGER:
                require_bool(full_key, value)
            else:
                require_int(full_key, value, 0 if key == "prefill_env_steps" else 1)
            return value, full_key
    full_key = f"env.tuned.{setting}.{agent or TRAINING}.{key}"
    if agent is not None:
        return defaults(AGENTS[agent])[key], full_key
    if key in TRAINING_DEFAULTS:
        return TRAINING_DEFAULTS[key], full_key
    raise InvalidValueError(full_key, None, "must be given")


@dataclasses.dataclass
class EnvironmentConfig:
    """Which task, with which options, and the values that agents and training have on it unless others are given.

    ``tuned`` has these values by the name of a setting, and there a dictionary for ``all`` agents, for any agent by
    name, which wins, and for the ``training``, of which an agent may have its own in its dictionary.
    """

    suite: str = MISSING
    task: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


@dataclasses.dataclass
class LoggerConfig:
    """Where metrics go besides the run directory: one of ``LOGGERS``. All but the name is for W&B."""

    name: str = MISSING
    mode: str = "online"
    project: str = "remac"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclasses.dataclass
class CheckpointConfig:
    """How often a run is saved, how many checkpoints are kept, and whether they hold the replay.

    With ``keep_best`` the policy of the best evaluation so far, by ``eval/return``, is kept beside the last one.
    With ``other_code`` a run may go on from a checkpoint that other sources or versions of packages made.
    """

    every_env_steps: int = MISSING
    keep: int = 2
    replay: bool = True
    other_code: bool = False
    keep_best: bool = False


@dataclasses.dataclass
class Config:
    """One run; ``experiment`` and ``arm`` name what it belongs to, in tables, pictures and W&B's tags.

    ``setting`` says which of the task's values hold where none are given: the ``protocol``'s, or ``modern`` ones.
    ``resume`` is ``auto`` or a run directory; it is no part of the run itself.
    """

    agent: Any = MISSING
    setting: str | None = None
    env: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    resume: str | None = None
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
    num_eval_retries: int = 1
    replay_capacity: int = MISSING
    split_batch: bool = False
    max_diverged_fraction: float = MISSING


def _variable(name: str, default: str | None) -> str | None:
    """Returns a variable of the environment in words of ours; one that is empty counts as not set."""
    if name == "WANDB_MODE" and os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return "disabled"
    value = os.environ.get(name) or default
    return "offline" if name == "WANDB_MODE" and value == "dryrun" else value


OmegaConf.register_new_resolver("tuned", tuned_value, replace=True)
OmegaConf.register_new_resolver("variable", _variable, replace=True)
# A task's name may hold what separates folders, or what not every file system takes.
OmegaConf.register_new_resolver("file_name", lambda name: re.sub(r"[/:\\]", "_", str(name)), replace=True)


def register_schemas() -> None:
    """Makes the schemas, and tasks without a file, known to Hydra."""
    _register_schemas(tuple(AGENTS.items()))


@functools.lru_cache(maxsize=1)  # a seventh of what it takes to compose a configuration
def _register_schemas(agents: tuple[tuple[str, type], ...]) -> None:
    Plugins.instance().register(TaskConfigs)
    store = ConfigStore.instance()
    store.store(name="train_schema", node=Config)
    for name, _ in agents:
        store.store(group="agent", name=f"{name}_schema", node=agent_config(name))
    store.store(group="logger", name="logger_schema", node=LoggerConfig)


@dataclasses.dataclass(frozen=True)
class Job:
    """A configuration made real, without anything compiled yet.

    Attributes:
        config: The resolved configuration, as plain data.
        agent: The agent.
        env: Its training environments.
        train_config: How long and how often.
        resume: Whether to go on with what the run directory holds.
    """

    config: dict[str, Any]
    agent: Any
    env: Environment
    train_config: TrainConfig
    resume: bool = False

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know of the environments before they are trained on, a line each."""
        return getattr(self.env, "remarks", ())

    @property
    def inputs(self) -> dict[str, bytes]:
        """Files of the user's that the environments are made of, as they are kept with the run."""
        return getattr(self.env, "own_files", {})


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields what an error came from, the nearest first."""
    while (cause := error.__cause__ or error.__context__) is not None:
        yield cause
        error = cause


def make_job(config: DictConfig, overrides: Sequence[str] = (), directory: Path | None = None) -> Job:
    """Checks a composed configuration and builds what it describes.

    Args:
        config: As Hydra composed it; with ``resume=<run directory>``, the run's own takes its place.
        overrides: What the command line changed, which may not contradict the run that is resumed.
        directory: The run directory; what a run in it that is resumed keeps takes the place of the files it began with.

    Raises:
        InvalidValueError: Naming the key as it is on the command line, its value and what is allowed.
        omegaconf.errors.OmegaConfBaseException: If the configuration does not resolve.
    """
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    if config.get("resume") not in (None, AUTO):
        directory = Path(config.resume)
        config = _stored_config(config, overrides)
    else:  # by which values of the task are found
        require_one_of("setting", config.get("setting"), OmegaConf.select(config, "env.tuned") or ())
    if OmegaConf.select(config, "agent.name") is not None:  # by which the other settings of the agent are found
        require_one_of("agent.name", config.agent.name, AGENTS)
        _refuse_part_of_a_group("agent", config.agent.name, overrides)
    try:
        plain = as_dict(config, resolve=True)
    except OmegaConfBaseException as error:
        refusal = next((cause for cause in causes(error) if isinstance(cause, InvalidValueError)), error)
        raise refusal from None  # a resolver's own words, without OmegaConf's around them
    if repr(MISSING) in repr(plain):  # to look through the configuration is slow
        for key in sorted(OmegaConf.missing_keys(config)):
            raise InvalidValueError(key, MISSING, "has no value; must be given")
    _require_schema(plain)
    resume = plain.pop("resume") is not None
    kept = kept_inputs(directory, "resume") if resume and directory is not None else {}
    require_int("seed", plain["seed"], 0, 2**32 - 1)
    for key in map(key_of, overrides):
        if key.startswith("logger.") and key != "logger.name" and plain["logger"]["name"] != "wandb":
            raise InvalidValueError(key, OmegaConf.select(config, key), "is for W&B; add logger=wandb")
    mode = plain["logger"]["mode"]
    require_one_of("WANDB_MODE" if mode == os.environ.get("WANDB_MODE") else "logger.mode", mode, WANDB_MODES)
    env = make_environment(plain["env"], plain["num_envs"], kept)
    _refuse_part_of_a_group("env", f"{plain['env']['suite']}/{plain['env']['task']}", overrides)

    hyperparameters = dict(plain["agent"])
    agent_class = AGENTS[hyperparameters.pop("name")]
    if "episode_length" in hyperparameters and hyperparameters["episode_length"] is None:
        hyperparameters["episode_length"] = env.episode_length
    with _named("agent."):
        of_policy = getattr(env, "policy_observation_size", None)
        sizes = (env.observation_size, env.action_size)
        agent = agent_class.create(*sizes, policy_observation_size=of_policy, **hyperparameters)

    names = {spec.name for spec in dataclasses.fields(TrainConfig)}
    train_config = TrainConfig(
        **{name: plain[name] for name in names & plain.keys()},
        checkpoint_every_env_steps=plain["checkpoint"]["every_env_steps"],
    )
    with _named("", checkpoint_every_env_steps="checkpoint.every_env_steps"):
        train_config.validate(env.num_envs, agent.experience)
    if agent.experience.group_size is not None and plain["env"]["options"].get(STAGGER):
        allowed = f"must be false for {plain['agent']['name']}, which learns from whole episodes"
        raise InvalidValueError(f"env.options.{STAGGER}", True, allowed)
    if getattr(env, "chooses_starts", False):
        allowed = "needs an environment whose starts can be chosen, which one by its vector_entry_point is not"
        if train_config.num_eval_retries > 1:
            raise InvalidValueError("num_eval_retries", train_config.num_eval_retries, allowed)
        if agent.experience.group_size is not None:
            raise InvalidValueError("agent", plain["agent"]["name"], allowed)
    of_round = env_steps_of_round(env, agent.experience)
    if train_config.num_prefill_rounds(of_round) >= train_config.num_rounds(of_round):
        total = f"total_env_steps={plain['total_env_steps']}"
        allowed = f"must leave a round of {of_round} env steps of {total} for gradient steps"
        raise InvalidValueError("prefill_env_steps", plain["prefill_env_steps"], allowed)
    require_int("checkpoint.keep", plain["checkpoint"]["keep"], 1)
    for key in ("replay", "other_code", "keep_best"):
        require_bool(f"checkpoint.{key}", plain["checkpoint"][key])
    _require_memory(train_config, agent, env)
    return Job(plain, agent, env, train_config, resume)


def _refuse_part_of_a_group(group: str, name: str, overrides: Sequence[str]) -> None:
    """Refuses what names another agent or task beside the values of the one that the group chose."""
    for override in overrides:
        key = key_of(override)
        if key in CHOOSING[group]:
            allowed = f"given as {group}={name}, with which its values come"
            raise InvalidValueError(key, override.partition("=")[2], allowed)


def compose_job(overrides: Sequence[str] = (), directory: Path | None = None) -> Job:
    """Returns what ``experiments.train`` would run with these overrides, for code that Hydra has not started.

    The directory is that of ``make_job``.

    Raises:
        InvalidValueError: As ``make_job``.
    """
    register_schemas()
    with hydra_anew():
        return make_job(hydra.compose("train", list(overrides)), overrides, directory)


@contextlib.contextmanager
def hydra_anew() -> Iterator[None]:
    """Starts Hydra on ``conf/`` in the place of one that may have started before."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        yield


def as_dict(config: DictConfig, **options: Any) -> dict[str, Any]:
    """Returns a configuration as plain containers; the options are those of ``OmegaConf.to_container``."""
    container = OmegaConf.to_container(config, **options)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def merge(*configs: Any) -> DictConfig:
    """Returns one configuration of several mappings; of two values of a key the later one counts."""
    merged = OmegaConf.merge(*configs)
    assert isinstance(merged, DictConfig)
    return merged


def task_overrides(hydra_config: DictConfig | HydraConf) -> list[str]:
    """Returns what the command line changed, as it was typed: references in it are not followed."""
    overrides = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return overrides


def first_difference(config: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Returns a key in which two runs differ, as on the command line, and both values; None if they are the same run.

    Where a run is logged and how often it is saved makes no difference. A hyperparameter that was declared after a run
    was begun had its default then. What is tuned for the task is in the agent's settings.
    """
    flat, other_flat = _what_counts(config), _what_counts(other)
    for key in (*flat, *other_flat):
        if key not in flat or key not in other_flat or flat[key] != other_flat[key]:
            return key, flat.get(key), other_flat.get(key)
    return None


def _what_counts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what makes a run the run that it is, with dotted keys."""
    # What is tuned counts where it is used. The last are of runs made before the first were there.
    not_used = {"setting", "env.tuned", *(f"env.{name}" for name in AGENTS)}
    flat = {
        key: value
        for key, value in flatten(config).items()
        if key.partition(".")[0] not in FREE_KEYS
        and ".".join(key.split(".")[:2]) not in not_used
        and (value is not None or not key.startswith("env.options."))  # an option that a run had not yet
    }
    for key, default in LATER_KEYS.items():
        flat.setdefault(key, default)
    if (agent := flat.get("agent.name")) in AGENTS:
        for key, default in defaults(AGENTS[agent]).items():
            flat.setdefault(f"agent.{key}", default)
    return flat


def _stored_config(asked: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Returns the configuration of the run that is resumed, with the free keys that the command line sets.

    Raises:
        InvalidValueError: If another key of the command line contradicts it.
    """
    stored = read_config(asked.resume)
    plain = as_dict(asked, resolve=True)
    names = {key_of(override).partition("@")[0] for override in overrides}
    for name in names:
        for key in () if name.partition(".")[0] in FREE_KEYS else CHOOSING.get(name, (name,)):
            value, before = (OmegaConf.select(OmegaConf.create(tree), key) for tree in (plain, stored))
            if value != before:
                allowed = f"the run in {asked.resume} has {key}={before}; leave it out, or start a new run"
                raise InvalidValueError(key, value, allowed)
    for name in sorted(names):  # a group comes before its keys
        group, *keys = name.split(".")
        if group not in FREE_KEYS:
            continue
        if keys and isinstance(stored.get(group), dict) and keys[0] in plain[group]:
            stored[group][keys[0]] = plain[group][keys[0]]  # the others are not this environment's defaults
        else:
            stored[group] = plain[group]
    if names.isdisjoint(("logger", "logger.mode")) and isinstance(stored.get("logger"), dict):
        # Where it runs now may have no network.
        stored["logger"]["mode"] = _variable("WANDB_MODE", stored["logger"].get("mode"))
    stored["resume"] = AUTO
    agent = stored.get("agent", {}).get("name")
    require_one_of("agent.name", agent, AGENTS)
    task = stored.get("env", {})
    for name in AGENTS:  # where tuned values once were; they are used where they count
        task.pop(name, None)
    if {ALL, *AGENTS} & (task.get("tuned") or {}).keys():  # before there were settings
        task["tuned"] = {}
    schema = merge(OmegaConf.structured(Config), {"agent": OmegaConf.structured(agent_config(agent))})
    return merge(schema, stored)


def _require_keys(prefix: str, values: Any, known: Collection[str]) -> None:
    if not isinstance(values, dict):
        raise InvalidValueError(prefix.rstrip("."), values, f"must have keys, of {', '.join(sorted(known))}")
    for key, value in values.items():
        if key not in known:
            raise InvalidValueError(f"{prefix}{key}", value, f"no such key; there are {', '.join(sorted(known))}")


def _require_schema(plain: dict[str, Any]) -> None:
    """Refuses keys that ``+key`` added, and the lack of those that ``~key`` took away."""
    require_one_of("agent.name", plain.get("agent", {}).get("name"), AGENTS)
    schemas = {"": Config, "agent.": agent_config(plain["agent"]["name"])}
    schemas |= {"env.": EnvironmentConfig, "logger.": LoggerConfig, "checkpoint.": CheckpointConfig}
    for setting, owners in plain["env"]["tuned"].items():
        for owner, values in owners.items():
            require_one_of(f"env.tuned.{setting}", owner, (ALL, TRAINING, *AGENTS))
            agents = [AGENTS[name] for name in AGENTS if owner in (ALL, name)]
            known = {key for agent in agents for key in hyperparameters(agent)} or TRAINING_KEYS
            own_training = values.get(TRAINING) if owner in AGENTS else None
            _require_keys(
                f"env.tuned.{setting}.{owner}.{TRAINING}.", {} if own_training is None else own_training, TRAINING_KEYS
            )
            others = {key: value for key, value in values.items() if owner not in AGENTS or key != TRAINING}
            _require_keys(f"env.tuned.{setting}.{owner}.", others, known)
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
    require_logger(plain["logger"]["name"])


def with_inputs(options: Mapping[str, Any], kept: Mapping[str, Path]) -> dict[str, Any]:
    """Returns an environment's options with the files that a run keeps in the place of those that it began with."""
    return {**options, **{option: str(path.absolute()) for option, path in kept.items()}}


_environments: dict[str, Environment] = {}


def make_environment(config: dict[str, Any], num_envs: int, kept: Mapping[str, Path]) -> Environment:
    """Builds environments, with files that a run keeps, once per process: some suites need seconds for it.

    Args:
        config: ``suite``, ``task`` and ``options``.
        num_envs: E.
        kept: Files by the options that name them, in the place of the options' values.

    Raises:
        InvalidValueError: Naming the key as it is on the command line.
    """
    contents = {option: sha256(path) for option, path in kept.items()}
    asked = [config["suite"], config["task"], config["options"], num_envs, contents]
    key = json.dumps(asked, sort_keys=True, default=str)
    if key not in _environments:
        name = f"{config['suite']}/{config['task']}"
        require_int("num_envs", num_envs, 1)
        for option in RESERVED_OPTIONS & set(config["options"]):
            value = config["options"][option]
            own = f"; an environment's own goes by '+env.options.kwargs={{{option}:{value}}}'"
            allowed = f"is set by another key{own if config['suite'] in envs.OPEN_SUITES else ''}"
            raise InvalidValueError(f"env.options.{option}", value, allowed)
        with _named("env.options.", name="env"):
            _environments[key] = envs.make(name, num_envs=num_envs, **with_inputs(config["options"], kept))
    return _environments[key]


def _require_memory(config: TrainConfig, agent: Agent, env: Environment) -> None:
    needed, available = config.replay_bytes(agent, env), available_memory_bytes()
    if needed > available:
        fitting = config.replay_rows * available // needed
        raise InvalidValueError(
            "replay_capacity",
            config.replay_capacity,
            f"{config.replay_rows} rows need {needed} bytes ({needed / 2**30:.1f} GiB), "
            f"and {available} are available; must be at most {fitting}",
        )
    experience, of_round = agent.experience, round_bytes(agent, env)
    if (length := experience.steps_per_round) > 1 and of_round > available:
        allowed = (
            f"a round of so many steps in num_envs={env.num_envs} environments needs {of_round} bytes "
            f"({of_round / 2**30:.1f} GiB), and {available} are available; "
            f"must be at most {length * available // of_round}"
        )
        raise InvalidValueError(getattr(experience, "length_key", "steps_per_round"), length, allowed)


def available_memory_bytes() -> int:
    """Returns the memory that JAX's default device has left, or on the CPU this process."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        statistics = device.memory_stats() or {}
        return statistics.get("bytes_limit", 2**62) - statistics.get("bytes_in_use", 0)
    return available_bytes()


@contextlib.contextmanager
def _named(prefix: str, **others: str) -> Iterator[None]:
    """Gives the name in an InvalidValueError the prefix that its key has on the command line, or another name."""
    try:
        yield
    except InvalidValueError as error:
        name = others.get(error.name, prefix + error.name)
        raise InvalidValueError(name, error.value, error.allowed) from None
