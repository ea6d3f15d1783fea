"""Folders of exported models: the base's own files where nothing changes, new weights elsewhere."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.errors import InputError
from stages.export import pipeline
from stages.models.bases.layout import INDEX, SCHEDULER, flow_matching, read_json
from stages.models.diffusion import DiffusionModel, source_of
from stages.runtime import beside

PIPELINE_FILE = "pipeline.py"
README = """# Combined generation

`base_network` makes the first steps of every image, `network`, fine-tuned with {method}, the others. To use it:

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline="FOLDER/pipeline.py", trust_remote_code=True)
    pipe("a prompt", switch_step={switch_step}).images[0]

`pipeline.py` needs nothing but diffusers; read it before you run it. {base}
"""


@dataclass(frozen=True)
class Defaults:
    """What a call of an exported combined pipeline does when it is told nothing else."""

    sampler: str
    steps: int
    switch_step: int
    base_guidance: float
    guidance: float


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write to; it takes the name `path` only when the block ends without an exception."""
    if path.exists():
        raise InputError(f"{path}: is there already; name another folder, or remove it")
    if (path.parent / INDEX).exists():
        raise InputError(f"{path}: lies in the folder of a model; name a folder outside of it")
    with beside(path) as partial:
        yield partial
        partial.rename(path)


def write_merged(model: DiffusionModel, network: nn.Module, out: Path, dtype: torch.dtype) -> None:
    """A folder like the base's own, with `network` in place of its denoising network."""
    with whole_folder(out) as folder:
        _shared_parts(model, folder)
        shutil.copy(model.layout.folder / SCHEDULER, _made(folder / SCHEDULER))
        variant = model.layout.weights("vae").variant if not _single(model) else None
        network.to(dtype).save_pretrained(folder / model.layout.family.network, variant=variant)  # type: ignore[operator]
        index = dict(model.layout.index)
        for name, entry in index.items():
            if isinstance(entry, list) and not (folder / name).is_dir():
                index[name] = [None, None]
        if "safety_checker" in index:
            index["requires_safety_checker"] = False
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_combined(
    model: DiffusionModel, network: nn.Module, out: Path, dtype: torch.dtype, defaults: Defaults, method: str
) -> None:
    """A folder with base and fine-tuned network, and the pipeline that combines them."""
    layout = model.layout
    if not 0 <= defaults.switch_step <= defaults.steps:
        raise InputError(f"switch step {defaults.switch_step} is not between 0 and the {defaults.steps} steps")
    scheduler = _scheduler(read_json(layout.folder / SCHEDULER))
    most = scheduler.get("num_train_timesteps", defaults.steps)
    if defaults.steps > most:
        raise InputError(
            f"--steps {defaults.steps}: the base was trained on {most} timesteps, expected at most as many"
        )
    with whole_folder(out) as folder:
        _shared_parts(model, folder)
        _made(folder / SCHEDULER).write_text(json.dumps(scheduler, indent=2) + "\n")
        for name, part in (("network", network), ("base_network", model.unet)):
            part.to(dtype).save_pretrained(folder / name)  # type: ignore[operator]
        shutil.copy(inspect.getfile(pipeline), folder / PIPELINE_FILE)
        parts = {name: layout.index[name] for name in ("vae", *layout.texts, *layout.tokenizers)}
        kind = ["diffusers", type(network).__name__]
        zeros = model.record.options.get("empty", "model") == "model"
        index: dict[str, Any] = {
            "_class_name": [PIPELINE_FILE.removesuffix(".py"), pipeline.CombinedGenerationPipeline.__name__],
            "_diffusers_version": layout.index.get("_diffusers_version"), **parts, "network": kind,
            "base_network": kind, "scheduler": ["diffusers", scheduler["_class_name"]],
            "family": layout.family.pipeline,
            "zeros_for_empty_prompt": zeros and bool(layout.index.get("force_zeros_for_empty_prompt", False)),
        }  # fmt: skip
        (folder / INDEX).write_text(json.dumps(index | asdict(defaults), indent=2) + "\n")
        text = README.format(method=method, switch_step=defaults.switch_step, base=f"Base: {_whence(model)}")
        (folder / "README.md").write_text(text)


def _whence(model: DiffusionModel) -> str:
    record = model.record
    return f"{record.source or record.path}{f' at {record.revision}' if record.revision else ''}."


def _scheduler(config: Any) -> dict[str, Any]:
    """A scheduler that has the base's noise schedule and timesteps; the pipeline makes the steps itself."""
    if flow_matching(config):
        return dict(config)
    kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing",
            "steps_offset")  # fmt: skip
    return {"_class_name": "DDPMScheduler", "clip_sample": False} | {key: config[key] for key in kept if key in config}


def _shared_parts(model: DiffusionModel, folder: Path) -> None:
    """Everything but the denoising network, the scheduler and the index: copied, or taken out of a single file."""
    layout, source = model.layout, source_of(model.record, ("vae", "text_encoder"))
    wanted = {"vae", *layout.texts, *layout.tokenizers}
    single = _single(model)
    for name in layout.files():
        path = layout.folder / name
        weights = single and name.endswith((".safetensors", ".bin", ".index.json"))
        if name.split("/")[0] in wanted and not weights:
            shutil.copy(path, _made(folder / name))
    for part in ("vae", *layout.texts) if single else ():
        source.part(part).save_pretrained(folder / part)  # type: ignore[operator]


def _single(model: DiffusionModel) -> bool:
    return "config" in model.record.options


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
