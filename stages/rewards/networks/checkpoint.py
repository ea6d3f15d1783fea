"""Tensors of files from outside, read without executing anything that a file says.

Three sorts of files: safetensors; `torch.save` of (nested) dictionaries of tensors, which torch reads with
`weights_only`; and `torch.save` of a whole module, whose pickle is walked with inert objects in place of every class it
names, so that a model released that way gives its tensors and runs none of its code.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stages import contents
from stages.errors import InputError
from stages.models.record import ModelRecord

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_INNER = ("state_dict", "model")
N = TypeVar("N", bound=nn.Module)


def only_file(record: ModelRecord, suffixes: tuple[str, ...] = SUFFIXES) -> Path:
    """The one file of a record that can hold weights; raises InputError where there is none, or several."""
    found = [name for name in record.files if name.endswith(suffixes)]
    if len(found) != 1:
        what = f"holds {', '.join(sorted(found))}" if found else f"has no {' or '.join(suffixes)} file"
        raise InputError(f"model {record.name!r}: {record.path} {what}; expected one file of weights")
    return record.file(found[0])


def read(path: Path, modules: bool = False) -> dict[str, Tensor]:
    """Name to tensor of the checkpoint at `path`, on the CPU, in the dtypes of the file.

    A checkpoint that keeps its weights in an entry `state_dict` or `model` gives those. With `modules`, a pickled
    module is read as well (`read_module`). Raises InputError, one line, for a damaged file, one that would have to
    be executed, and one without tensors.
    """
    if found := contents.stand_in(contents.head(path)) if path.is_file() else "":
        raise InputError(f"{path}: is {found}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: truncated, or no safetensors file: {one_line(error)}") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if modules and zipfile.is_zipfile(path):
            return read_module(path)
        raise InputError(
            f"{path}: holds pickled Python objects, and loading would execute them; expected tensors alone "
            "(safetensors, or torch.save of a state_dict)"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        hint = "a TorchScript archive" if "TorchScript" in str(error) else "truncated, or no checkpoint of torch"
        raise InputError(f"{path}: {hint}: {one_line(error)}; expected tensors") from None
    return _tensors(found, path)


def read_module(path: Path) -> dict[str, Tensor]:
    """The state_dict of a whole module that `torch.save` pickled, without its classes and without executing it.

    Raises InputError for a file in the format before torch 1.6, a damaged one, and one that holds no module.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(entry) as stream:
                found = _Unpickler(stream, archive, entry.removesuffix("data.pkl")).load()
        state = dict(_module_tensors(found, ""))
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, EOFError, OSError) as error:
        raise InputError(f"{path}: truncated, or not a file that torch 1.6 or later saved: {one_line(error)}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a pickled module: {one_line(error)}") from None
    if not state:
        raise InputError(f"{path}: not a pickled module: it has no tensors")
    return state


def build(make: Callable[[], N], state: Mapping[str, Tensor], where: object) -> N:
    """The network that `make` builds, with `state` as its weights, in the dtypes of `state`.

    Nothing is initialised and nothing copied: full-size networks come up in the memory of their file. Raises
    InputError that starts with `where` and names the first tensor that is missing, unknown or of another shape.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        network = make()
    wanted = network.state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state:
            raise InputError(f"{where}: lacks {name!r}, which this model needs")
        if name not in wanted:
            raise InputError(f"{where}: has {name!r}, which this model does not have")
        if wanted[name].shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}"
            raise InputError(f"{where}: {name!r} has shape {shapes}")
    network.load_state_dict(state, assign=True)
    return network


def one_line(error: object) -> str:
    """The text of an error as one short line."""
    return " ".join(str(error).split())[:300]


def _tensors(found: object, path: Path) -> dict[str, Tensor]:
    for name in _INNER:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if isinstance(found, Mapping):
        tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise InputError(f"{path}: holds a {type(found).__name__} without tensors; expected a state_dict")


class _Inert:
    """Stands for whatever a pickle names: it takes every argument, keeps its state, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        self.state: Any = {}

    def __call__(self, *_: object, **__: object) -> _Inert:
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Take an item of a list and drop it."""

    def extend(self, items: object) -> None:
        """Take the items of a list and drop them."""


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: object) -> Tensor:
    return data


_STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}  # fmt: skip
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
} | {("torch", name): dtype for name, dtype in _STORAGES.items()}


class _Unpickler(pickle.Unpickler):
    """Reads the pickle of a torch archive with nothing but containers, tensors and inert objects."""

    def __init__(self, stream: IO[bytes], archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream, encoding="utf-8")
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for `module.name`; nothing is ever imported."""
        return _KNOWN.get((module, name)) or type(name.rpartition(".")[2], (_Inert,), {})

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage that `pid` = ("storage", type, key, device, length) names, as a flat tensor."""
        what, dtype, key, _, length = pid
        if what != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown storage {what!r} of {dtype!r}")
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            if len(data) != length * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key!r} has {len(data)} bytes, expected {length} of {dtype}")
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _module_tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers of an inert module and of those below it, by their names in a state_dict."""
    state = module.state
    passing = state.get("_non_persistent_buffers_set", ())
    for part in ("_parameters", "_buffers"):
        for name, value in state[part].items():
            if isinstance(value, Tensor) and name not in passing:
                yield prefix + name, value
    for name, child in state["_modules"].items():
        if child is not None:
            yield from _module_tensors(child, f"{prefix}{name}.")
