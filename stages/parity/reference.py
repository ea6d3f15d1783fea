"""A set of reference numbers: its weights as the stages load them, its inputs, and what is expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.errors import InputError
from stages.mappings import read_json
from stages.models.bases.texts import TextEncoder
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Autoencoder, load_text, load_unet, load_vae
from stages.models.process_noise import NoiseSchedule
from stages.models.record import describe
from stages.parity import pixelwise
from stages.parity.trail import UNFIT, Trail, mapping, said
from stages.rewards import open_clip

NOT_NUMBERS = (
    "config", "environment", "upstream_commit", "full_grad_names", "source", "weights", "param_names", "provenance",
)  # fmt: skip


@dataclass
class Expected:
    """Expected arrays and the nested JSON of scalars, with a memory of what has been asked for, and of parts of it that
    were left out, with the reason. `trail` is told of everything that is read; `folder` is that of the set.
    """

    arrays: dict[str, Tensor]
    scalars: dict[str, Any]
    asked: set[str] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    trail: Trail = field(default_factory=Trail)
    folder: Path = Path()

    def array(self, name: str) -> Tensor:
        """An expected array."""
        self.asked.add(name)
        if name not in self.arrays:
            raise InputError(f"parity set: expected.safetensors has no {name!r}")
        self.trail.array(self.folder / "expected.safetensors", name, self.arrays[name])
        return self.arrays[name]

    def under(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Arrays whose names start with `prefix`, by the rest of their names."""
        for name in [name for name in self.arrays if name.startswith(prefix)]:
            yield name.removeprefix(prefix), self.array(name)

    def value(self, *path: str) -> Any:
        """An entry of expected.json, at `path`."""
        self.trail.entry(*path)
        found: Any = self.scalars
        for part in path:
            if not isinstance(found, dict) or part not in found:
                raise InputError(f"parity set: expected.json has no {'.'.join(path)!r}")
            found = found[part]
        self.asked |= {name for name, _ in _leaves(found, path)}
        return found

    def tags(self, section: str) -> list[str]:
        """Names of the items of a section of expected.json; none where there is no such section."""
        return list(self.table(section)) if section in self.scalars else []

    def table(self, *path: str) -> dict[str, Any]:
        """The object at `path` of expected.json, not yet asked for; raises InputError for anything else."""
        self.trail.entry(*path, "")
        found: Any = self.scalars
        for n, part in enumerate(path, 1):
            where = f"{self.folder / 'expected.json'}: {'.'.join(path[:n])}"
            found = mapping(found.get(part), where)
        return found

    def unread(self) -> list[str]:
        """Names of everything that was never asked for."""
        every = [
            *self.arrays,
            *(name for name, _ in _leaves(self.scalars, ()) if name.split(".")[0] not in NOT_NUMBERS),
        ]
        return [*(name for name in every if name not in self.asked), *self.left]


