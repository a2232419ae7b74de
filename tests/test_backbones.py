"""Norms, value heads and precisions of the networks, against a second writing; in NumPy where there is no gradient."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import fast_are

from agents import SAC, TD3, ReMAC
from remac.policies.networks import CriticNetworks, PolicyParameters, ValueNetwork
from remac.policies.policy import load_policy, save_policy
from remac.policies.policy_network import PolicyNetwork
from remac.policies.value_heads import CategoricalHead
from remac.training.functions import map_members
from remac.training.loop import stack_members
from remac.types import Transition
from remac.validation import InvalidValueError

OBS, ACT, BATCH, RATE = 3, 2, 8, 1e-2
WARM = 100_000


def plain_norm(xp, norm, x, layer_variables, is_training, steps):
    """Layer norm, or batch renormalisation as its paper has it; returns the batch's moments too."""
    scale, bias, running_mean, running_variance = layer_variables
    if norm == "layer":
        mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        return (x - mean) / xp.sqrt(variance + 1e-6) * scale[None] + bias[None], None
    running_std = xp.sqrt(running_variance + 1e-3)
    if not is_training:
        return (x - running_mean[None]) / running_std[None] * scale[None] + bias[None], None
    mean, variance = x.mean(axis=0), x.var(axis=0)
    std = xp.sqrt(variance + 1e-3)
    r, d = xp.clip(std / running_std, 1 / 3, 3), xp.clip((mean - running_mean) / running_std, -5, 5)
    r, d = xp.where(steps < WARM, xp.ones_like(r), r), xp.where(steps < WARM, xp.zeros_like(d), d)
    if xp is jnp:
        r, d = jax.lax.stop_gradient((r, d))
    return ((x - mean[None]) / std[None] * r[None] + d[None]) * scale[None] + bias[None], (mean, variance)


def plain_network(xp, norm, variables, kernels, x, is_training, critic=None):
    """A perceptron with tanh; returns its outputs by kernel after the last hidden layer, and the statistics moved."""
    params, statistics = variables["params"], variables.get("batch_stats", {})
    pick = (lambda leaf: leaf) if critic is None else (lambda leaf: leaf[critic])
    moved = {}

    def apply_norm(index, x):
        name = f"norm_{index}"
        keys = (f"{name}_mean", f"{name}_variance")
        arrays = [pick(params[f"{name}_{key}"]) for key in ("scale", "bias")]
        arrays += [pick(statistics[key]) if norm == "batch" else None for key in keys]
        y, moments = plain_norm(xp, norm, x, arrays, is_training, statistics.get("steps", 0))
        if moments:
            moved.update(
                {key: 0.99 * pick(statistics[key]) + 0.01 * new for key, new in zip(keys, moments, strict=True)}
            )
        return y

    *hidden, last = kernels
    if norm == "batch":
        x = apply_norm(0, x)
    for index, (kernel, bias) in enumerate(hidden):
        x = x @ pick(kernel) + pick(bias)[None]
        x = apply_norm(index + 1, x) if norm == "layer" else x
        x = xp.tanh(x)
        x = apply_norm(index + 1, x) if norm == "batch" else x
    return [x @ pick(kernel) + pick(bias)[None] for kernel, bias in last], moved


def plain_critics(xp, norm, variables, observation, action, *, is_training=False):
    """Outputs `[C, B, ...]` and statistics of critics on concat(observation, action)."""
    params = variables["params"]
    num_layers = sum(name.startswith("kernel") for name in params)
    layers = [(params[f"kernel_{i}"], params[f"bias_{i}"]) for i in range(num_layers)]
    x = xp.concatenate([observation, action], axis=1)
    found = [
        plain_network(xp, norm, variables, [*layers[:-1], layers[-1:]], x, is_training, critic)
        for critic in range(len(layers[0][0]))
    ]
    outputs = xp.stack([outputs[0] for outputs, _ in found])
    moved = {name: xp.stack([statistics[name] for _, statistics in found]) for name in found[0][1]}
    return outputs, moved


