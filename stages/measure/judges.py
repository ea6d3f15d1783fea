"""The networks and programs that judge, loaded once; every network sees every image once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.errors import InputError
from stages.measure.identity import model_id
from stages.measure.panel import Panel
from stages.measure.scored import ScoredImages
from stages.measure.settings import MeasureSettings
from stages.models.record import ModelRecord
from stages.models.record import load as load_record
from stages.rewards.base import Oracle, Reward, TextImage, load_reward, require_embedding, require_patches, require_text
from stages.rewards.with_features import unboxed


@dataclass(frozen=True)
class Judges:
    """The models that a study measures with, by name."""

    settings: MeasureSettings
    records: Mapping[str, ModelRecord]
    models: Mapping[str, Reward]
    device: torch.device

    def score(self, pixels: np.ndarray, prompts: Sequence[str]) -> ScoredImages:
        """Judge uint8 images [n, H, W, 3], each with its own prompt."""
        with torch.no_grad():
            images = pixels_to_tensor(pixels, self.device)
            embeddings = {name: self._embed(name, images) for name in self._embedders()}
            seen, oracle, rewards = None, "", {}
            for name in self.settings.rewards:
                model = unboxed(self.models[name])
                if isinstance(model, Oracle):
                    sight = model.see(images, prompts)
                    rewards[name] = model.utility(sight, prompts)
                    seen, oracle = (sight, model.kind) if seen is None else (seen, oracle)
                elif name in embeddings and isinstance(model, TextImage):
                    rewards[name] = model.compare(embeddings[name], prompts)
                else:
                    rewards[name] = model(images, prompts)
            text = self.settings.text_image
            clipscore = None if text is None else require_text(self.models[text]).compare(embeddings[text], prompts)
            patches = {name: require_patches(self.models[name]).patches(images) for name in self._spaces("patches")}
            distances = {name: self._embed(name, images) for name in self._spaces("distance")}
        return ScoredImages(
            prompts=tuple(prompts),
            pixels=pixels,
            rewards={name: _scores(values, name) for name, values in rewards.items()},
            clipscore=None if clipscore is None else _scores(clipscore, str(text)),
            embeddings={name: _features(embeddings[name], name) for name in self._spaces("embedding")},
            patches={name: _features(values, name) for name, values in patches.items()},
            distances={name: _features(values, name) for name, values in distances.items()},
            seen=seen,
            oracle=oracle,
        )

    def embed(self, name: str, pixels: np.ndarray) -> np.ndarray:
        """Features float32 [n, D] of uint8 images [n, H, W, 3] in the space of one model."""
        with torch.no_grad():
            return _features(self._embed(name, pixels_to_tensor(pixels, self.device)), name)

    @property
    def panel(self) -> Panel:
        """What identifies the models and how they are used."""
        about = {name: getattr(model, "describe", dict)() for name, model in self.models.items()}
        return Panel(
            {name: {"digest": self.records[name].digest, **said} for name, said in about.items()},
            {name: model_id(self.records[name], said) for name, said in about.items()},
        )

    def _embed(self, name: str, images: Tensor) -> Tensor:
        return require_embedding(self.models[name]).embed(images)

    def _embedders(self) -> tuple[str, ...]:
        """Models of which one embedding serves as feature, as CLIPScore, or both, and perhaps as reward."""
        text = (self.settings.text_image,) if self.settings.text_image else ()
        return tuple(dict.fromkeys([*text, *self._spaces("embedding")]))

    def _spaces(self, kind: str) -> tuple[str, ...]:
        return tuple(name for name, found in self.settings.features.items() if found == kind)


def load_judges(settings: MeasureSettings, folder: Path, device: torch.device) -> Judges:
    """The models that `settings` names, from the records in `folder`.

    Raises InputError where a record is missing or a model cannot do what the settings ask of it.
    """
    records = {name: load_record(folder / f"{name}.json", name) for name in settings.models}
    models = {name: load_reward(record, device) for name, record in records.items()}
    if settings.text_image in models:
        require_text(models[settings.text_image])
    for name, kind in settings.features.items():
        if name in models:
            require_patches(models[name]) if kind == "patches" else require_embedding(models[name])
    return Judges(settings, records, models, device)


def pixels_to_tensor(pixels: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [n, H, W, 3] as float32 [n, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float() / 255


def _scores(values: Tensor, name: str) -> np.ndarray:
    return _finite(values.double().cpu().numpy(), name)


def _features(values: Tensor, name: str) -> np.ndarray:
    return _finite(values.float().cpu().numpy(), name)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError(f"model {name!r} gave a value that is not finite; expected weights and images it can work on")
    return np.ascontiguousarray(values)
