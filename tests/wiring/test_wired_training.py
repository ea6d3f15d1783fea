"""What `finetune` writes is what plain torch makes of the study's settings, prompts, seeds and models."""

from __future__ import annotations

import random

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from stages.runtime import seed_from
from tests.wiring.mini import STEPS, STUDY, Mini
from tests.wiring.plain import Plain, Trained, _order, refl

SEEDS = (3, 8)


@pytest.fixture(scope="module")
def plain(parts: Mini) -> Plain:
    return Plain(parts)


class BySeed(dict[int, Trained]):
    """What plain torch makes of ReFL, by training seed, once each."""

    def __init__(self, plain: Plain) -> None:
        super().__init__()
        self.plain = plain

    def __missing__(self, seed: int) -> Trained:
        return self.setdefault(seed, refl(self.plain, seed))


@pytest.fixture(scope="module")
def trained(plain: Plain) -> BySeed:
    return BySeed(plain)


def log(parts: Mini, run: str) -> dict[tuple[int, str], float]:
    rows = pd.read_parquet(parts.path(f"runs/{run}/train_log.parquet"))
    return rows.set_index(["step", "term"])["value"].to_dict()


@pytest.mark.parametrize("seed", SEEDS)
def test_refl_logs_the_terms_of_its_own_prompts_guidance_and_weights(parts: Mini, trained: BySeed, seed: int):
    found = log(parts, f"refl-s{seed}")
    for step, terms in enumerate(trained[seed].logged):
        for name, value in terms.items():
            assert found[step, name] == pytest.approx(value, rel=1e-3, abs=1e-5), (step, name)


@pytest.mark.parametrize("seed", SEEDS)
def test_refl_saves_the_averaged_weights(parts: Mini, plain: Plain, trained: BySeed, seed: int):
    found, start = (
        load_file(parts.path(f"runs/refl-s{seed}/policy.safetensors")),
        dict(plain.network().named_parameters()),
    )
    names = {name: name.removeprefix("unet.") for name in found}
    assert set(names.values()) == set(start)
    mine = torch.cat([(trained[seed].average[n] - start[n].detach()).flatten() for n in names.values()])
    theirs = torch.cat([(value - start[names[name]].detach()).flatten() for name, value in found.items()])
    assert float((mine - theirs).norm() / mine.norm()) < 0.02
    raw = torch.cat(
        [(value.detach() - start[n].detach()).flatten() for n, value in trained[seed].network.named_parameters()]
    )
    assert float((raw - theirs).norm() / raw.norm()) > 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_probes_are_of_fixed_prompts_without_guidance_and_by_every_reward(
    parts: Mini, plain: Plain, trained: BySeed, seed: int
):
    size, found = STUDY["finetune"]["probe"], log(parts, f"refl-s{seed}")
    prompts = plain.rows("prompt", "train")
    chosen = prompts.iloc[:: max(1, len(prompts) // size["prompts"])].head(size["prompts"])
    rows = [(name, n) for name in chosen.index for n in range(size["samples"])]
    noise = plain.noise(STUDY["study"]["seed"], [("probe", name, n) for name, n in rows])
    text = plain.tensors["text_embeddings"][[prompts.loc[name, "row"] for name, _ in rows]]
    for step, network in ((0, plain.network()), (2, trained[seed].network)):
        with torch.no_grad():
            images = plain.decode(plain.walk(plain.predict(network, text, 1.0), noise.initial(), noise, 0, 6))
            for name in ("proxy", "judge"):
                scores = plain.reward(name)(images, [prompts.loc[item, "text"] for item, _ in rows])
                assert found[step, f"probe_{name}"] == pytest.approx(float(scores.mean()), abs=2e-4)
            units = normalize(plain.reward("judge").embed(images), dim=-1).unflatten(0, (-1, size["samples"]))  # type: ignore[attr-defined]
            apart = 1 - (units[:, 0] * units[:, 1]).sum(-1)
            assert found[step, "probe_diversity"] == pytest.approx(float(apart.mean()), rel=2e-2)


def test_imagerefl_starts_from_real_latents_of_its_own_captions(parts: Mini, plain: Plain):
    own, found = STUDY["methods"]["imagerefl"], log(parts, "imagerefl-s8")
    images, captions = plain.rows("image", "train"), plain.rows("caption", "train")
    network, rewards, errors = plain.network(), [], []
    for micro in range(2):  # neither is a turn of ReFL, and the weights are still the base's
        items = [images.index[_order(8, 2 * micro + row, len(images))] for row in range(2)]
        noise = plain.noise(8, [("train", 2 * micro + row) for row in range(2)])
        where, text = (
            images.loc[items, "row"].tolist(),
            plain.tensors["text_embeddings"][captions.loc[items, "row"].tolist()],
        )
        latents = plain.tensors["posterior_mean"][where] + plain.tensors["posterior_std"][where] * noise.extra(
            "posterior"
        )
        a, n = plain.alphas[plain.times[own["start"]]], noise.extra("forward")
        x = a.sqrt() * plain.vae.config.scaling_factor * latents + (1 - a).sqrt() * n
        m = random.Random(seed_from("window", 8, 0, micro)).randrange(*own["middle"])
        with torch.no_grad():
            predict = plain.predict(network, text, 1.0)
            errors.append(float((predict(x, own["start"]) - n).square().mean()))
            x = plain.walk(predict, x, noise, own["start"], m)
            clean = plain.clean(x, predict(x, m), m)
            rewards.append(float(plain.reward("proxy")(plain.decode(clean), images.loc[items, "text"].tolist()).mean()))
    assert found[0, "reward"] == pytest.approx(sum(rewards) / 2, abs=1e-5)
    assert found[0, "loss_diffusion"] == pytest.approx(sum(errors) / 2, rel=1e-4)


def test_lora_starts_from_normal_weights_over_the_rank(parts: Mini):
    found = load_file(parts.path("runs/imagerefl-s8/policy.safetensors"))
    first = torch.cat([value.flatten() for name, value in found.items() if "lora_A" in name])
    assert float(first.std()) == pytest.approx(1 / STUDY["methods"]["imagerefl"]["train"]["lora"]["rank"], rel=0.1)


def test_ddpo_samples_groups_of_its_own_prompts_with_its_eta_and_guidance(parts: Mini, plain: Plain):
    own, prompts = STUDY["methods"]["ddpo"], plain.rows("prompt", "train")
    keys, size = [("train", place) for place in range(8)], own["images_per_prompt"]
    items = [prompts.index[_order(4, place // size, len(prompts))] for place in range(8)]
    noise = plain.noise(4, keys)  # type: ignore[arg-type]
    text = plain.tensors["text_embeddings"][prompts.loc[items, "row"].tolist()]
    with torch.no_grad():
        predict, x = plain.predict(plain.base, text, STUDY["finetune"]["guidance"]), noise.initial()
        for i in range(STEPS):
            mean, deviation = plain.transition(predict, x, i, own["eta"])
            x = mean + deviation * noise.step(i)
        rewards = plain.reward("proxy")(plain.decode(x), prompts.loc[items, "text"].tolist())
    assert log(parts, "ddpo-s4")[0, "reward"] == pytest.approx(float(rewards.mean()), abs=1e-5)


def test_the_divergence_is_that_from_the_base(parts: Mini):
    found = log(parts, "ddpo-s4")
    assert found[0, "kl"] == 0 < found[1, "kl"]