def _leaves(found: Any, path: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Entries that are no mappings; a mapping of norms by parameter counts as one entry."""
    if isinstance(found, dict) and not (path and path[-1].endswith("_norms")):
        for key, value in found.items():
            yield from _leaves(value, (*path, key))
    else:
        yield ".".join(path), found


class Named(dict[str, Any]):
    """Entries of a set by name; `where` is what they are called in the error for one that is missing, an InputError.

    `read(name, entry)` is told of each that is looked up.
    """

    def __init__(self, entries: Mapping[str, Any], where: str, read: Callable[[str, Any], None] | None = None) -> None:
        super().__init__(entries)
        self.where, self.read = where, read

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if self.read is not None:
            self.read(name, found)
        return found

    def __missing__(self, name: str) -> Any:
        raise InputError(f"parity set: {self.where.format(name)}")


@dataclass(frozen=True)
class ParitySet:
    """Everything in one folder: frozen networks `base` and `tuned`, and a `reward` that knows prompts by number.

    `folder` is that of the set that has the networks.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, Tensor]
    expected: Expected
    schedule: NoiseSchedule
    base: nn.Module
    tuned: nn.Module
    vae: Autoencoder
    text: TextEncoder
    reward: open_clip.OpenClip
    folder: Path = Path()

    def of_networks(self, name: str) -> Tensor:
        """An expected array of the set that has the networks, which may be another one; raises InputError where it has
        none of that name.
        """
        found = _tensors(self.folder / "expected.safetensors")
        if name not in found:
            raise InputError(f"{self.folder / 'expected.safetensors'}: no array {name!r}")
        return found[name]

    @property
    def networks(self) -> list[nn.Module]:
        """Every network whose rounding the items depend on."""
        return [self.base, self.tuned, self.vae.network, self.reward.model]

    @property
    def prompts(self) -> list[str]:
        """The prompts of the batch: their numbers, which `reward` looks up in `reward_ids`."""
        return [str(n) for n in range(len(self.inputs["reward_ids"]))]

    def images(self, name: str) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] from an input of bytes."""
        return self.inputs[name].float() / 255

    def embeddings(self) -> tuple[Conditioning, Conditioning]:
        """Conditioning on the text embeddings [B, length, width] of the prompts, and [1, ...] of the empty one."""
        with torch.no_grad():
            ids = (self.inputs["prompt_ids"], self.inputs["uncond_ids"])
            return Conditioning(self.text.hidden(ids[0])), Conditioning(self.text.hidden(ids[1]))


def load(folder: Path, base: Path | None = None) -> ParitySet:
    """The set in `folder`; raises InputError naming the file that is missing or unreadable.

    A set without networks of its own takes those of another set, and the inputs that it lacks: of the one in `base`, or
    of the one that its expected.json names as `weights`, a folder relative to it.
    """
    scalars = _json(folder / "expected.json")
    arrays, inputs = (_tensors(folder / f"{name}.safetensors") for name in ("expected", "inputs"))
    files = dict.fromkeys(inputs, folder / "inputs.safetensors")
    weights = folder / "weights"
    if not weights.is_dir() and (base is not None or "weights" in scalars):
        weights = base / "weights" if base is not None else (folder / str(scalars["weights"])).resolve()
        inputs = _tensors(weights.parent / "inputs.safetensors") | inputs
    elif not weights.is_dir():
        raise InputError(f"{folder}: no folder weights; --base names the set whose networks it takes")
    schedule = NoiseSchedule.from_config(_json(weights / "scheduler" / "scheduler_config.json"), torch.device("cpu"))
    made = Expected(arrays, scalars, folder=folder)

    def read(name: str, found: Any) -> None:
        made.trail.array(files.get(name, weights.parent / "inputs.safetensors"), name, found)

    inputs = Named(inputs, "inputs.safetensors has no {!r}", read)
    ids = inputs["reward_ids"]

    def tokens(prompts: Sequence[str]) -> Tensor:
        return ids[[int(prompt) for prompt in prompts]]

    networks = _pixelwise(weights) if (weights / pixelwise.WEIGHTS).is_file() else _real(weights)
    frozen, tuned, vae, text, judge = networks
    reward = open_clip.OpenClip("reward", judge.model, judge.preprocess, tokens)
    config = mapping(scalars.get("config", {}), f"{folder / 'expected.json'}: config")
    return ParitySet(config, inputs, made, schedule, frozen, tuned, vae, text, reward, weights.parent)


Networks = tuple[nn.Module, nn.Module, Autoencoder, TextEncoder, open_clip.OpenClip]


def _real(weights: Path) -> Networks:
    where = torch.device("cpu")
    for part in ("unet", "unet_tuned", "vae", "text_encoder", "reward_clip"):
        if not (weights / part).is_dir():
            raise InputError(f"{weights}: no folder {part}; expected the layout of docs/parity.md")
    base, tuned = (load_unet(weights, where, name) for name in ("unet", "unet_tuned"))
    judge = open_clip.load(describe("reward", "open_clip", weights / "reward_clip"), where)
    return base, tuned, load_vae(weights, where), load_text(weights, where), judge


def _pixelwise(weights: Path) -> Networks:
    from stages.rewards.preprocess import Preprocess

    try:
        made = pixelwise.load(_tensors(weights / pixelwise.WEIGHTS))
    except UNFIT as error:
        raise InputError(f"{weights / pixelwise.WEIGHTS}: not the networks of this layout: {said(error)}") from error
    vae = Autoencoder(made.vae)  # type: ignore[arg-type]
    judge = open_clip.OpenClip("reward", made.judge, Preprocess(), None)  # type: ignore[arg-type]
    return made.base, made.tuned, vae, TextEncoder(None, made.text), judge  # type: ignore[arg-type]


def _json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the layout of docs/parity.md") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    return mapping(read_json(text, str(path)), str(path))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the layout of docs/parity.md") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