def plain_policy(xp, norm, variables, observation, *, is_training=False):
    """Mean, clipped log standard deviation, and statistics."""
    params = variables["params"]
    hidden = [params[f"hidden_{i}"] for i in range(sum(name.startswith("hidden") for name in params))]
    heads = [(params[name]["kernel"], params[name]["bias"]) for name in ("mean", "log_std")]
    kernels = [*((layer["kernel"], layer["bias"]) for layer in hidden), heads]
    (mean, log_std), moved = plain_network(xp, norm, variables, kernels, observation, is_training)
    return mean, xp.clip(log_std, -10, 2), moved


def plain_value(norm, variables, observation):
    params = variables["params"]
    hidden = [params[f"hidden_{i}"] for i in range(sum(name.startswith("hidden") for name in params))]
    kernels = [
        *((layer["kernel"], layer["bias"]) for layer in hidden),
        [(params["value"]["kernel"], params["value"]["bias"])],
    ]
    (value,), _ = plain_network(np, norm, variables, kernels, observation, False)
    return value[:, 0]


def shaken(variables, seed=0, steps=0):
    """Variables away from their start, so that every one of them matters."""
    rng = np.random.default_rng(seed)

    def shake(path, leaf):
        if leaf.dtype == jnp.int32:
            return jnp.asarray(steps, jnp.int32)
        noise = rng.normal(size=leaf.shape)
        if "variance" in str(path[-1]):
            return jnp.asarray(leaf * np.exp(noise), jnp.float32)
        return jnp.asarray(leaf + 0.3 * noise, jnp.float32)

    return jax.tree_util.tree_map_with_path(shake, variables)


def in_float64(variables):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.int64 if leaf.dtype == jnp.int32 else np.float64), variables)


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **({"rtol": 2e-4, "atol": 2e-5} | tolerance)), a, b)


def moved_to(variables, moved):
    """Variables with statistics that a pass moved."""
    if not moved:
        return variables
    statistics = variables["batch_stats"]
    return variables | {"batch_stats": statistics | moved | {"steps": statistics["steps"] + 1}}


@pytest.mark.parametrize(
    ("norm", "steps"), [("layer", 0), pytest.param("batch", 0, marks=pytest.mark.slow), ("batch", WARM)]
)
def test_networks_are_the_plain_ones(norm, steps):
    """Values of several actions, and three training passes with the statistics that they leave."""
    rng = np.random.default_rng(1)
    observation, action = rng.normal(size=(BATCH, OBS)), rng.normal(size=(4, BATCH, ACT))
    critics = CriticNetworks(num_critics=2, hidden_sizes=(7, 6), activation="tanh", norm=norm)
    policy = PolicyNetwork(action_size=ACT, hidden_sizes=(7, 6), activation="tanh", norm=norm)
    of_critics = shaken(jax.jit(critics.init)(jax.random.key(0), observation, action), 0, steps)
    of_policy = shaken(jax.jit(PolicyParameters(policy).init)(jax.random.key(1), observation), 1, steps)
    train_critics = jax.jit(functools.partial(critics.apply, training=True, mutable=["batch_stats"]))
    train_policy = jax.jit(policy.apply_in_training)
    for _ in range(3 if norm == "batch" else 0):
        shift = rng.normal(size=OBS) * 4  # so that r and d reach their limits
        rows = rng.normal(size=(BATCH, OBS)) * np.exp(rng.normal(size=OBS)) + shift
        taken = rng.normal(size=(BATCH, ACT))
        outputs, moved = train_critics(of_critics, rows, taken[None])
        expected, statistics = plain_critics(np, norm, in_float64(of_critics), rows, taken, is_training=True)
        assert_trees_close(outputs[:, 0], expected[..., 0])
        of_critics = of_critics | moved
        assert_trees_close({name: moved["batch_stats"][name] for name in statistics}, statistics)
        distribution, moved = train_policy(of_policy, rows)
        mean, log_std, statistics = plain_policy(np, norm, in_float64(of_policy), rows, is_training=True)
        assert_trees_close((distribution.mean, distribution.log_std), (mean, log_std))
        of_policy = of_policy | moved
        assert_trees_close({name: moved["batch_stats"][name] for name in statistics}, statistics)
        steps += 1
        assert moved["batch_stats"]["steps"] == steps
    values = jax.jit(critics.apply)(of_critics, observation, action)
    for sample in range(4):
        expected, _ = plain_critics(np, norm, in_float64(of_critics), observation, action[sample])
        assert_trees_close(values[:, sample], expected[..., 0])
    distribution = jax.jit(policy.apply)(of_policy, observation)
    assert_trees_close(
        (distribution.mean, distribution.log_std), plain_policy(np, norm, in_float64(of_policy), observation)[:2]
    )


