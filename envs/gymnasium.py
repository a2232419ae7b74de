"""Any registered Gymnasium environment with continuous actions, on the host: ``gymnasium/<id>``.

The environments are Gymnasium's own and hold their state themselves, in this process or in worker processes. What
``EnvState.physics`` holds instead is how the running episodes came about: the seed that each was reset with, and the
actions since. Every episode begins with a seed of its own, so an environment whose episodes are functions of seed and
actions is brought back to any such state, bit for bit, in as many steps as its episode has made; see ``restored``.
Whether it is such a one is tried on the first steps of an episode when it is made. Where it is not, or an episode may
have more than 10,000 steps, ``restored`` begins new episodes.

An environment that saves its state, by ``get_state()`` and ``set_state(state)`` of its own or of a wrapper, has that in
``EnvState.physics`` and not the actions, and goes on from there. The state is a NumPy array of always the same type and
shape, without Python objects, and holds all that coming steps depend on: random number generators, for example, but no
time limit of Gymnasium's. Whether it does is tried as well.

Actions in [-1, 1] are scaled to the range of the environment. Observations of any space that has a flat form (Dict,
Tuple, Discrete, images) are flattened as ``gymnasium.spaces.flatten`` does. Numbers and truth values in the ``info`` of
each of the first steps are ``metric_names``, but for one called ``diverged``, which is a count of our own, and names
that ``is_metric_name`` refuses; where one is missing later, or is not finite, it counts as 0.

An episode ends as a termination where the environment says so, and else as a truncation where the environment says so
or the time limit is reached. A step to an observation or reward that is not finite, or huge, is handled as
``EnvState.diverged`` says; a start with such an observation is drawn again.
"""

import contextlib
import copy
import dataclasses
import difflib
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from envs import OWN_METRIC, SimulatorError, host
from envs.gymnasium_simulators import (
    BEGIN,
    IDLE,
    MAX_SEED,
    RESTORE,
    STEP,
    Flat,
    Recipe,
    Simulators,
    Sizes,
    Slots,
    Workers,
    begin,
    form_of,
    is_number,
    is_registered_at_once,
    restore_state,
    reward_of,
    saved_state,
    saves_state,
    told,
)
from envs.gymnasium_vector import Vectors
from envs.quiet import quiet_mujoco
from remac.machine import available_cpus
from remac.types import HUGE, AnyArray, EnvState, Key
from remac.validation import (
    NAME_OF_A_METRIC,
    InvalidValueError,
    is_metric_name,
    require_bool,
    require_int,
    require_one_of,
)

VECTORIZATIONS = ("sync", "processes")
OWN_VECTORIZATION = "vector_entry_point"  # of some ids alone
INSTALL = "pip install -c constraints.txt -e '.[gymnasium]'"
_OF_EXTRA = ("gymnasium_robotics", "box2d")  # what that brings, as messages name it
# Packages of this library, where it does not have them below its own name: nobody else's are found by these.
_TAKEN = ("agents", "conf", "envs", "experiments", "remac") if __name__.startswith("envs") else ("remac",)
_TRIED_STEPS = 8
_MOST_LOGGED = 10_000  # steps of an episode that are kept, and made again to come back to a state
_DEFAULT_FPS = 30


class Episodes(NamedTuple):
    """How the running episodes came about.

    Attributes:
        seed: What each was reset with, `[..., E]` int64.
        next_seed: What the one after it will be reset with, `[..., E]` int64.
        actions: Those of the episode so far, and zeros or, in a state that is not the latest, later ones,
            `[..., E, episode_length, action_dim]` float32. Of no steps if the environment does not repeat itself, saves
            its state, or has episodes of more than 10,000 steps.
        state: The environment's own, `[..., E, S]` uint8; S is 0 if it saves none.
    """

    seed: np.ndarray
    next_seed: np.ndarray
    actions: np.ndarray
    state: np.ndarray


