"""Distils the frozen base into a consistency model (Song et al. 2023), as latent consistency models do.

The student, a copy of the base, learns to give the same clean latents from two neighbouring states of the sampler's
grid: a real image noised to index i, and where one deterministic step of the base, with its guidance, takes that state.
The second prediction is the target and carries no gradient; at the last index the base's own clean prediction is. What
differs from the originals: the grid is the sampler's, so that no timestep has to be mapped to another, and the target
comes from the student's present weights, without an average (Song and Dhariwal 2024), and the loss is the squared
distance: nearly absolute distances kept the student from settling (docs/log.md).
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.encode.store import Encodings, Item
from stages.models.conditioning import Conditioning
from stages.models.consistency import Student
from stages.models.diffusion import Denoiser, DiffusionModel, posterior_sample
from stages.models.noise import KeyedNoise
from stages.models.process import Grid
from stages.prepare.consistency_settings import ConsistencySettings
from stages.prepare.loop import Log, Terms, Trainer, draw_rows, generator
from stages.resume import State
from stages.runtime import whole_files

SAMPLES = 3  # images per held-out prompt in the acceptance check


@dataclass(frozen=True)
class Teacher:
    """The frozen base on the sampler's grid, with its guidance."""

    base: Denoiser
    grid: Grid
    empty: Conditioning
    guidance: float

    @torch.no_grad()
    def look(self, x: Tensor, i: Tensor, text: Conditioning) -> tuple[Tensor, Tensor]:
        """Clean latents predicted for states x [B, C, h, w] that enter steps i [B], and the states one step later."""
        prediction = self.base.prediction(x, self.grid.timesteps[i], text, self.empty, self.guidance)
        return self.grid.x0(x, prediction, i), self.grid.ode(x, prediction, i)


@dataclass
class Lesson:
    """What the student learns from: captioned images of the training split."""

    teacher: Teacher
    student: Student
    encodings: Encodings
    items: list[Item]
    scale: float
    settings: ConsistencySettings

    def terms(self, step: int) -> Terms:
        """The loss of one optimizer step."""
        count, grid = self.settings.batch, self.teacher.grid
        items = [self.items[row] for row in draw_rows(self.settings.seed, "distil", step, len(self.items), count)]
        mean, std = self.encodings.posterior(items)
        random = generator(self.settings.seed, "distil noise", step)
        sampled, noise = torch.randn((2, *mean.shape), generator=random).to(mean.device)
        i = torch.randint(len(grid), (count,), generator=random).to(mean.device)
        clean, text = posterior_sample(mean, std, sampled, self.scale), self.encodings.text(items)
        x = grid.process.noised(clean, noise, grid.timesteps[i])
        target = self.target(x, i, text)
        error = self.student(x, grid.timesteps[i], text) - target
        return {"loss": error.square().mean()}

    @torch.no_grad()
    def target(self, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
        """The student's prediction one step of the teacher later; at the last index the teacher's own."""
        clean, later = self.teacher.look(x, i, text)
        last = len(self.teacher.grid) - 1
        found = self.student(later, self.teacher.grid.timesteps[(i + 1).clamp(max=last)], text)
        return torch.where((i == last).reshape(-1, 1, 1, 1), clean, found)


@torch.no_grad()
def acceptance(
    teacher: Teacher, student: Student, encodings: Encodings, settings: ConsistencySettings
) -> dict[str, float]:
    """How far student and Tweedie's formula are from the end of the base's deterministic sampler, on held-out prompts.

    `probe_student_<i>` and `probe_tweedie_<i>`: mean squared errors from states that enter index i; `probe_accepted` is
    1 where the student's is the smaller at every index of the noisy half.
    """
    items = [item for item in encodings.prompts("eval")[: settings.held_out] for _ in range(SAMPLES)]
    keys = [("distil", item.item_id, n) for n, item in enumerate(items)]
    x, text = (
        KeyedNoise(settings.seed, keys, encodings.latent_shape(), teacher.grid.process.device).initial(),
        encodings.text(items),
    )
    states, tweedie = [], []
    for i in range(len(teacher.grid)):
        states.append(x)
        clean, x = teacher.look(x, torch.full((len(items),), i, device=x.device), text)
        tweedie.append(clean)
    found: dict[str, float] = {}
    better = []
    for i, (state, clean) in enumerate(zip(states, tweedie, strict=True)):
        times = teacher.grid.timesteps[i].expand(len(items))
        errors = [float((of - x).square().mean()) for of in (student(state, times, text), clean)]
        found |= {f"probe_student_{i}": errors[0], f"probe_tweedie_{i}": errors[1]}
        better.append(errors[0] < errors[1])
    return found | {"probe_accepted": float(all(better[: len(better) // 2]))}


def train(settings: ConsistencySettings, model: DiffusionModel, encodings: Encodings, out: Path, state: State) -> Log:
    """Distil `model`, check the student on held-out prompts, save its network at `out`; returns the training log."""
    teacher = Teacher(
        Denoiser(model.unet, model.process), model.process.grid(settings.sampling_steps), encodings.empty(),
        settings.guidance,
    )  # fmt: skip
    network = copy.deepcopy(model.unet).requires_grad_(True)
    student = Student(Denoiser(network, model.process))
    lesson = Lesson(teacher, student, encodings, encodings.images("train"), model.vae.scale, settings)
    trainer = Trainer("consistency", {"unet": network}, settings, state)
    trainer.run(lesson.terms)
    log = trainer.finish()
    found = acceptance(teacher, student, encodings, settings)
    log.add(settings.steps, found)
    said = "beats" if found["probe_accepted"] else "does not beat"
    print(f"consistency: the student {said} Tweedie's formula at every index of the noisy half", file=sys.stderr)
    with whole_files(out) as folder:
        network.save_pretrained(folder)
    return log