def test_value_network_is_the_plain_one():
    observation = np.random.default_rng(1).normal(size=(BATCH, OBS))
    network = ValueNetwork(hidden_sizes=(7, 6), activation="tanh", norm="layer")
    variables = shaken(network.init(jax.random.key(0), observation))
    assert_trees_close(network.apply(variables, observation), plain_value("layer", in_float64(variables), observation))


def plain_histogram(td_target, minimum, maximum, num_atoms):
    """HL-Gauss row by row, in double precision."""
    edges = np.linspace(minimum, maximum, num_atoms + 1)
    sigma = 0.75 * (maximum - minimum) / num_atoms
    rows = []
    for target in np.clip(np.asarray(td_target, np.float64), minimum, maximum):
        below = np.array([0.5 * (1 + math.erf((edge - target) / (sigma * 2**0.5))) for edge in edges])
        rows.append(np.diff(below) / (below[-1] - below[0]))
    return np.array(rows)


def plain_projection(locations, probabilities, minimum, maximum, num_atoms):
    """C51's loop over atoms: all mass to the neighbours, by distance."""
    result = np.zeros((len(locations), num_atoms))
    width = (maximum - minimum) / (num_atoms - 1)
    for row in range(len(locations)):
        for location, mass in zip(locations[row], probabilities[row], strict=True):
            position = np.clip((location - minimum) / width, 0, num_atoms - 1)
            low = int(np.floor(position))
            result[row, low] += mass * (1 - (position - low))
            if low + 1 < num_atoms:
                result[row, low + 1] += mass * (position - low)
    return result


def test_categorical_targets_are_the_plain_ones():
    rng = np.random.default_rng(0)
    head = CategoricalHead(jnp.float32(-3.0), jnp.float32(5.0), num_atoms=21, kind="hl_gauss")
    targets = np.concatenate([rng.uniform(-3, 5, 20), [-3.0, 5.0, -40.0, 40.0, 1.0]]).astype(np.float32)
    found = head.histogram(jnp.asarray(targets))
    np.testing.assert_allclose(found, plain_histogram(targets, -3, 5, 21), rtol=1e-4, atol=2e-6)
    inner = np.abs(targets - 1) < 2.5
    np.testing.assert_allclose((found @ head.atoms)[inner], targets[inner], atol=2e-3)

    head = head.replace(kind="c51")
    locations = rng.uniform(-5, 7, (6, 21)).astype(np.float32)
    locations[0] = head.atoms  # the atoms themselves stay
    probabilities = rng.dirichlet(np.ones(21), 6).astype(np.float32)
    found = head.project(jnp.asarray(locations), jnp.asarray(probabilities))
    np.testing.assert_allclose(found, plain_projection(locations, probabilities, -3, 5, 21), atol=1e-5)
    np.testing.assert_allclose(found[0], probabilities[0], atol=1e-5)


BACKBONES = {
    "layer": {"policy_norm": "layer", "critic_norm": "layer"},
    "batch": {"policy_norm": "batch", "critic_norm": "batch"},
    "hl_gauss": {"critic_head": "categorical"},
    "c51": {"critic_head": "categorical", "categorical_target": "c51"},
    "batch hl_gauss": {"policy_norm": "batch", "critic_norm": "batch", "critic_head": "categorical"},
}
OPTIONS = {"sac": {"temperature": "fixed:0.3"}, "remac": {"num_samples": 3, "num_retries": 2}, "td3": {}}


def make(name, **options):
    small = {"hidden_sizes": (7, 6), "activation": "tanh", "batch_size": BATCH, "learning_rate": RATE, "gamma": 0.9}
    small |= {"num_atoms": 11, "value_min": -2.0, "value_max": 2.0, "normalize_observations": False}
    return {"sac": SAC, "remac": ReMAC, "td3": TD3}[name].create(OBS, ACT, **(small | OPTIONS[name] | options))


