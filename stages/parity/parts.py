"""Grids, texts, reward preprocessing, autoencoder, noising, metrics, and the reward's part of the loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import normalize

from stages.finetune.methods.imagerefl import refl_turn
from stages.finetune.reward import reward_loss
from stages.measure.metrics.diversity import pairwise_diversity as measured_diversity
from stages.models.diffusion import posterior_sample
from stages.models.similarity import pairwise_diversity
from stages.parity.checks import EXACT, VALUE, Check, compare, same
from stages.parity.reference import ParitySet
from stages.sample.strategies import aig


def checks(reference: ParitySet) -> Iterator[Check]:
    """Everything that needs no sampling and no training."""
    with torch.no_grad():
        yield from _grids(reference)
        yield from _texts(reference)
        yield from _preprocessing(reference)
        yield from _autoencoder(reference)
        yield from _metrics(reference)
    yield from _reward_losses(reference)
    yield from _turns(reference)


def _grids(reference: ParitySet) -> Iterator[Check]:
    schedule, expected = reference.schedule, reference.expected
    name = "grid.alphas_cumprod_full"
    yield compare(name, schedule.alphas_cumprod, expected.array(name), VALUE)
    for tag in expected.tags("grid"):
        grid = schedule.grid(int(tag.removeprefix("T")))
        times = grid.timesteps.tolist()
        yield same(f"grid.{tag}", times, expected.value("grid", tag))
        yield compare(f"grid.{tag}.timesteps", grid.timesteps, expected.array(f"grid.{tag}.timesteps"), EXACT)
        yield compare(f"grid.{tag}.alphas_cumprod", grid.alpha, expected.array(f"grid.{tag}.alphas_cumprod"), VALUE)
        yield compare(f"grid.{tag}.variance", grid.variance, expected.array(f"grid.{tag}.variance"), VALUE)
    for power, weights in expected.under("grid.aig_weight_tuned.p"):
        found = [aig.weight(i, len(weights), float(power)) for i in range(len(weights))]
        yield compare(f"grid.aig_weight_tuned.p{power}", found, weights, VALUE)


def _texts(reference: ParitySet) -> Iterator[Check]:
    prompts, empty = reference.embeddings()
    words = reference.reward.encode_tokens(reference.inputs["reward_ids"])
    for name, found in (
        ("text.prompt_embeds", prompts.text), ("text.uncond_embeds", empty.text), ("reward.text_features", words),
    ):  # fmt: skip
        yield compare(name, found, reference.expected.array(name), VALUE)


def _preprocessing(reference: ParitySet) -> Iterator[Check]:
    image, expected = reference.images("preprocess_image_u8"), reference.expected
    found = reference.reward.preprocess(image)
    yield compare("preprocess.out_crop", found[:, :, 80:144, 80:144], expected.array("preprocess.out_crop"), VALUE)
    yield compare("preprocess.out_row100", found[:, :, 100], expected.array("preprocess.out_row100"), VALUE)
    features = normalize(reference.reward.embed(image), dim=-1)
    yield compare("preprocess.image_features", features, expected.array("preprocess.image_features"), VALUE)
    moments = [expected.value("preprocess", key) for key in ("mean", "std")]
    yield compare("preprocess.mean, std", [found.mean(), found.std()], moments, VALUE)
    total = found.double().abs().sum()
    yield compare("preprocess.sum_abs", total, expected.value("preprocess", "sum_abs"), VALUE)


def _autoencoder(reference: ParitySet) -> Iterator[Check]:
    expected, inputs = reference.expected, reference.inputs
    mean, std = reference.vae.posterior(reference.images("real_images_u8"))
    clean = posterior_sample(mean, std, inputs["posterior_noise"], reference.vae.scale)
    start = int(reference.config["start"])
    noised = reference.schedule.grid(rollout_steps(reference)).noised(clean, inputs["forward_noise"], start)
    for name, found in (
        ("vae.posterior_mean", mean), ("vae.posterior_std", std),
        ("vae.latents_scaled", clean), ("noised.start", noised),
    ):  # fmt: skip
        yield compare(name, found, expected.array(name), VALUE)


def _metrics(reference: ParitySet) -> Iterator[Check]:
    expected, images = reference.expected, reference.images("real_images_u8")
    features = reference.inputs["dino_features"]
    count = len(expected.array("metrics.dino_diversity_per_prompt"))
    groups = features.reshape(count, -1, features.shape[-1])
    probed = [pairwise_diversity(group) for group in groups]
    measured = [measured_diversity(group.numpy()[:, None]) for group in groups]
    for name in ("metrics.dino_diversity_per_prompt", "metrics.clip_diversity_per_prompt"):
        yield compare(f"{name} (training probe)", probed, expected.array(name), VALUE)
        yield compare(f"{name} (measure)", measured, expected.array(name), VALUE)
    mean = expected.value("metrics", "dino_diversity_mean")
    yield compare("metrics.dino_diversity_mean", np.mean(measured), mean, VALUE)
    embedded = reference.reward.embed(images)
    yield compare("metrics.image_features_real", embedded, expected.array("metrics.image_features_real"), VALUE)
    scores = reference.reward.score_tokens(images, reference.inputs["reward_ids"])
    yield compare("metrics.clipscore_real_images", scores, expected.array("metrics.clipscore_real_images"), VALUE)


def _reward_losses(reference: ParitySet) -> Iterator[Check]:
    for kind in reference.expected.tags("reward_to_loss"):
        item = reference.expected.value("reward_to_loss", kind)
        found = reward_loss(torch.tensor(item["rewards"]), item["scale"], item["offset"])
        # the terms nearly cancel where there is an offset, so the error is measured against them
        scale = item["scale"] * max(abs(item["offset"]), *map(abs, item["rewards"]))
        yield compare(f"reward_to_loss.{kind}", found, item["loss"], VALUE, scale)


def _turns(reference: ParitySet) -> Iterator[Check]:
    for key in reference.expected.tags("state_del_sequences"):
        wanted = reference.expected.value("state_del_sequences", key)
        every = None if key == "None" else int(key)
        found = "".join("R" if refl_turn(micro, every) else "I" for micro in range(len(wanted)))
        yield same(f"state_del_sequences.{key}", found, wanted)


def rollout_steps(reference: ParitySet) -> int:
    """T of the rollouts: the number in `base_cfg_k<T>`."""
    tag = next(tag for tag in reference.expected.tags("rollouts") if tag.startswith("base_cfg_k"))
    return int(tag.removeprefix("base_cfg_k"))
