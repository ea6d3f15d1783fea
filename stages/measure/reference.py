"""Features of curated images and their statistics, once per study, for every set metric of every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages import tables
from stages.errors import InputError
from stages.measure.panel import Panel
from stages.measure.settings import MeasureSettings
from stages.measure.statistics import Gaussian, Reference, directions, reference
from stages.pictures import decode_row
from stages.resume import State, Unit
from stages.runtime import progress, whole_file

if TYPE_CHECKING:
    from stages.measure.judges import Judges

ABOUT = "about"
"""The only key of the metadata: the order of several keys would differ from process to process."""
_TENSORS = ("features", "mean", "covariance", "radii", "kernel_mean")


def write_reference(
    settings: MeasureSettings, judges: Judges, images: Path, features: Path, state: State | None = None
) -> dict[str, float]:
    """Write the reference features of the study; returns counts. Batches that `state` holds are not scored again.

    Where the study has no embedding, and so no set metrics, the file holds no tensors.
    """
    from safetensors.numpy import save_file

    space = settings.space
    content: dict[str, np.ndarray] = {}
    seen = ""
    if space is not None:
        found, seen = _features(settings, judges, images, space, state or State())
        if len(found) <= settings.neighbours:
            raise InputError(
                f"{images}: {len(found)} captioned images, expected over measure.neighbours ({settings.neighbours})"
            )
        made = reference(for_sets(settings, found), settings.neighbours)
        content = {
            "features": made.features,
            "mean": made.gaussian.mean,
            "covariance": made.gaussian.covariance,
            "radii": made.radii,
            "kernel_mean": np.array([made.kernel_mean]),
        }
    with whole_file(features) as partial:
        about = json.dumps({"reference": _identity(settings, judges.panel), "images": seen})
        save_file(content, partial, metadata={ABOUT: about})
    return {"images": float(len(content["features"])) if content else 0.0}


def for_sets(settings: MeasureSettings, features: np.ndarray) -> np.ndarray:
    """Embeddings [n, D] as set metrics compare them, in float64."""
    return directions(features) if settings.directions else np.asarray(features, np.float64)


def read_reference(settings: MeasureSettings, panel: Panel, path: Path) -> tuple[Reference, str]:
    """The statistics that `write_reference` wrote, and the digest of the images that they are of.

    Raises InputError where they belong to another model or setting.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: not readable as reference features ({error}); run measure reference") from None
    known = isinstance(about, dict) and isinstance(about.get("images"), str) and set(found) == set(_TENSORS)
    if not known or about.get("reference") != _identity(settings, panel):
        raise InputError(f"{path}: features of another model or other settings of measure; run measure reference again")
    _check_tensors(found, path)
    spread = Gaussian(found["mean"], found["covariance"])
    kernel_mean = float(found["kernel_mean"][0])
    made = Reference(found["features"], spread, found["radii"], kernel_mean, settings.neighbours)
    return made, about["images"]


def _check_tensors(found: Mapping[str, np.ndarray], path: Path) -> None:
    """Raise InputError where a tensor is not finite, or does not have the shape that the features ask for."""
    count, width = found["features"].shape if found["features"].ndim == 2 else (0, 0)
    shapes = {"features": (count, width), "mean": (width,), "covariance": (width, width), "radii": (count,)}
    for name, shape in (shapes | {"kernel_mean": (1,)}).items():
        if found[name].shape != shape or not count:
            raise InputError(f"{path}: {name!r} has shape {found[name].shape}, expected another; run measure reference")
        if not np.isfinite(found[name]).all():
            raise InputError(f"{path}: {name!r} is not finite; run measure reference again")


def _identity(settings: MeasureSettings, panel: Panel) -> str:
    space = settings.space
    model = panel.identities[space] if space is not None else None
    values = [space, model, settings.directions, settings.neighbours, settings.reference_images]
    return json.dumps(values, sort_keys=True)


def _features(
    settings: MeasureSettings, judges: Judges, path: Path, space: str, state: State
) -> tuple[np.ndarray, str]:
    """Features [N, D] of the chosen images, in the order of the table, and a digest of those images."""
    from torch import from_numpy

    rows = tables.read(path, tables.IMAGES, ["image_id", "split"]).to_pylist()
    ids = [row["image_id"] for row in rows if row["split"] != "pairs"]  # images of pairs may be poor on purpose
    chosen = _chosen(ids, settings.reference_images)
    size, digest = settings.batch_size, hashlib.sha256()

    def digested() -> Iterator[list[np.ndarray]]:
        for batch in _batches(path, chosen, size):
            for image in batch:
                digest.update(image.tobytes())
            yield batch

    def make(batch: list[np.ndarray]) -> Unit:
        made = [np.empty(0)] * len(batch)
        sizes: dict[tuple[int, ...], list[int]] = {}
        for row, image in enumerate(batch):
            sizes.setdefault(image.shape, []).append(row)
        for same in sizes.values():
            for row, values in zip(same, judges.embed(space, np.stack([batch[r] for r in same])), strict=True):
                made[row] = values
        return {"features": from_numpy(np.stack(made))} if made else {}

    units = progress(state.results("reference", digested(), make), -(-len(rows) // size), "reference")
    parts = [unit["features"].numpy() for unit in units if unit]
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32), digest.hexdigest()[:16]


def _chosen(ids: list[str], most: int) -> set[str]:
    """At most `most` ids: a choice that depends on the ids alone and not on their order."""
    if len(ids) <= most:
        return set(ids)
    return set(sorted(ids, key=lambda image: hashlib.blake2b(image.encode()).digest())[:most])


def _batches(path: Path, chosen: set[str], size: int) -> Iterator[list[np.ndarray]]:
    for part in tables.stream(path, tables.IMAGES, size, ["image_id", "image", "width", "height"]):
        rows = [row for row in part.to_pylist() if row["image_id"] in chosen]
        yield [decode_row(row, f"{path}: image {row['image_id']}") for row in rows]
