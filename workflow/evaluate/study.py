"""The study that evaluates checkpoints by a protocol: they and the base are sampled and judged, nothing is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import InputError
from stages.names import LONGEST
from stages.places import real
from workflow.evaluate.protocol import Protocol

if TYPE_CHECKING:
    from stages.study import Study

UNUSED = {"kind": "shapes", "part": "train", "limit": 1}
"""Training prompts, of which a study has one at least and none that is an evaluation prompt; nothing is trained."""


def study(
    protocol: Protocol, base: Path, checkpoints: Sequence[Path], prompts: Path | None, real: Path | None = None
) -> dict[str, Any]:
    """The content of the study file; `real` is where real images are.

    Raises InputError where the protocol needs prompts or real images and none are named, or needs none and some are,
    and for two checkpoints of one name.
    """
    own = protocol.settings
    source, images = _source(protocol, prompts), _real(protocol, real)
    runs = _runs(checkpoints)
    middle = own.steps // 2
    strategies: dict[str, dict[str, Any]] = {"tuned": {"kind": "tuned", "guidance": own.guidance}}
    if middle:
        both = {"base_guidance": own.base_guidance, "guidance": own.guidance}
        strategies["combined"] = {"kind": "combined", "k": [middle], **both}
    return {
        "study": {
            "name": f"evaluate-{protocol.id}-{_name(base)}"[:LONGEST],
            "description": f"{own.description} ({protocol.said})", "seed": own.seed,
            "reward": own.reward, "heldout": own.heldout, "reference": next(iter(runs)),
        },
        "world": {},
        "curate": {
            "images": images, "pairs": None, "prompts": {"train": dict(UNUSED), "eval": source},
            **({"filters": own.filters} if own.filters else {}), **({"side": own.side} if images else {}),
        },
        "prepare": {
            "import": {"base": {"kind": "diffusers", "folder": str(base)}, **own.judges},
            "train": {"vae": {}, "base": {}, "clip": {}, "consistency": {}},
        },
        "score": {"rewards": []},
        "encode": {"side": own.side},
        "finetune": {}, "methods": {}, "runs": runs,
        "sample": {
            "steps": own.steps, "sampler": own.sampler, "samples_per_prompt": own.images,
            "guidance": sorted({1.0, own.base_guidance}), "strategies": strategies,
        },
        "measure": {
            "rewards": list(own.rewards), "text_image": own.text_image, "features": own.features,
            **({"set_metrics": list(own.set_metrics), "directions": own.directions} if own.set_metrics else {}),
        },
        "report": {"rewards": list(own.rewards), "diversities": list(own.diversities)},
    }  # fmt: skip


def require_prompts(protocol: Protocol, made: Study, prompts: Path | None) -> None:
    """Raise InputError where there are fewer prompts than the protocol takes: under its id would stand the number of
    another, easier suite. A list of questions has a prompt on several lines, which counts once; a list of as many lines
    as prompts are taken is whole, though the suite itself may have one twice.
    """
    from stages.curate.sources import opening

    wanted = protocol.settings.limit or protocol.settings.count
    if wanted is None:
        return
    rows = chain.from_iterable(opening.prompts(source, made.world).rows for source in made.curate.prompts.eval)
    texts: set[str] = set()
    lines = 0
    for row in rows:
        lines += 1
        texts.add(row.text)
        if len(texts) == wanted:
            break
    if (found := len(texts)) < wanted and lines != wanted:
        place = f"--prompts {prompts}" if prompts else f"--protocol {protocol.name}"
        few = f"; `--set limit={found}` evaluates with these, under an id of its own" if found else ""
        raise InputError(f"{place}: has {found} prompts, but protocol {protocol.id} takes {wanted}{few}")


def _source(protocol: Protocol, prompts: Path | None) -> dict[str, Any]:
    """The source of the evaluation prompts."""
    source, limit = dict(protocol.settings.prompts), protocol.settings.limit
    if "path" not in source and prompts is not None:
        raise InputError(f"--prompts {prompts}: protocol {protocol.name} has prompts of its own; leave it out")
    if "path" in source and prompts is None:
        raise InputError(f"--prompts: protocol {protocol.name} needs its prompts; name their file")
    if prompts is not None:
        source["path"] = str(prompts)
    return source if limit is None else source | {"limit": limit}


def _real(protocol: Protocol, real: Path | None) -> dict[str, Any] | None:
    """The source of the real images; None for a protocol without them."""
    source = protocol.settings.real
    if source is None and real is not None:
        raise InputError(f"--images {real}: protocol {protocol.name} compares with no real images; leave it out")
    if source is not None and real is None:
        raise InputError(f"--images: protocol {protocol.name} compares with real images; name their folder")
    return None if source is None else source | {"path": str(real)}


def _runs(checkpoints: Sequence[Path]) -> dict[str, dict[str, str]]:
    """An entry of `runs` for every checkpoint, under the name of its file or folder."""
    runs: dict[str, dict[str, str]] = {}
    for place in checkpoints:
        name = _name(place)
        name = f"{name}-checkpoint" if name == "base" else name
        if name in runs:
            raise InputError(
                f"--checkpoint {place}: tables would call it {name!r}, as {runs[name]['checkpoint']}; rename one"
            )
        runs[name] = {"checkpoint": str(place)}
    return runs


def _name(place: Path) -> str:
    """The name of a file or folder as studies may have it."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", real(place).name.removesuffix(".safetensors"))
    return plain.lstrip("-_")[:LONGEST] or "checkpoint"