def experience(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return Transition(
        observation=1 + jax.random.normal(keys[0], (BATCH, OBS)),
        action=jnp.tanh(jax.random.normal(keys[1], (BATCH, ACT))),
        reward=4 * jax.random.normal(keys[2], (BATCH,)),
        discount=jnp.arange(BATCH) % 2.0,
        next_observation=1 + jax.random.normal(keys[3], (BATCH, OBS)),
    )


def plain_update(agent, backbone, state, key, data):
    """Actor, then critics, written out once more; returns policy, critics and metrics."""
    norms = {name: BACKBONES[backbone].get(f"{name}_norm", "none") for name in ("policy", "critic")}
    kind = "scalar"
    if "critic_head" in BACKBONES[backbone]:
        kind = BACKBONES[backbone].get("categorical_target", "hl_gauss")
    atoms = np.linspace(-2, 2, 11) if kind == "c51" else np.linspace(-2, 2, 12)[:-1] + 2 / 11
    temperature, num_samples = (0.3, 1) if isinstance(agent, SAC) else (0.0, 3)
    actor_key, critic_key = jax.random.split(key)

    def value(outputs):
        return outputs[..., 0] if kind == "scalar" else jax.nn.softmax(outputs) @ jnp.asarray(atoms, jnp.float32)

    def sample(mean, log_std, key, num_samples):
        noise = jax.random.normal(key, (num_samples, mean.size)).reshape(num_samples, *mean.shape)
        before_tanh = mean[None] + jnp.exp(log_std)[None] * noise
        density = -0.5 * noise**2 - log_std[None] - 0.5 * math.log(2 * math.pi)
        # 1 - tanh^2 = cosh^-2, which keeps its precision where tanh is flat.
        density += 2 * (jnp.logaddexp(before_tanh, -before_tanh) - math.log(2))
        return jnp.tanh(before_tanh), density.sum(axis=-1)

    def actor_loss(params):
        mean, log_std, moved = plain_policy(
            jnp, norms["policy"], state.policy | {"params": params}, data.observation, is_training=True
        )
        actions, log_prob = sample(mean, log_std, actor_key, num_samples)
        q_values = jnp.stack(
            [
                value(plain_critics(jnp, norms["critic"], state.critics, data.observation, action)[0]).min(axis=0)
                for action in actions
            ]
        )
        # The best of two among three: the best counts with 2/3, the second with 1/3.
        ranked = jnp.sort(q_values, axis=0)
        best = q_values[0] if num_samples == 1 else (2 * ranked[2] + ranked[1]) / 3
        return jnp.mean(temperature * log_prob - best[None]), moved

    def adam_step(params, gradient):
        arrays = (jax.tree.map(np.asarray, tree) for tree in (params, gradient))
        return jax.tree.map(lambda p, g: p - np.float32(RATE) * g / (np.abs(g) + np.float32(1e-8)), *arrays)

    (loss, moved), gradient = jax.jit(jax.value_and_grad(actor_loss, has_aux=True))(state.policy["params"])
    policy = moved_to(state.policy, moved) | {"params": adam_step(state.policy["params"], gradient)}
    metrics = {"actor/loss": loss}
    mean, log_std, _ = plain_policy(np, norms["policy"], in_float64(policy), np.asarray(data.next_observation))
    (next_action,), (next_log_prob,) = jax.jit(sample, static_argnums=3)(mean, log_std, critic_key, 1)

    def target(next_outputs):
        def backup(value):
            return data.reward + 0.9 * data.discount * (value - temperature * next_log_prob)

        values = value(next_outputs)
        if kind == "scalar":
            return backup(values.min(axis=0))
        if kind == "hl_gauss":
            td_target = backup(values.min(axis=0))
            metrics["critic/target_clipped"] = np.mean(np.abs(td_target) > 2)
            return plain_histogram(td_target, -2, 2, 11)
        locations = np.stack([backup(atom) for atom in atoms], axis=1)
        probabilities = np.asarray(jax.nn.softmax(next_outputs))[np.argmin(values, axis=0), np.arange(BATCH)]
        metrics["critic/target_clipped"] = np.mean(np.sum(probabilities * (np.abs(locations) > 2), axis=1))
        return plain_projection(locations, probabilities, -2, 2, 11)

    is_joint = norms["critic"] == "batch"
    rows = (data.observation, data.action)
    if is_joint:
        rows = tuple(map(jnp.concatenate, zip(rows, (data.next_observation, next_action), strict=True)))
        judged, _ = plain_critics(np, "batch", in_float64(state.critics), *map(np.asarray, rows), is_training=True)
        wanted = target(judged[:, BATCH:])
    else:
        next_rows = (np.asarray(data.next_observation), np.asarray(next_action))
        judged, _ = plain_critics(np, norms["critic"], in_float64(state.target_critics), *next_rows)
        wanted = target(judged)

    def critic_loss(params):
        outputs, moved = plain_critics(
            jnp, norms["critic"], state.critics | {"params": params}, *rows, is_training=is_joint
        )
        outputs = outputs[:, :BATCH]
        if kind == "scalar":
            loss = sum(jnp.mean(0.5 * (q - wanted) ** 2) for q in outputs[..., 0])
        else:
            loss = sum(-jnp.mean(jnp.sum(wanted * jax.nn.log_softmax(logits), axis=1)) for logits in outputs)
        return loss, (moved, value(outputs).mean())

    params = state.critics["params"]
    (loss, (moved, q_mean)), gradient = jax.jit(jax.value_and_grad(critic_loss, has_aux=True))(params)
    critics = moved_to(state.critics, moved) | {"params": adam_step(params, gradient)}
    return policy, critics, metrics | {"critic/loss": loss, "critic/q_mean": q_mean}


def started(agent, steps=WARM):
    state = jax.jit(agent.init)(jax.random.key(0))
    policy, critics = shaken(state.policy, 2, steps), shaken(state.critics, 3, steps)
    return state.replace(policy=policy, critics=critics, target_critics=shaken(state.target_critics, 4))


CASES = [(name, backbone) for name in ("sac", "remac") for backbone in BACKBONES]
FAST = [("sac", "batch")]


@pytest.mark.parametrize(
    ("name", "backbone"),
    [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow) for case in CASES],
)
def test_an_update_is_the_plain_one(name, backbone):
    """Batch renormalisation past its warm-up, so that r and d matter."""
    agent = make(name, **BACKBONES[backbone])
    state, data, key = started(agent), experience(1), jax.random.key(5)
    new, metrics = jax.jit(agent.update)(state, key, data)
    policy, critics, expected = plain_update(agent, backbone, state, key, data)
    for metric, value in expected.items():
        np.testing.assert_allclose(metrics[metric], value, rtol=1e-3, atol=1e-5, err_msg=metric)
    assert_trees_close(new.policy, policy, rtol=1e-3, atol=2e-4)
    assert_trees_close(new.critics, critics, rtol=1e-3, atol=2e-4)
    if "batch" in backbone:
        assert new.target_critics == ()
    else:
        expected_target = jax.tree.map(
            lambda t, c: 0.995 * np.asarray(t) + 0.005 * np.asarray(c), state.target_critics, new.critics
        )
        assert_trees_close(new.target_critics, expected_target, rtol=1e-5, atol=1e-6)
    if "critic/target_clipped" in expected:
        assert 0 < expected["critic/target_clipped"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_member_is_bitwise_the_same_alone(backbone):
    """Of ReMAC; whole trainings of the other agents are compared in ``test_members``."""
    agents = stack_members([make("remac", learning_rate=rate, **BACKBONES[backbone]) for rate in (1e-3, 1e-2)])
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def trained(agents, keys):
        def member(agent, key):
            return jax.lax.scan(
                lambda state, key: agent.update(state, key, experience(1)),
                agent.init(key),
                jax.random.split(jax.random.fold_in(key, 1), 3),
            )

        return map_members(member, agents, keys)

    together = trained(agents, keys)
    for index in range(2):
        alone = trained(*jax.tree.map(lambda leaf, i=index: leaf[i : i + 1], (agents, keys)))
        jax.tree.map(lambda a, b, i=index: np.testing.assert_array_equal(a[i], b[0]), together, alone)


@pytest.mark.slow
def test_a_delayed_actor_keeps_its_statistics():
    """TD3's policy moves every second step, and its running statistics with it; they are read elsewhere."""
    agent = make("td3", **BACKBONES["batch"])
    state, update = started(agent, 0), jax.jit(agent.update)
    first, metrics = update(state, jax.random.key(0), experience(1))
    assert_trees_close(first.policy, state.policy, rtol=0, atol=0)
    assert first.critics["batch_stats"]["steps"] == 1 and np.isfinite(metrics["critic/loss"])
    second, _ = update(first, jax.random.key(1), experience(2))
    assert second.policy["batch_stats"]["steps"] == 1 and second.critics["batch_stats"]["steps"] == 2


@pytest.mark.parametrize("norm", fast_are(1, ["batch", "layer"]))
def test_a_policy_with_norms_is_saved_whole(tmp_path, norm):
    agent = make("sac", policy_norm=norm)
    policy = agent.policy(started(agent))
    save_policy(policy, tmp_path)
    observation = experience().observation
    np.testing.assert_array_equal(load_policy(tmp_path)(observation), policy(observation))


def test_a_policy_saved_before_there_were_norms_loads(tmp_path):
    agent = make("sac")
    policy = agent.policy(jax.jit(agent.init)(jax.random.key(0)))
    save_policy(policy, tmp_path)
    path = tmp_path / "policy.json"
    shape = json.loads(path.read_text())
    del shape["norm"], shape["precision"]
    path.write_text(json.dumps(shape))
    observation = experience().observation
    np.testing.assert_array_equal(load_policy(tmp_path)(observation), policy(observation))


def products(jaxpr):
    """All matrix products of a program, also in what it calls: shapes of the operands, and the precision."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            precision = {str(one) for one in equation.params["precision"] or ("DEFAULT",)}
            yield [variable.aval.shape for variable in equation.invars], precision
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(inner, "eqns"):
                yield from products(inner)
            elif hasattr(inner, "jaxpr"):
                yield from products(inner.jaxpr)


@pytest.mark.parametrize(
    ("backbone", "backend"),
    fast_are(
        2,
        [
            ("batch", "gpu"),
            ("hl_gauss", "cpu"),
            ("batch", "cpu"),
            ("hl_gauss", "gpu"),
            ("layer", "cpu"),
            ("layer", "gpu"),
        ],
    ),
)
def test_ranked_values_carry_float32_whatever_the_rest_does(backbone, backend, monkeypatch):
    """On an accelerator a product at default precision keeps 10 bits; N * B rows are those of the actor's samples."""
    monkeypatch.setattr("jax.default_backend", lambda: backend)
    critics_at_once = 2 if backend == "gpu" else 1
    for precision, of_the_rest in (("default", "DEFAULT"), ("high", "HIGH"), ("highest", "HIGHEST")):
        agent = make("remac", num_samples=4, matmul_precision=precision, **BACKBONES[backbone])
        state = jax.eval_shape(agent.init, jax.random.key(0))
        program = jax.make_jaxpr(agent.update)(state, jax.random.key(0), experience())
        ranked, rest = [], []
        for shapes, found in products(program.jaxpr):
            is_ranked = any(4 * BATCH in shape or (4, BATCH) in (shape[1:3], shape[2:4]) for shape in shapes)
            (ranked if is_ranked else rest).append(found)
        # Two critics: three products forwards and three to the actions, and the means of categorical ones.
        assert len(ranked) >= 12 / critics_at_once and all(found == {"HIGHEST"} for found in ranked)
        assert {of_the_rest} in rest and len(rest) > 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critic_norm": "group"}, "critic_norm=group: .*none, layer, batch"),
        ({"value_min": 2.0}, "value_max=2.0: must be above value_min=2.0"),
        ({"num_atoms": 1}, "num_atoms=1: .* at least 2"),
        ({"matmul_precision": "tf32"}, "matmul_precision=tf32: .*default, high, highest"),
    ],
)
def test_bad_backbones_are_named(options, message):
    with pytest.raises(InvalidValueError, match=message):
        make("sac", **options)
