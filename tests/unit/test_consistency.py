"""Distilling the base: targets, the check against Tweedie's formula, and its use in SQDF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from stages.encode.store import Encodings
from stages.errors import InputError
from stages.finetune.context import TrainingContext
from stages.finetune.paths import Paths
from stages.finetune.trajectories.chain import Chain
from stages.finetune.trajectories.predictors import Distilled
from stages.models import record
from stages.models.conditioning import Conditioning
from stages.models.consistency import Student, boundary, load_student
from stages.models.diffusion import Denoiser, load_diffusion
from stages.prepare.consistency import Lesson, Teacher, acceptance, train
from stages.prepare.consistency_settings import ConsistencySettings
from stages.resume import State
from tests import tiny

STEPS = 6


def teacher(guidance: float = 1.0) -> Teacher:
    on = tiny.schedule()
    return Teacher(Denoiser(tiny.unet(), on), on.grid(STEPS), Conditioning(tiny.text(1, 9)), guidance)


def settings(**values: Any) -> ConsistencySettings:
    return ConsistencySettings.model_validate({"sampling_steps": STEPS, "batch": 4, "warmup": 0, **values})


def test_boundary_factors_in_numbers():
    skip, out = boundary(torch.tensor([0, 1, 501]))
    assert skip.flatten().tolist() == pytest.approx([1.0, 0.25 / 100.25, 0.25 / (5010**2 + 0.25)])
    assert out.flatten().tolist() == pytest.approx([0.0, 10 / 100.25**0.5, 1.0])


def test_it_starts_as_the_base_s_own_prediction_and_ends_at_the_state_itself():
    on = tiny.schedule()
    student, text = Student(Denoiser(tiny.unet(), on)), Conditioning(tiny.text(2))
    x = torch.randn(2, *tiny.LATENT, generator=torch.Generator().manual_seed(0))
    clean, _ = teacher().look(x, torch.tensor([0, 2]), text)
    found = student(x, on.grid(STEPS).timesteps[torch.tensor([0, 2])], text)
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(student(x, torch.tensor([0, 0]), text), x)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_teacher_is_the_deterministic_sampler(guidance: float):
    made, text = teacher(guidance), Conditioning(tiny.text(2))
    x = torch.randn(2, *tiny.LATENT, generator=torch.Generator().manual_seed(0))
    predict = made.base.predict(made.grid, text, made.empty, guidance)
    with torch.no_grad():
        expected = made.grid.ode(x, predict(x, 3), 3)
    torch.testing.assert_close(made.look(x, torch.tensor([3, 3]), text)[1], expected)


def test_the_target_is_the_student_one_step_later_and_the_teacher_at_the_end(tmp_path: Path):
    store, made = Encodings(*tiny.encodings(tmp_path), tiny.CPU), teacher()
    student = Student(Denoiser(tiny.unet(3).requires_grad_(True), made.base.process))
    lesson = Lesson(made, student, store, store.images("train"), 0.5, settings())
    x, text = torch.randn(2, *tiny.LATENT, generator=torch.Generator().manual_seed(0)), Conditioning(tiny.text(2))
    i = torch.tensor([1, STEPS - 1])
    clean, later = made.look(x, i, text)
    found = lesson.target(x, i, text)
    assert not found.requires_grad
    torch.testing.assert_close(found[0], student(later, made.grid.timesteps[torch.tensor([2, 2])], text)[0].detach())
    torch.testing.assert_close(found[1], clean[1])
    lesson.terms(0)["loss"].backward()
    assert any(p.grad is not None for p in student.denoiser.network.parameters())
    assert all(p.grad is None for p in made.base.network.parameters())


def test_the_check_accepts_the_sampler_s_end_and_not_tweedie_s_formula(tmp_path: Path):
    store, made = Encodings(*tiny.encodings(tmp_path), tiny.CPU), teacher(2.0)

    def end(x: Tensor, t: Tensor, text: Conditioning) -> Tensor:
        for i in range(made.grid.timesteps.tolist().index(int(t[0])), STEPS):
            x = made.look(x, torch.full((len(x),), i), text)[1]
        return x

    def tweedie(x: Tensor, t: Tensor, text: Conditioning) -> Tensor:
        i = made.grid.timesteps.tolist().index(int(t[0]))
        return made.look(x, torch.full((len(x),), i), text)[0]

    found = acceptance(made, cast(Student, end), store, settings(held_out=2))
    assert found["probe_accepted"] == 1
    assert all(found[f"probe_student_{i}"] < 1e-8 < found[f"probe_tweedie_{i}"] for i in range(STEPS - 1))
    assert acceptance(made, cast(Student, tweedie), store, settings(held_out=2))["probe_accepted"] == 0


def test_a_distilled_model_serves_sqdf_frozen(tmp_path: Path):
    base = tiny.diffusion_folder(tmp_path / "base")
    store = Encodings(*tiny.encodings(tmp_path), tiny.CPU)
    model = load_diffusion(base, tiny.CPU, parts=("unet", "vae"))
    log = train(settings(steps=2, ema=0.0), model, store, tmp_path / "student", State())
    terms = {term for _, term, _ in log.rows}
    assert {"loss", "probe_accepted", "probe_student_0", f"probe_tweedie_{STEPS - 1}"} <= terms
    record.save(record.describe("student", "consistency", tmp_path / "student"), tmp_path / "student.json")

    paths = Paths(*[tmp_path / "unread"] * 5, predictors=tmp_path)
    plan: Any = type("Plan", (), {"name": "x"})
    context = TrainingContext(paths, model, store, {})
    student = context.student(plan, "student")
    networks = replace(tiny.networks(tiny.unet(), STEPS), student=student)
    chain, x = Chain.of(networks), torch.randn(2, *tiny.LATENT).requires_grad_(True)
    found = Distilled()(chain, x, torch.tensor([2, STEPS]), Conditioning(tiny.text(2)))
    assert torch.equal(found[1], x[1])
    found.sum().backward()
    assert x.grad is not None
    assert bool((x.grad[0] != 0).any())
    assert all(p.grad is None for p in student.network.parameters())
    with pytest.raises(InputError, match="expected --predictors"):
        replace(context, paths=replace(paths, predictors=None)).student(plan, "student")
    record.save(replace(base, name="student"), tmp_path / "student.json")
    with pytest.raises(InputError, match="expected a distilled consistency model"):
        context.student(plan, "student")
    with pytest.raises(InputError, match="no diffusion_pytorch_model"):
        load_student(tmp_path / "nothing", tiny.CPU)
