"""What stands at the path of a checkpoint: which form it has, and which files are read. Torch-free.

Forms: a LoRA (folder of peft or diffusers, or its file), the denoising network under diffusers' names (a pipeline's
folder, the network's own folder, or its file), the network under the names of the original release (one file), and a
policy that another study of this project trained. Only safetensors are read: they hold tensors and nothing that runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages import contents, walk
from stages.checkpoints.lora_names import is_lora
from stages.errors import InputError
from stages.mappings import DECODER, KeyTwice
from stages.models.bases.layout import CONFIG, INDEX, SCHEDULER, BaseLayout, read_json
from stages.models.bases.weights import check_safetensors, dtypes, find_weights, metadata, shapes
from stages.places import missing

Form = Literal["lora", "network", "original", "policy"]
ORIGINAL = "model.diffusion_model."
"""How the names of the network's weights begin in a file of an original release."""
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
"""A LoRA in the layout of peft."""
LORA = "pytorch_lora_weights.safetensors"
"""A LoRA in the layout of diffusers."""
PEFT_ALPHA = 8
"""The `lora_alpha` of a LoRA of peft whose settings leave it out (peft, `LoraConfig`)."""
PIECE = re.compile(r"-\d{5}-of-\d{5}\.safetensors$|\.safetensors\.index\.")
"""Names of weights in several files, and of their index."""
_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+(?<!\.safetensors)")
"""Looks like the id of a model on a hub."""
SAYS = "lora_adapter_metadata"
"""The entry of metadata in which diffusers keeps the settings of a LoRA, and this project those of a policy."""


@dataclass(frozen=True)
class Checkpoint:
    """`weights` hold the tensors; `settings` are those of a LoRA, `others` further files that are read."""

    place: Path
    form: Form
    weights: tuple[Path, ...]
    settings: Mapping[str, Any]
    others: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return (*self.weights, *self.others)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors by their names, from the headers."""
        return {name: shape for file in self.weights if file.suffix != ".json" for name, shape in shapes(file).items()}

    @property
    def dtypes(self) -> dict[str, str]:
        """Types of the tensors by their names, from the headers."""
        return {name: dtype for file in self.weights if file.suffix != ".json" for name, dtype in dtypes(file).items()}

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of the network in a folder; empty where there is none."""
        file = next((file for file in self.others if file.name == CONFIG), None)
        return {} if file is None else read_json(file)

    @property
    def folder(self) -> Path:
        """The folder that the files lie in."""
        return self.place if self.place.is_dir() else self.place.parent

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """The configuration of the checkpoint's own scheduler; empty where there is none."""
        return read_json(self.place / SCHEDULER) if self.place / SCHEDULER in self.others else {}

    @property
    def pipeline(self) -> str:
        """The class of the pipeline that a folder names; empty where it names none."""
        return str(read_json(self.place / INDEX).get("_class_name", "")) if self.place / INDEX in self.others else ""


def find(place: str, where: str) -> Checkpoint:
    """The checkpoint at `place`; raises InputError that starts with `where` for a path without one."""
    if fault := missing(place, "file or folder"):
        hub = _HUB.fullmatch(place) and not Path(place).parent.exists()
        hint = "; where it is the name of a model on a hub, download that first" if hub else ""
        raise InputError(f"{where}: {place}: {fault}{hint}")
    try:
        found = _folder(Path(place)) if Path(place).is_dir() else _file(Path(place))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return found


def _file(
    path: Path, settings: Mapping[str, Any] | None = None, *others: Path, place: Path | None = None
) -> Checkpoint:
    """A single file, whose form is told by the names of its tensors."""
    if said := contents.stand_in(contents.head(path)):
        raise InputError(f"{path}: is {said}")
    if PIECE.search(path.name):
        raise InputError(f"{path}: is a part of weights in several files; name their folder")
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: expected a .safetensors file; other formats may hold code and are not read")
    check_safetensors(path)
    if not shapes(path):
        raise InputError(f"{path}: holds no tensors")
    says = _says(path)
    if "kind" in says and "base" in says:
        form: Form = "policy"
    elif any(map(is_lora, shapes(path))):
        form = "lora"
    else:
        form = "original" if any(name.startswith(ORIGINAL) for name in shapes(path)) else "network"
    return Checkpoint(place or path, form, (path,), says if settings is None else settings, others)


def _says(path: Path) -> Mapping[str, Any]:
    try:
        says = DECODER.decode(metadata(path).get(SAYS, "{}"))
    except KeyTwice as error:
        raise InputError(f"{path}: its metadata {SAYS}: {error}") from None
    except (ValueError, RecursionError):
        says = None
    if not isinstance(says, dict):
        raise InputError(f"{path}: its metadata {SAYS} is no JSON object")
    return says


def _folder(folder: Path) -> Checkpoint:
    """A folder of peft or diffusers, or with one file of weights."""
    kinds = [name for name in (ADAPTER_CONFIG, LORA, INDEX) if (folder / name).is_file()]
    if len(kinds) > 1:
        raise InputError(f"{folder}: holds several checkpoints, of {' and '.join(kinds)}; name the file of one of them")
    if (folder / ADAPTER_CONFIG).is_file():
        return _file(_there(folder / ADAPTER), _peft(folder), folder / ADAPTER_CONFIG, place=folder)
    if (folder / LORA).is_file():
        return _file(folder / LORA, place=folder)
    if (folder / INDEX).is_file():
        layout = BaseLayout(folder)
        part = layout.family.network
        others = [folder / name for name in (INDEX, SCHEDULER, f"{part}/{CONFIG}") if (folder / name).is_file()]
        return Checkpoint(folder, "network", _network(folder / part), {}, tuple(others))
    if (folder / CONFIG).is_file():
        return Checkpoint(folder, "network", _network(folder), {}, (folder / CONFIG,))
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return _file(found[0], place=folder)
    known = ", ".join((ADAPTER_CONFIG, LORA, INDEX, CONFIG))
    several = f"; it holds {len(found)} safetensors files: name one of them" if found else ""
    inner = sorted({path.parent for path in walk.files(folder) if path.name in (ADAPTER_CONFIG, LORA, INDEX)})
    below = f"; there is one in {inner[0]}" if len(inner) == 1 and not found else ""
    raise InputError(f"{folder}: no checkpoint; expected a folder with one of {known}{several}{below}")


def _network(folder: Path) -> tuple[Path, ...]:
    """The files with the weights of a network."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected the denoising network in it")
    found = find_weights(folder)
    if found.missing or not found.safetensors:
        lacking = found.missing[0] if found.missing else "safetensors"
        raise InputError(f"{folder}: has no {lacking}; other formats may hold code and are not read")
    for file in found.files:
        if file.suffix == ".safetensors":
            check_safetensors(file)
    return found.files


def _there(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path.parent}: has no {path.name}; other formats may hold code and are not read")
    return path


def _peft(folder: Path) -> Mapping[str, Any]:
    """The settings of a LoRA of peft."""
    found = read_json(folder / ADAPTER_CONFIG)
    if (kind := str(found.get("peft_type", "LORA"))) != "LORA":
        raise InputError(f"{folder / ADAPTER_CONFIG}: an adapter of type {kind}; expected LORA")
    return {"lora_alpha": PEFT_ALPHA} | dict(found)
