"""Whether a checkpoint fits the study's base: architecture, layers, prediction type. Torch-free.

Shapes are those of the base's denoising network: before the first job from headers on this machine, in the job from the
network itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from stages.checkpoints.files import ORIGINAL, Checkpoint
from stages.checkpoints.lora import scales
from stages.checkpoints.lora_names import ALPHA, updates
from stages.errors import InputError
from stages.kinds import shown
from stages.models.bases import weights
from stages.models.bases.layout import CONFIG, SCHEDULER, BaseLayout, flow_matching, read_json
from stages.models.bases.single import require_family

Shapes = Mapping[str, tuple[int, ...]]
PREDICTION = "prediction_type"
FLOW = "flow_prediction"
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
"""Keys of a scheduler that say with which noise the network was trained."""
NO_WEIGHT = ("sample_size", "dropout", "upcast_attention")
"""Keys of a network's configuration that do not change what it computes of given latents."""


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
    try:
        _check(checkpoint, layout, shapes, where)
    except InputError as error:  # of a file that is not readable
        said = str(error)
        raise InputError(said if said.startswith(where) else f"{where}: {said}") from None


def _check(checkpoint: Checkpoint, layout: BaseLayout, shapes: Shapes | None, where: str) -> None:
    _check_prediction(checkpoint, layout, where)
    if checkpoint.pipeline and checkpoint.pipeline != layout.family.pipeline:
        raise InputError(
            f"{where}: {checkpoint.place}: another architecture: {checkpoint.pipeline}, but the base is of"
            f" {layout.family.pipeline}"
        )
    said = f"{where}: {checkpoint.place}"
    _check_types(checkpoint, said)
    if checkpoint.form == "original":
        require_family(checkpoint.place, layout)
    if shapes is not None:
        _check_shapes(checkpoint, layout, shapes, said)
    _check_config(checkpoint, layout, said)


def _check_shapes(checkpoint: Checkpoint, layout: BaseLayout, shapes: Shapes, said: str) -> None:
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
    own, place = checkpoint.scheduler, layout.folder / SCHEDULER
    if not own or not place.is_file():
        return
    base = read_json(place)
    found, wanted = _prediction(own), _prediction(base)
    if found != wanted:
        raise InputError(
            f"{where}: {checkpoint.place / SCHEDULER}: {PREDICTION} is {found}, but that of the base is {wanted}"
        )
    if FLOW not in (found, wanted):
        for key in (key for key in NOISE if key in own and key in base):
            _alike(key, own[key], base[key], f"{where}: {checkpoint.place / SCHEDULER}")


def _check_config(checkpoint: Checkpoint, layout: BaseLayout, said: str) -> None:
    """A network whose configuration differs computes something else of the same weights than the base's would: with
    another number of attention heads, say. What one of the two leaves out, or has as null, is a default: not compared.
    """
    own, base = checkpoint.config, layout.config(layout.family.network)
    sized = layout.family.pipeline == "PixArtAlphaPipeline"  # its position embeddings depend on it
    for key in sorted(own.keys() & base.keys()):
        counts = not key.startswith("_") and (key not in NO_WEIGHT or (key == "sample_size" and sized))
        if counts and None not in (own[key], base[key]):
            _alike(key, own[key], base[key], f"{said}: {CONFIG} of its network")


def _alike(key: str, found: object, wanted: object, said: str) -> None:
    """Raise InputError for two values; a list of equal entries is the same as one of them."""
    if _one(found) != _one(wanted):
        raise InputError(f"{said}: {key} is {shown(found)}, but that of the base is {shown(wanted)}")


def _one(value: object) -> object:
    return value[0] if isinstance(value, list) and value and all(item == value[0] for item in value) else value


def _check_types(checkpoint: Checkpoint, said: str) -> None:
    """Weights are floating-point numbers; integers are those of a quantised network, which mean nothing alone."""
    for name, dtype in checkpoint.dtypes.items():
        read = checkpoint.form != "original" or name.startswith(ORIGINAL)
        if read and dtype not in weights.FLOATS and not (checkpoint.form == "lora" and name.endswith(ALPHA)):
            raise InputError(
                f"{said}: {name!r} is of type {dtype}, expected floating-point weights; quantised ones are not read"
            )


def _prediction(scheduler: Mapping[str, object]) -> str:
    return FLOW if flow_matching(scheduler) else str(scheduler.get(PREDICTION, "epsilon") or "null")


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
    """A release names the layers of a UNet otherwise than diffusers does, but has as many layers of each shape."""
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
        fits = len(down) > 1 and len(up) > 1 and down[0] == up[1] > 0 and _flat(outer) == _flat(weight)
        if not fits:
            raise InputError(
                f"{said}: updates layer {update.layer!r} by matrices {_shape(up)} and {_shape(down)}, but in the base"
                f" it is {_shape(weight)}; a LoRA of another base?"
            )
        for name, count in ((update.alpha, 1), (update.magnitude, weight[0])):
            if name is not None and math.prod(own[name]) != count:
                raise InputError(f"{said}: {name!r} is {_shape(own[name])}, not of size {count}")
    scales(checkpoint, found, said)


def layers_of(shapes: Shapes) -> list[str]:
    """The layers that a LoRA may update: those whose weight is a matrix or a convolution."""
    return [name.removesuffix(".weight") for name, s in shapes.items() if name.endswith(".weight") and len(s) in (2, 4)]


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones: a 1x1 convolution may be written as a matrix."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
