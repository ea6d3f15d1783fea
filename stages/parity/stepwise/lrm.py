"""LRM: features and scores of noisy latents by the first half of a UNet, and its losses on pairs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import normalize

from stages.models.conditioning import Conditioning
from stages.models.diffusion import posterior_sample
from stages.models.latent_scorer import Form, Judged, LatentScorer, contrast, pair_loss, weighted
from stages.parity.checks import Check, compare, norms
from stages.parity.stepwise.given import GRADIENT, SCORE, VALUE, Given, Item
from stages.parity.training import gradient_norms, total

PREFIX, AT = "lrm.unet.", 1  # of the weights; the place of the timestep at which pooled features are expected
PLACES = ("2", "5", "8", "11", "mid")
SHAPES = "shapes of the outputs are those of the network in the set; its last layers of blocks are compared"


def checks(given: Given) -> Iterator[Check]:
    """Every item."""
    if "lrm" not in given.reference.expected.scalars:
        return
    yield from _texts(given)
    for item in given.items("lrm", has="scores"):
        yield from _scores(given, item)
    for item in given.items("lrm"):
        yield from _loss(given, item)


def scorer(given: Given, form: Form, logit_scale: float) -> LatentScorer:
    """The set's network with its projections."""
    inputs = given.reference.inputs
    unet = UNet2DConditionModel(**given.reference.expected.value("lrm", "unet_config"))
    weights = {name.removeprefix(PREFIX): value for name, value in inputs.items() if name.startswith(PREFIX)}
    missing, unknown = unet.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    assert not unknown and all(name.startswith(("up_blocks.", "conv_norm_out.", "conv_out.")) for name in missing)
    visual = inputs["lrm.visual_projection" if form.scales == "all" else "lrm.visual_projection_mid_only"]
    texts = inputs["lrm.text_projection"]
    made = LatentScorer(unet.eval(), form, texts.shape[1], len(texts))
    with torch.no_grad():
        made.visual_projection.weight.copy_(visual)
        made.text_projection.weight.copy_(texts)
        made.logit_scale.fill_(logit_scale)
    return made


def form_of(item: Item) -> Form:
    """The form of an item of scores."""
    every = item.setting("multi_scale_cfg")
    guided = "none" if item.setting("guidance") == 1 else "all" if every else "middle"
    return Form("all" if item.setting("multi_scale") else "middle", guided, float(item.setting("guidance")))


@torch.no_grad()
def pooled_texts(given: Given) -> Tensor:
    """Embeddings [B, width] of the whole prompts."""
    return given.reference.text.pooled(given.reference.inputs["prompt_ids"])


@torch.no_grad()
def _texts(given: Given) -> Iterator[Check]:
    expected, pooled = given.reference.expected, pooled_texts(given)
    yield compare("lrm.text_pooled", pooled, expected.array("lrm.text_pooled"), VALUE)
    made = scorer(given, Form(), 0.0)
    for name, found in (
        ("lrm.text_features", made.text_projection(pooled)), ("lrm.train.text_features", made.text_features(pooled)),
    ):  # fmt: skip
        yield compare(name, found, expected.array(name), VALUE)


@torch.no_grad()
def _scores(given: Given, item: Item) -> Iterator[Check]:
    """Features and scores of the same latents at several timesteps."""
    made, x = scorer(given, form_of(item), float(item.setting("logit_scale"))), given.reference.inputs["lrm.x"]
    (text, empty), times = given.texts, item.setting("timesteps")
    texts = made.text_features(pooled_texts(given))
    images = [made.projected(x, torch.full((len(x),), t), text, empty) for t in times]
    yield item.check("image_features", torch.stack(images), VALUE)
    yield item.check("scores", torch.stack([made.scores(normalize(each, dim=-1), texts) for each in images]), SCORE)
    if not item.has(f"pooled_{PLACES[0]}"):
        return
    both = Conditioning.cat([text, empty.expand(len(text))])
    pooled = made.pooled(torch.cat([x, x]), torch.full((2 * len(x),), times[AT]), both)
    for place, found in zip(PLACES, pooled, strict=True):
        yield item.check(f"pooled_{place}", found, VALUE)
    item.leave(SHAPES, "down_shapes")


def _loss(given: Given, item: Item) -> Iterator[Check]:
    """The loss of pairs of encoded and noised images."""
    reference, inputs = given.reference, given.reference.inputs
    made = scorer(given, Form("all", "middle", float(item.setting("guidance"))), _start(given))
    with torch.no_grad():
        pixels = torch.cat([reference.images("real_images_u8"), reference.images("dpo_loser_images_u8")])
        mean, std = reference.vae.posterior(pixels)
        clean = posterior_sample(mean, std, inputs["lrm.train.posterior_noise"], reference.vae.scale)
        times = inputs["lrm.train.timesteps"]
        both = torch.cat([times[:, 0], times[:, 1]])
        x = reference.schedule.noised(clean, inputs["lrm.train.noise"], both)
    text, empty = given.texts
    first, second = made.image_features(x, both, Conditioning.cat([text, text]), empty).chunk(2)
    texts = made.text_features(pooled_texts(given))
    judged = Judged(inputs["lrm.train.label_0"], 1 / inputs["lrm.train.num_examples"])
    losses = pair_loss(torch.stack([made.scores(side, texts) for side in (first, second)], 1), judged)
    if item.setting("loss_type") == "both":
        more = contrast((first, second), texts, made.logit_scale.exp(), judged)
        losses = losses + float(item.setting("batch_coeff")) * more
    else:
        item.leave("a setting that the item does not use", "batch_coeff")
    found = weighted(losses, judged, times[:, 0] != times[:, 1], float(item.setting("aux_loss_coeff")))
    found.backward()
    expected = reference.expected
    for side, features in enumerate((first, second)):
        name = f"lrm.train.image_{side}_features"
        yield compare(name, features, expected.array(name), VALUE)
    yield item.check("loss", found, SCORE)
    yield from _gradients(item, made)


def _start(given: Given) -> float:
    """The scale of the items of scores, with which the losses were computed too."""
    return float(next(iter(given.items("lrm", has="scores"))).setting("logit_scale"))


def _gradients(item: Item, made: LatentScorer) -> Iterator[Check]:
    parameters = made.trained()
    found = gradient_norms(parameters)
    yield item.check("grad_norm_total", total(found), GRADIENT)
    yield from norms(f"{item.name}.grad_norms", found, item.setting("grad_norms"), GRADIENT)
    yield item.check("grad_logit_scale", made.logit_scale.grad, GRADIENT)
    whole = {name.removesuffix(".weight") if "projection" in name else name: p for name, p in parameters.items()}
    for name, gradient in item.expected.under(f"{item.name}.grad."):
        yield compare(f"{item.name}.grad.{name}", whole[name].grad, gradient, GRADIENT)
