"""Models in folders of transformers, loaded whole or refused in one line."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from safetensors import SafetensorError

from stages.errors import InputError
from stages.mappings import read_json
from stages.models.record import ModelRecord
from stages.rewards.networks.checkpoint import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

M = TypeVar("M", bound="PreTrainedModel")
SAFE = ("model.safetensors", "model.safetensors.index.json")
WEIGHTS = (SAFE[0], "pytorch_model.bin", SAFE[1], "pytorch_model.bin.index.json")


def pretrained(kind: type[M], record: ModelRecord, dtype: torch.dtype, device: torch.device | str, **more: object) -> M:
    """The model of class `kind` in the folder of `record`, frozen, in `dtype` on `device`.

    Raises InputError for missing files, a `config.json` of another model, damaged or pickled weights, and where the
    weights do not cover the model: transformers would draw the rest at random.
    """
    folder = record.folder()
    expected = f"expected config.json and {WEIGHTS[0]} or {WEIGHTS[1]}, the layout of transformers"
    if "config.json" not in record.files or not any(name in record.files for name in WEIGHTS):
        missing = "weights" if "config.json" in record.files else "config.json"
        raise InputError(f"model {record.name!r}: {folder} has no {missing}; {expected}")
    _check_kind(folder, kind)
    safe = any(name in record.files for name in SAFE)
    shared = {"local_files_only": True, "output_loading_info": True, "use_safetensors": safe}
    options: dict[str, Any] = {**shared, "dtype": dtype, **more}
    try:
        model, info = cast(Any, kind).from_pretrained(folder, **options)
    except pickle.UnpicklingError:
        raise InputError(f"{folder}: its weights are pickled Python objects; expected tensors alone") from None
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"{folder}: not a readable {kind.__name__}: {one_line(error)}") from None
    if lacking := sorted(info["missing_keys"]):
        raise InputError(f"{folder}: its weights lack {lacking[0]!r} and so are not those of a {kind.__name__}")
    return model.to(device).eval().requires_grad_(False)


def _check_kind(folder: Path, kind: type[PreTrainedModel]) -> None:
    path = folder / "config.json"
    config = read_json(path.read_text(encoding="utf-8"), str(path))
    wanted = getattr(kind.config_class, "model_type", "")
    found = config.get("model_type") if isinstance(config, Mapping) else None
    if found != wanted:
        raise InputError(f"{path}: model_type is {found!r}, expected {wanted!r}")