def make(
    task: str,
    *,
    num_envs: int,
    stagger_first_episodes: bool = False,
    episode_length: int | None = None,
    vectorization: str = "sync",
    num_processes: int | None = None,
    import_module: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> "GymnasiumEnvironment":
    """Makes E environments of an id.

    Args:
        task: An id as ``gymnasium.make`` takes it, for example ``Pendulum-v1`` or ``gymnasium_robotics:FetchReach-v4``.
        num_envs: E.
        stagger_first_episodes: As in ``envs.mujoco.make``.
        episode_length: Time limit in steps; by default the registered one.
        vectorization: ``sync`` steps all environments in this process, ``processes`` in worker processes. What comes of
            it is the same. ``vector_entry_point`` steps them as the id's own vector environments do, see
            ``envs.gymnasium_vector``.
        num_processes: Worker processes; by default one per CPU that the process may use.
        import_module: A module that registers the id when it is imported.
        kwargs: Keyword arguments of the environment that have names of other options, such as ``task``.
        **options: Its other keyword arguments, and those of ``gymnasium.make``.

    Raises:
        InvalidValueError: Unknown id or option, a value that is not allowed, or an environment that has no time limit
            or no continuous actions.
        SimulatorError: The environment raised an exception.
    """
    if task.startswith(":"):
        raise InvalidValueError("name", f"gymnasium/{task}", "must be <id>, or <module>:<id> with a module")
    require_bool("stagger_first_episodes", stagger_first_episodes)
    if episode_length is not None:
        require_int("episode_length", episode_length, 1)
    require_one_of("vectorization", vectorization, (*VECTORIZATIONS, OWN_VECTORIZATION))
    if num_processes is not None:
        require_int("num_processes", num_processes, 1)
        if vectorization != "processes":
            raise InvalidValueError("num_processes", num_processes, "needs vectorization=processes")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InvalidValueError("kwargs", kwargs, "must be a dictionary of the environment's keyword arguments")
    options |= kwargs or {}
    if "max_episode_steps" in options:
        raise InvalidValueError("max_episode_steps", options["max_episode_steps"], "is set by episode_length")
    recipe = Recipe(f"gymnasium/{task}", task, options, import_module, episode_length, HUGE)
    processes = (num_processes or available_cpus()) if vectorization == "processes" else 0
    is_own = vectorization == OWN_VECTORIZATION
    if is_own and stagger_first_episodes:
        allowed = f"must be false with vectorization={OWN_VECTORIZATION}, whose episodes cannot be cut short"
        raise InvalidValueError("stagger_first_episodes", stagger_first_episodes, allowed)
    return GymnasiumEnvironment(recipe, num_envs, stagger_first_episodes, processes, is_own)


class GymnasiumEnvironment:
    """E environments of one id (see remac.types.Environment), stepped on the host with NumPy arrays.

    It steps only the state that it returned last. Where termination and the time limit fall on the same step, it is a
    termination and not a truncation.

    Attributes:
        name: For example ``gymnasium/Pendulum-v1``.
        num_envs: E.
        observation_size: obs_dim.
        action_size: action_dim; actions are clipped to [-1, 1] and scaled to the environment's range.
        action_range: That range, `[2, action_dim]`.
        episode_length: Time limit in steps.
        on_device: False.
        metric_names: Sorted.
        repeats: Whether an episode was the same, to the bit, with the same seed and actions.
        saves: Whether the environment saves its state, from which an episode went on the same, to the bit.
        dt: Time between two frames, in seconds, by the environment's ``render_fps``.
    """

    on_device = False

    def __init__(
        self, recipe: Recipe, num_envs: int, stagger_first_episodes: bool, num_processes: int, is_own: bool = False
    ) -> None:
        """See ``make``; with no processes, environments are in this one, the id's own vector environments or not."""
        require_int("num_envs", num_envs, 1)
        self.name, self.num_envs = recipe.name, num_envs
        self.stagger_first_episodes, self._num_processes, self._is_own = stagger_first_episodes, num_processes, is_own
        env = _made(recipe)
        if num_processes:
            _require_known_to_workers(recipe, env.spec)
        if is_own and env.spec.vector_entry_point is None:
            allowed = f"{recipe.env_id} has no vector entry point; must be one of {', '.join(VECTORIZATIONS)}"
            raise InvalidValueError("vectorization", OWN_VECTORIZATION, allowed)
        if recipe.episode_length is None and env.spec.max_episode_steps is None:
            allowed = f"must be given, as +env.options.episode_length=<steps>: {recipe.env_id} has no time limit"
            raise InvalidValueError("episode_length", None, allowed)
        self.episode_length = recipe.episode_length or env.spec.max_episode_steps
        with told(self.name, "looking at it"):
            self.dt = 1 / (env.metadata.get("render_fps") or _DEFAULT_FPS)
            self._render_modes = tuple(env.metadata.get("render_modes", ()))
            _require_spaces(recipe.name, env)
            self.action_size = math.prod(env.action_space.shape)
            self.action_range = np.stack([env.action_space.low, env.action_space.high]).reshape(2, -1)
        with told(self.name, "trying it"), quiet_mujoco(), np.errstate(over="ignore"):
            first, names = _try(recipe, env, self.action_size)
            again, _ = _try(recipe, env, self.action_size)
            offers = saves_state(env) and not is_own
            form = None
            with contextlib.suppress(Exception):  # they may mean something else, such as MuJoCo's set_state(qpos, qvel)
                form = _try_saving(recipe, env, self.action_size) if offers else None
            env.close()
        self._recipe = dataclasses.replace(recipe, state_form=form)
        self.saves, self._saves_in_vain = form is not None, offers and form is None
        self.metric_names = tuple(sorted(filter(is_metric_name, names - {OWN_METRIC})))
        self._not_recorded = sorted(names - {*self.metric_names}, key=lambda name: (name != OWN_METRIC, name))
        self.observation_size = first.shape[1] - 1
        self.repeats = first.tobytes() == again.tobytes()
        is_logged = self.repeats and not self.saves and not is_own
        self._is_too_long = is_logged and self.episode_length > _MOST_LOGGED
        self._num_logged = self.episode_length if is_logged and not self._is_too_long else 0
        self._simulators: Simulators | Workers | Vectors | None = None
        self._slots: Slots | None = None
        self._latest: Episodes | None = None

    @property
    def chooses_starts(self) -> bool:
        """Whether starts are the environment's own choice, so that groups of episodes cannot have the same."""
        return self._is_own

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know before training on it, a line each."""
        remarks = []
        for name in self._not_recorded:
            why = f"its name {NAME_OF_A_METRIC}"
            if name == OWN_METRIC:
                why = f"since env/{OWN_METRIC} counts steps at which a simulation breaks down"
            remarks.append(f'{self.name}: "{ascii(name)[1:-1]}" of its info is not recorded, {why}')
        if self._saves_in_vain:
            remarks.append(f"{self.name}: after its set_state steps are not those after get_state, so neither is used")
        if self._is_own:
            remarks.append(f"{self.name}, by its vector entry point: a run that is resumed begins new episodes")
        if self._is_too_long:
            remarks.append(
                f"{self.name}: its episodes may have {self.episode_length:,} steps, and no more than {_MOST_LOGGED:,} "
                "are made again: a run that is resumed begins new episodes"
            )
        if not self.repeats:
            resumed = (
                "goes on with its episodes" if self.saves else "begins new episodes (all else goes on where it was)"
            )
            remarks.append(
                f"{self.name} does not repeat itself from a seed: the same command gives other numbers, and a run that "
                f"is resumed {resumed}"
            )
        return tuple(remarks)

    def for_evaluation(self, num_envs: int) -> Self:
        """Returns the same task with another number of environments and no staggering."""
        unsaved = dataclasses.replace(self._recipe, state_form=None)  # an evaluation is not resumed
        return self._changed(num_envs=num_envs, stagger_first_episodes=False, _recipe=unsaved, saves=False)

    def for_rendering(self) -> Self:
        """Returns one environment whose states ``render`` can draw, in this process.

        Raises:
            RuntimeError: It has no such render mode.
        """
        if "rgb_array" not in self._render_modes:
            modes = ", ".join(str(mode) for mode in self._render_modes) or "none"
            raise RuntimeError(f"{self.name} has no render mode rgb_array, which a film needs; it has {modes}")
        options = {**self._recipe.options, "render_mode": "rgb_array"}
        recipe = dataclasses.replace(self._recipe, options=options)
        return self._changed(num_envs=1, stagger_first_episodes=False, _recipe=recipe, _num_processes=0, _is_own=False)

    def _changed(self, **changes: Any) -> Self:
        other = copy.copy(self)
        for name, value in {**changes, "_simulators": None, "_slots": None, "_latest": None}.items():
            setattr(other, name, value)
        return other

    def reset(self, key: Key, group_size: int = 1) -> EnvState:
        """Starts new episodes in all environments. The key is consumed.

        Args:
            key: One key, or keys `[...]`; arrays of the state then have leading axes `[..., E]`.
            group_size: So many neighbours begin with the same seed, but not their next episodes; divides E. Chance in
                an environment that draws from that seed is then the same for all of them.

        Raises:
            InvalidValueError: Starts are to be the same, and the environment chooses them.
            SimulatorError: An environment raised an exception.
        """
        if self._is_own and group_size > 1:
            allowed = f"must be 1 with vectorization={OWN_VECTORIZATION}, whose starts cannot be chosen"
            raise InvalidValueError("episodes from each start", group_size, allowed)
        lead, words = host.draw_keys(key, self.num_envs)
        keys = words.view(np.uint64)
        slots, count = self._opened(len(keys)), len(keys)
        seed, counts, keys = self._draw_seeds(keys)
        if group_size > 1:
            first = host.first_of_groups(count, group_size)
            seed, counts = seed[first], counts[first]
        next_seed, _, keys = self._draw_seeds(keys)
        slots.command[:], slots.seed[:] = BEGIN, seed
        self._run()
        actions = np.zeros((count, self._num_logged, self.action_size), np.float32)
        physics = Episodes(seed, next_seed, actions, slots.state.copy())
        counts = counts if self.stagger_first_episodes else np.zeros_like(counts)
        return self._returned(lead, host.beginning(physics, slots.observation.copy(), keys, counts, self.metric_names))

    def step(self, state: EnvState, action: AnyArray) -> EnvState:
        """Advances every environment by one action `[..., E, action_dim]`, and resets those that ended.

        Raises:
            ValueError: The action's shape is not that of the state's environments, or the state is not the latest.
            SimulatorError: An environment raised an exception.
        """
        lead, count = state.reward.shape, state.reward.size
        action = host.flat_actions(state, action, self.action_size, np.float32)
        slots, latest = self._slots, self._latest
        if slots is None or latest is None or state.physics is not latest:
            raise ValueError(f"{self.name} steps only the state that it returned last; restored(state) goes back")
        seed, next_seed = (np.reshape(values, count) for values in state.physics[:2])
        step_count, episode_length, episode_return = host.count_step(state)
        slots.command[:], slots.seed[:], slots.action[:] = STEP, next_seed, action
        slots.last[:] = step_count >= self.episode_length
        self._run()

        reward, termination = slots.reward.copy(), slots.termination.copy()
        truncation = (slots.truncation | slots.last) & ~termination
        ended = np.flatnonzero(termination | truncation)
        actions, key = np.reshape(state.physics.actions, (count, -1, self.action_size)), np.reshape(state.key, (-1, 2))
        if self._num_logged:  # in place: of earlier states these are beyond the end
            actions[np.arange(count), episode_length - 1] = action
        if ended.size:
            actions, seed, next_seed, key = actions.copy(), seed.copy(), next_seed.copy(), key.copy()
            actions[ended], seed[ended] = 0, next_seed[ended]
            next_seed[ended], _, key[ended] = self._draw_seeds(key[ended])
        return self._returned(
            lead,
            EnvState(
                physics=Episodes(seed, next_seed, actions, slots.state.copy()),
                observation=slots.observation.copy(),
                reward=reward,
                termination=termination,
                truncation=truncation,
                diverged=slots.diverged.copy(),
                final_observation=slots.final_observation.copy(),
                step_count=step_count,
                key=key,
                episode_return=episode_return + reward,
                episode_length=episode_length,
                metrics=dict(zip(self.metric_names, slots.metrics.T.copy(), strict=True)),
            ),
        )

    def restored(self, state: EnvState) -> EnvState:
        """Brings the environments to a state that is not the latest, such as one of another process.

        Those that save their state are set to it. Others are reset with the seeds of the running episodes, and make the
        actions since. An episode that does not come to the observation in the state, to the bit, is given up for a new
        one; of all, if the environment does not repeat itself.

        Returns:
            The state, but for the episodes given up.

        Raises:
            SimulatorError: An environment raised an exception.
        """
        lead, count = state.reward.shape, state.reward.size
        slots = self._opened(count)
        flat = jax.tree.map(lambda array: np.array(array).reshape(count, *array.shape[len(lead) :]), state)
        seed, next_seed, actions, saved = flat.physics
        if self.saves:
            slots.command[:], slots.seed[:] = RESTORE, seed
            slots.state[:], slots.observation[:] = saved, flat.observation
            self._run()
            return self._returned(lead, flat)
        lengths = np.where(flat.termination | flat.truncation, 0, flat.episode_length)
        lost = np.full(count, not self._num_logged)
        if self._num_logged:
            slots.command[:], slots.seed[:], slots.last[:] = BEGIN, seed, False
            self._run()
            for step in range(lengths.max(initial=0)):
                slots.command[:], slots.action[:] = np.where(step < lengths, STEP, IDLE), actions[:, step]
                self._run()
                lost |= (step < lengths) & (slots.termination | slots.truncation)
            lost |= (slots.observation != flat.observation).any(axis=1)
        rows = np.flatnonzero(lost)
        if rows.size:
            seed[rows], actions[rows] = next_seed[rows], 0
            next_seed[rows], _, flat.key[rows] = self._draw_seeds(flat.key[rows])
            slots.command[:], slots.seed[:] = np.where(lost, BEGIN, IDLE), seed
            self._run()
            for array in (flat.reward, flat.step_count, flat.episode_return, flat.episode_length):
                array[rows] = 0
            for array in (flat.termination, flat.truncation, flat.diverged):
                array[rows] = False
            flat.observation[rows] = flat.final_observation[rows] = slots.observation[rows]
            lost_ones = f"{rows.size} of {count} episodes could not be resumed, and begin anew"
            warnings.warn(f"{self.name}: {lost_ones}", stacklevel=2)
        return self._returned(lead, flat)

    def render(
        self, state: EnvState, index: int | tuple[int, ...] = 0, width: int = 480, height: int = 480
    ) -> np.ndarray:
        """Draws the latest state of an environment of ``for_rendering``.

        Args:
            state: The latest.
            index: Not used: there is one.
            width: In pixels, at most.
            height: In pixels, at most; the picture keeps its shape.

        Returns:
            RGB image, uint8 `[height, width, 3]`.

        Raises:
            SimulatorError: It cannot be drawn here; the message says why.
            ValueError: The state is not the latest.
        """
        from PIL import Image

        if state.physics is not self._latest or not isinstance(self._simulators, Simulators):
            raise ValueError(f"{self.name} draws only the state that it returned last")
        with told(self.name, "render"), quiet_mujoco():
            image = Image.fromarray(np.asarray(self._simulators.envs[0].render(), np.uint8))
        image.thumbnail((width, height))
        return np.asarray(image)

    def close(self) -> None:
        """Closes the environments and ends the worker processes; ``reset`` makes new ones."""
        if self._simulators is not None:
            self._simulators.close()
        self._simulators = self._slots = self._latest = None

    def _opened(self, count: int) -> Slots:
        """Makes the environments, unless there are as many."""
        if self._slots is not None and len(self._slots.command) == count:
            return self._slots
        self.close()
        dtype, shape = self._recipe.state_form or ("u1", (0,))
        of_state = math.prod(shape) * np.dtype(dtype).itemsize
        sizes = Sizes(count, self.observation_size, self.action_size, len(self.metric_names), of_state)
        if self._num_processes:
            self._simulators = Workers(self._recipe, self.metric_names, sizes, min(self._num_processes, count))
            self._slots = self._simulators.slots
        else:
            self._slots = Slots.over(bytearray(Slots.num_bytes(sizes)), sizes)
            if self._is_own:
                self._simulators = Vectors(self._recipe, self.metric_names, self._slots, self.num_envs)
                return self._slots
            self._simulators = Simulators(self._recipe, self.metric_names, self._slots, 0, count)
        return self._slots

    def _run(self) -> None:
        self._latest = None
        assert self._simulators is not None
        try:
            self._simulators.run()
        except SimulatorError:
            self.close()
            raise

    def _returned(self, lead: tuple[int, ...], state: EnvState) -> EnvState:
        state = host.unflatten(lead, state)
        self._latest = state.physics
        return state

    def _draw_seeds(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws a seed for each key.

        Args:
            keys: Keys of NumPy's Philox generator, uint64 `[count, 2]`.

        Returns:
            Seeds `[count]` that any environment takes, random step counts `[count]` below the time limit, and the keys
            of the next seeds.
        """
        words = np.array([np.random.Philox(key=key).random_raw(4) for key in keys], np.uint64).reshape(-1, 4)
        seeds = (words[:, 2] % np.uint64(MAX_SEED + 1)).astype(np.int64)
        return seeds, (words[:, 3] % np.uint64(self.episode_length)).astype(np.int32), words[:, :2].copy()


def _made(recipe: Recipe) -> Any:
    """Makes one environment to look at; what is wrong with the id or an option is said by its name."""
    from gymnasium import error as errors

    try:
        recipe.register()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those that are to be trained on are made later, and warn then
            return recipe.make()
    except (errors.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise _lacks(recipe, error) from None
    except (errors.UnregisteredEnv, errors.DeprecatedEnv):
        raise InvalidValueError("name", recipe.name, f"is not registered; {_alternatives(recipe.env_id)}") from None
    except errors.Error as error:
        raise InvalidValueError("name", recipe.name, f"cannot be made ({_words(error)})") from None
    except ImportError:
        with told(recipe.name, "importing it"):
            raise
    except TypeError as error:
        options = {**dict.fromkeys(re.findall(r"missing .* argument: '(\w+)'", str(error))), **recipe.options}
        for option, value in options.items():
            if f"'{option}'" in str(error):
                raise InvalidValueError(
                    option, value, f"{recipe.env_id} does not take this ({_words(error)})"
                ) from None
        with told(recipe.name, "making it"):
            raise
    except Exception:
        with told(recipe.name, "making it"):
            raise


def _lacks(recipe: Recipe, error: Exception) -> InvalidValueError:
    """Says which package is needed, and how to install it if it is one of the extra's."""
    module = recipe.import_module or recipe.env_id.rpartition(":")[0]
    reason, missing = _words(error), getattr(error, "name", None) or ""
    if (package := missing.partition(".")[0]) in _TAKEN:
        allowed = f"there is no module {missing}: {package} is a package of this library; call your own otherwise"
        return InvalidValueError("name", recipe.name, allowed)
    if module and missing == module.partition(".")[0]:
        reason = f"there is no module {module}"
    how = f"; try {INSTALL}" if any(package in reason.lower() for package in _OF_EXTRA) else ""
    return InvalidValueError("name", recipe.name, f"needs a package that is not installed ({reason}){how}")


def _require_known_to_workers(recipe: Recipe, spec: Any) -> None:
    """Requires an id that other processes know, which import nothing of the program that they serve."""
    entry_point = spec.entry_point
    if isinstance(entry_point, str) and entry_point.startswith("gymnasium."):
        return
    is_of_program = getattr(entry_point, "__module__", None) == "__main__"
    names_module = recipe.import_module or ":" in recipe.env_id
    if is_of_program or (not names_module and not is_registered_at_once(spec.id)):
        allowed = (
            f"worker processes cannot know {recipe.env_id}, which this program has registered; name the module that "
            "registers it with import_module, or take sync"
        )
        raise InvalidValueError("vectorization", "processes", allowed)


def _alternatives(env_id: str) -> str:
    """Lists the registered ids that are close to one that is not."""
    import gymnasium

    module, colon, name = env_id.rpartition(":")
    close = difflib.get_close_matches(name, gymnasium.registry, 5, 0.6)
    listed = f"close to it are {', '.join(f'gymnasium/{module}{colon}{one}' for one in close)}; " if close else ""
    return (
        f"{listed}what a package registers is spelled gymnasium/<module>:<id>, such as "
        "gymnasium/gymnasium_robotics:FetchReach-v4"
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _require_spaces(name: str, env: Any) -> None:
    """Requires bounded Box actions, and observations that have a flat form."""
    from gymnasium import spaces

    space = env.action_space
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating) or not math.prod(space.shape):
        raise InvalidValueError("name", name, f"has actions {space}; must have continuous ones, a Box of numbers")
    if not np.isfinite(space.low).all() or not np.isfinite(space.high).all() or not (space.low < space.high).all():
        raise InvalidValueError("name", name, f"has actions {space}; must have bounded ones, since they are scaled")
    try:
        flat = spaces.flatten_space(env.observation_space)
    except (NotImplementedError, ValueError):
        flat = None
    if not isinstance(flat, spaces.Box) or not flat.shape or not flat.shape[0]:
        raise InvalidValueError("name", name, f"has observations {env.observation_space}; must have a flat form")


def _try(recipe: Recipe, env: Any, action_size: int) -> tuple[np.ndarray, set[str]]:
    """Makes the first steps of one and the same episode.

    Returns:
        Observations and rewards, `[steps, obs_dim + 1]`, and the names of numbers in the ``info`` of every step.
    """
    flat, rng = Flat(env), np.random.default_rng(0)
    rows = [[*begin(recipe, env, flat, 0), 0.0]]
    names: set[str] | None = None
    for _ in range(_TRIED_STEPS):
        actions = flat.actions(rng.uniform(-1, 1, (1, action_size)).astype(np.float32))
        observation, reward, termination, truncation, info = env.step(actions[0, ...])
        rows.append([*flat.observation(observation), reward_of(recipe.name, reward)])
        found = {name for name, value in info.items() if isinstance(name, str) and is_number(value)}
        names = found if names is None else names & found
        if termination or truncation:
            break
    return np.array(rows, np.float64), names or set()


def _try_saving(recipe: Recipe, env: Any, action_size: int) -> tuple[str, tuple[int, ...]] | None:
    """Tries whether an episode goes on the same from the state that an environment saved.

    Returns:
        Type and shape of the state; None if it does not, or the state is no array of numbers or bytes.
    """
    flat = Flat(env)
    actions = flat.actions(np.random.default_rng(1).uniform(-1, 1, (_TRIED_STEPS, action_size)).astype(np.float32))

    def steps() -> bytes:
        rows = []
        for number in range(_TRIED_STEPS):
            observation, reward, termination, truncation, _ = env.step(actions[number, ...])
            rows.append([*flat.observation(observation), reward_of(recipe.name, reward), termination, truncation])
            if termination or truncation:
                break
        return np.array(rows, np.float64).tobytes()

    env.reset(seed=0)
    env.step(actions[0, ...])
    state = saved_state(env)
    if state.dtype.hasobject or state.dtype.names:
        return None
    first = steps()
    env.reset(seed=1)
    restore_state(env, state.copy())
    return form_of(state) if steps() == first else None
