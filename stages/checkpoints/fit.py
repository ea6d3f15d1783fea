"""Whether a checkpoint fits the study's base: architecture, layers, prediction type. Torch-free.

Shapes are those of the base's denoising network: before the first job from headers on this machine, in the job from the
network itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from stages.checkpoints.files import ORIGINAL, Checkpoint
from stages.checkpoints.lora import scales
from stages.checkpoints.lora_names import updates
from stages.errors import InputError
from stages.models.bases import weights
from stages.models.bases.layout import SCHEDULER, BaseLayout, read_json

Shapes = Mapping[str, tuple[int, ...]]
PREDICTION = "prediction_type"
FLOW = "flow_prediction"


def header_shapes(layout: BaseLayout) -> Shapes | None:
    """Shapes of the denoising network of a base's folder; None where its headers do not say."""
    part = layout.family.network
    if not (layout.folder / part).is_dir():
        return None
    found = layout.weights(part)
    if not found.files or found.missing or not found.safetensors:
        return None
    files = [path for path in found.files if path.suffix == ".safetensors"]
    return {name: shape for path in files for name, shape in weights.shapes(path).items()}


def check(checkpoint: Checkpoint, layout: BaseLayout, shapes: Shapes | None, where: str) -> None:
    """Raise InputError that starts with `where` for a checkpoint that does not fit the base in `layout`, whose
    denoising network has these `shapes`; None leaves out what needs them.
    """
    _check_prediction(checkpoint, layout, where)
    if checkpoint.pipeline and checkpoint.pipeline != layout.family.pipeline:
        raise InputError(
            f"{where}: {checkpoint.place}: another architecture: {checkpoint.pipeline}, but the base is of"
            f" {layout.family.pipeline}"
        )
    if shapes is None:
        return
    said = f"{where}: {checkpoint.place}"
    if checkpoint.form == "lora" or (checkpoint.form == "policy" and checkpoint.settings.get("kind") == "lora"):
        _check_lora(checkpoint, shapes, said)
    elif checkpoint.form == "network":
        _check_network(checkpoint.shapes, shapes, said)
    elif checkpoint.form == "policy":
        kept = {name: shape for name, shape in shapes.items() if name in checkpoint.shapes}
        _check_network(checkpoint.shapes, kept, said)
    elif layout.family.network == "unet":
        _check_original(checkpoint.shapes, shapes, said)


def _check_prediction(checkpoint: Checkpoint, layout: BaseLayout, where: str) -> None:
    """A pipeline's folder has a scheduler, whose prediction type is that of its network."""
    own, base = checkpoint.scheduler, layout.folder / SCHEDULER
    if not own or not base.is_file():
        return
    found, wanted = _prediction(own), _prediction(read_json(base))
    if found != wanted:
        raise InputError(
            f"{where}: {checkpoint.place / SCHEDULER}: {PREDICTION} is {found}, but that of the base is {wanted}"
        )


def _prediction(scheduler: Mapping[str, object]) -> str:
    flow = str(scheduler.get("_class_name", "")).startswith("FlowMatch")
    return FLOW if flow else str(scheduler.get(PREDICTION, "epsilon"))


def _check_network(found: Shapes, wanted: Shapes, said: str) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            raise InputError(
                f"{said}: another architecture: has no {name!r} {_shape(wanted[name])}, which the base has"
            )
        if name not in wanted:
            raise InputError(
                f"{said}: another architecture: has {name!r} {_shape(found[name])}, which the base has not"
            )
        if found[name] != wanted[name]:
            raise InputError(
                f"{said}: another architecture: {name!r} is {_shape(found[name])}, in the base {_shape(wanted[name])}"
            )


def _check_original(found: Shapes, wanted: Shapes, said: str) -> None:
    """A release names the layers of a UNet otherwise than diffusers does, but has the same shapes as often."""
    own = {name: shape for name, shape in found.items() if name.startswith(ORIGINAL)}
    more, less = Counter(own.values()) - Counter(wanted.values()), Counter(wanted.values()) - Counter(own.values())
    for names, odd, words in ((own, more, ("has", "has not")), (wanted, less, ("has no", "has"))):
        name = next((name for name, shape in names.items() if shape in odd), None)
        if name is not None:
            raise InputError(
                f"{said}: another architecture: {words[0]} {name!r} {_shape(names[name])}, which the base {words[1]}"
            )


def _check_lora(checkpoint: Checkpoint, shapes: Shapes, said: str) -> None:
    own, layers = checkpoint.shapes, layers_of(shapes)
    found = updates(own, layers, said)
    for update in found:
        down, up, weight = own[update.down], own[update.up], shapes[f"{update.layer}.weight"]
        outer = (up[0], *down[1:]) if up and down else ()
        fits = len(down) > 1 and len(up) > 1 and down[0] == up[1] and _flat(outer) == _flat(weight)
        if not fits:
            raise InputError(
                f"{said}: updates layer {update.layer!r} by matrices {_shape(up)} and {_shape(down)}, but in the base"
                f" it is {_shape(weight)}; a LoRA of another base?"
            )
    scales(checkpoint, found, said)


def layers_of(shapes: Shapes) -> list[str]:
    """The layers that a LoRA may update: those whose weight is a matrix or a convolution."""
    return [name.removesuffix(".weight") for name, s in shapes.items() if name.endswith(".weight") and len(s) in (2, 4)]


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones: a 1x1 convolution may be written as a matrix."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
