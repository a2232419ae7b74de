"""The formats that a policy is exported to: what the files hold, and how they are run again."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.exporting import numpy_policy
from experiments.exporting.steps import ActionRange, Operand, Step, make_steps
from remac.policies.policy import Policy
from remac.validation import InvalidValueError, missing_package

Act = Callable[[np.ndarray], np.ndarray]  # from raw observations [B, obs_dim] to actions [B, action_dim]
INPUT, OUTPUT, BATCH = "observation", "action", "batch"
_ONNX, _STABLEHLO, _ARRAYS, _PROGRAM = "policy.onnx", "policy.stablehlo", "policy.npz", "policy.py"
_OPSET = 20  # the first with Gelu
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Format(NamedTuple):
    """A format.

    Attributes:
        write: Makes the content of every file, by name.
        load: Returns what the files in a folder do.
        needs: Modules of the optional packages that it takes.
        use: How the files are run, for people.
    """

    write: Callable[[Policy, ActionRange], dict[str, bytes]]
    load: Callable[[Path], Act]
    needs: tuple[str, ...]
    use: str


def _write_numpy(policy: Policy, action_range: ActionRange) -> dict[str, bytes]:
    steps = make_steps(policy, action_range)
    arrays: dict[str, Operand] = {"steps": np.array([step.name for step in steps])}
    for number, step in enumerate(steps):
        arrays |= {f"{number}_{place}": array for place, array in enumerate(step.arrays)}
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # no name is allow_pickle
    return {_ARRAYS: content.getvalue(), _PROGRAM: Path(numpy_policy.__file__).read_bytes()}


def _load_numpy(folder: Path) -> Act:
    program: dict[str, Any] = {}
    exec(compile((folder / _PROGRAM).read_text(), _PROGRAM, "exec"), program)
    return program["Policy"](folder / _ARRAYS)


def _write_stablehlo(policy: Policy, action_range: ActionRange) -> dict[str, bytes]:
    exact = dataclasses.replace(policy, network=policy.network.clone(precision="highest"))
    low, high, centre, half = (
        jnp.asarray(row)[None] for row in (*action_range, action_range.centre, action_range.half)
    )

    def act(observation: jax.Array) -> jax.Array:
        return jnp.clip(centre + half * exact(observation), low, high)

    shape = (*jax.export.symbolic_shape(BATCH), policy.observation_size)
    exported = jax.export.export(jax.jit(act), platforms=_PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.float32))
    return {_STABLEHLO: bytes(exported.serialize())}


def _load_stablehlo(folder: Path) -> Act:
    exported = jax.export.deserialize(bytearray((folder / _STABLEHLO).read_bytes()))
    return lambda observation: np.asarray(exported.call(observation))


def _write_onnx(policy: Policy, action_range: ActionRange) -> dict[str, bytes]:
    import onnx
    from onnx import helper

    nodes, arrays, value = _onnx_graph(make_steps(policy, action_range))
    nodes.append(helper.make_node("Identity", [value], [OUTPUT]))
    sizes = {INPUT: policy.observation_size, OUTPUT: policy.network.action_size}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [BATCH, sizes[name]])] for name in (INPUT, OUTPUT)
    )
    initializers = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "policy", inputs, outputs, initializers)
    opset = helper.make_opsetid("", _OPSET)
    version = helper.find_min_ir_version_for([opset])  # what is newer, older runtimes refuse
    model = helper.make_model(graph, opset_imports=[opset], ir_version=version, producer_name="remac")
    onnx.checker.check_model(model, full_check=True)
    return {_ONNX: model.SerializeToString()}


def _onnx_graph(steps: Sequence[Step]) -> tuple[list[Any], dict[str, Operand], str]:
    """Returns the nodes, the arrays by name, and the name of the value that the last node gives."""
    from onnx import helper

    nodes, arrays, value = list[Any](), dict[str, Operand](), INPUT

    def add(operator: str, *inputs: str, **attributes: Any) -> None:
        nonlocal value
        output = f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, [value, *inputs], [output], **attributes))
        value = output

    for number, step in enumerate(steps):
        names = [f"{step.name}_{number}_{place}" for place in range(len(step.arrays))]
        if step.name == "layer_norm":
            names.pop()
            add("LayerNormalization", *names, axis=-1, epsilon=float(step.arrays[-1]))
        elif step.name == "swish":
            before = value
            add("Sigmoid")
            add("Mul", before)
        elif step.name == "gelu":
            add("Gelu", approximate="tanh")
        elif step.name in ("elu", "relu", "tanh"):
            add(step.name.capitalize())
        else:
            operators = {"shift_scale": ("Sub", "Mul", "Add"), "clip": ("Max", "Min"), "dense": ("MatMul", "Add")}
            for operator, name in zip(operators[step.name], names, strict=True):
                add(operator, name)
        arrays |= zip(names, step.arrays, strict=False)
    return nodes, arrays, value


def _load_onnx(folder: Path) -> Act:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / _ONNX, providers=["CPUExecutionProvider"])
    return lambda observation: session.run([OUTPUT], {INPUT: observation})[0]


FORMATS = {
    "numpy": Format(_write_numpy, _load_numpy, (), 'policy.Policy("policy.npz")(observation)'),
    "onnx": Format(
        _write_onnx, _load_onnx, ("onnx", "onnxruntime"), "onnxruntime.InferenceSession, or any other runtime"
    ),
    "stablehlo": Format(
        _write_stablehlo,
        _load_stablehlo,
        ("flatbuffers",),
        "jax.export.deserialize(bytearray(<content>)).call(observation)",
    ),
}


def require_packages(name: str) -> None:
    """Requires the optional packages that a format takes.

    Raises:
        InvalidValueError: With the command that installs them.
    """
    for package in FORMATS[name].needs:
        if reason := missing_package(package, extra="export"):
            raise InvalidValueError("format", name, reason)
