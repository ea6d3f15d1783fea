"""A parity set whose expected values are worked out in NumPy, in double precision, without any code of the project.

The formulas are those of the papers: DDPM and DDIM steps, classifier-free guidance, ReFL, ImageReFL, DRaFT, Adam,
Diffusion-DPO, DDPO and SQDF.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.pixelwise_world import (
    ABAR,
    NAMES,
    SCALE,
    START,
    Array,
    Step,
    T,
    Weights,
    World,
    denoise,
    denoise_back,
    grid,
    plus,
    preprocess,
)

B, HIDDEN, WIDTH, LENGTH, GUIDANCE = 3, 5, 6, 7, 3.0
CONFIG = {
    "guidance": GUIDANCE, "ks": [4], "ps": [1, 2.5], "steps": [0, 3, 9], "refl": [6, 9], "img": [6, 7, 9],
    "start": START, "cfg_refl_m": 7, "img_extra": None, "draft": [[6, 1], [5, 2]], "opt_m": 8, "accum": [7, 9],
    "dpo_beta": 300.0, "sqdf": {"gamma": 0.9, "alpha": 2.0, "cfg": 2.0, "shift": 0.7},
    "ddpo": {"cfg": 2.0, "clip": 1e-2, "adv": 1.0},
}  # fmt: skip


def parts(world: World) -> None:
    """Grids, texts, preprocessing, autoencoder, metrics, reward losses."""
    out, inputs = world.arrays, world.inputs
    out["grid.alphas_cumprod_full"] = ABAR
    world.scalars["grid"] = {}
    for steps in (T, 7):
        world.scalars["grid"][f"T{steps}"] = grid(steps).tolist()
        out[f"grid.T{steps}.timesteps"] = grid(steps)
        out[f"grid.T{steps}.alphas_cumprod"] = ABAR[grid(steps)]
        out[f"grid.T{steps}.variance"] = np.array([Step.at(steps, i).s ** 2 for i in range(steps)])
    for p in CONFIG["ps"]:
        out[f"grid.aig_weight_tuned.p{p}"] = (np.arange(T) / T) ** p
    out["text.prompt_embeds"] = world.w["table"][inputs["prompt_ids"]]
    out["text.uncond_embeds"] = world.w["table"][inputs["uncond_ids"]]
    out["reward.text_features"] = world.words
    wide = preprocess(world.given("preprocess_image_u8") / 255)
    out["preprocess.out_crop"], out["preprocess.out_row100"] = wide[:, :, 80:144, 80:144], wide[:, :, 100]
    features = world.features(world.given("preprocess_image_u8") / 255)
    out["preprocess.image_features"] = features / np.linalg.norm(features, axis=-1, keepdims=True)
    world.scalars["preprocess"] = {"mean": wide.mean(), "std": wide.std(ddof=1), "sum_abs": np.abs(wide).sum()}
    out["vae.posterior_mean"], out["vae.posterior_std"] = world.posterior("real_images_u8")
    out["vae.latents_scaled"], out["noised.start"] = world.clean(), world.noised(START)
    dino = world.given("dino_features").reshape(3, 5, -1)
    dino /= np.linalg.norm(dino, axis=-1, keepdims=True)
    diversity = np.array([1 - np.mean([a @ b for i, a in enumerate(g) for b in g[:i]]) for g in dino])
    out["metrics.dino_diversity_per_prompt"] = out["metrics.clip_diversity_per_prompt"] = diversity
    world.scalars["metrics"] = {"dino_diversity_mean": diversity.mean()}
    real = world.features(world.given("real_images_u8") / 255)
    out["metrics.image_features_real"] = real
    out["metrics.clipscore_real_images"] = (real * world.words).sum(-1) / np.linalg.norm(real, axis=-1)
    world.scalars["reward_to_loss"] = {}
    for name, scale, offset, rewards in (("HPS", 1, 0, [0.2, 0.3]), ("PickScore", 0.1, -20, [19.0, 22.5])):
        item = {"scale": scale, "offset": offset, "rewards": rewards}
        world.scalars["reward_to_loss"][name] = item | {"loss": -scale * (np.mean(rewards) + offset)}
    world.scalars["state_del_sequences"] = {"None": "IIIIII", "1": "RRRRRR", "2": "IRIRIR", "4": "IIIRII"}


def rollouts(world: World) -> None:
    """Base, tuned, combined and annealed sampling."""
    base = lambda x, i: world.guided(world.base, x, grid(T)[i], GUIDANCE)  # noqa: E731
    tuned = lambda x, i: world.guided(world.tuned, x, grid(T)[i], 1)  # noqa: E731
    plain = lambda x, i: world.guided(world.base, x, grid(T)[i], 1)  # noqa: E731
    every = range(T)
    items: dict[str, list[tuple[int, Any]]] = {
        f"base_cfg_k{T}": [(i, base) for i in every],
        "base_nocfg": [(i, plain) for i in every],
        "tuned_nocfg_k0_clean": [(i, tuned) for i in every],
        "combined_k4": [(i, base if i < 4 else tuned) for i in every],
        "combined_k0_official_offbyone": [(T - 1, base), *((i, tuned) for i in every)],
        f"combined_k{T}_official_offbyone": [*((i, base) for i in every), (T - 1, tuned)],
    }
    for p in CONFIG["ps"]:

        def mixed(x: Array, i: int, p: float = p) -> Array:
            return (1 - (i / T) ** p) * plain(x, i) + (i / T) ** p * tuned(x, i)

        items[f"aig_p{p}"] = [(i, mixed) for i in every]
    world.scalars["rollouts"] = {}
    for tag, steps in items.items():
        x, seen = world.given("x_T"), {}
        for n, (i, predict) in enumerate(steps):
            eps = predict(x, i)
            seen[i] = (x, eps)
            at = Step.at(T, i)
            x = at.next(x, eps, world.z[i]) if n < len(steps) - 1 else at.x0(x, eps)
        image = np.clip(world.raw(x) / 2 + 0.5, 0, 1)
        name, wanted = f"rollout.{tag}", CONFIG["steps"]
        world.arrays |= {
            f"{name}.x0": x, f"{name}.image": image, f"{name}.reward": world.reward(x),
            f"{name}.traj_in": np.stack([seen[i][0] for i in wanted]),
            f"{name}.traj_eps": np.stack([seen[i][1] for i in wanted]),
        }  # fmt: skip
        world.scalars["rollouts"][tag] = {
            "step_index_sequence": [i for i, _ in steps], "traj_indices": wanted, "image_mean": image.mean(),
            "image_std": image.std(ddof=1), "raw_clipped_fraction": (np.abs(world.raw(x)) > 1).mean(),
            "x0_mean": x.mean(), "x0_std": x.std(ddof=1), "reward": world.reward(x).tolist(),
        }  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What one micro-batch gives: the judged step, the diffusion loss's, and the gradient of the unscaled loss."""

    x: Array
    eps: Array
    x0: Array
    error_x: Array | None
    error_eps: Array | None
    gradient: Weights
    reward: Array
    error: float | None


def train(
    world: World, x: Array, at: list[int], steps: int, scale: float, weight: float, error_at: int | None, last: int = 1
) -> Trained:
    """Walk over the indices `at` by the tuned network, the `last` of them with gradient, and judge x0 at the end."""
    w, times = world.tuned, grid(steps)
    states = []
    for i in at:
        eps = world.guided(w, x, times[i], scale)
        states.append((i, x, eps))
        x = Step.at(steps, i).next(x, eps, world.z[i])
    i, x, eps = states[-1]
    end = Step.at(steps, i)
    x0 = end.x0(x, eps)
    g0 = world.reward_back(x0, np.full(B, -1 / B))
    gx, gradient = world.guided_back(w, x, times[i], scale, -end.b / end.a * g0)
    gx = gx + g0 / end.a
    for i, before, _ in states[-2 : -last - 1 : -1]:
        step = Step.at(steps, i)
        more, own = world.guided_back(w, before, times[i], scale, -step.c * step.b / step.a * gx)
        gx, gradient = more + (step.c / step.a + step.d) * gx, plus(gradient, own)
    if error_at is None:
        return Trained(x, eps, x0, None, None, gradient, world.reward(x0), None)
    error_x, n = world.noised(error_at), world.given("forward_noise")
    error_eps = world.guided(w, error_x, times[error_at], 1)
    if weight:
        g = weight * 2 * (error_eps - n) / n.size
        gradient = plus(gradient, world.guided_back(w, error_x, times[error_at], 1, g)[1])
    error = float(np.mean((error_eps - n) ** 2))
    return Trained(x, eps, x0, error_x, error_eps, gradient, world.reward(x0), error)


def image_refl(world: World, m: int, weight: float, stray: bool = False) -> Trained:
    walk = [START - 1, START] if stray else list(range(START, m + 1))
    return train(world, world.noised(START), walk, T, 1, weight, START)


def norms(world: World, name: str, gradient: Weights, scale: float = 1.0) -> dict[str, Any]:
    """Scalars of a gradient; the full gradients go into the arrays."""
    world.arrays |= {f"{name}.grad.{part}": scale * gradient[part] for part in NAMES}
    each = {part: scale * float(np.linalg.norm(gradient[part])) for part in NAMES}
    return {"grad_norm_total": float(np.sqrt(sum(v**2 for v in each.values()))), "grad_norms": each}


def training(world: World) -> None:
    """ReFL, ImageReFL and DRaFT steps, and accumulation."""
    noise = world.given("x_T")
    items: dict[str, tuple[Trained, float | None, int | None, list[tuple[int, bool]]]] = {}
    for m in CONFIG["refl"]:
        for weight in (0, 0.01):
            calls = [*((i, False) for i in range(m)), (m, True), (m, bool(weight))]
            walk = list(range(m + 1))
            items[f"refl_m{m}_mse{weight}"] = (train(world, noise, walk, T, 1, weight, m), weight, m, calls)
    m = CONFIG["cfg_refl_m"]
    calls = [*((i, False) for i in range(m)), (m, True), (m, True)]
    guided = train(world, noise, list(range(m + 1)), T, GUIDANCE, 0.01, m)
    items[f"refl_cfg_m{m}_mse0.01"] = (guided, 0.01, m, calls)
    for m in CONFIG["img"]:
        calls = [*((i, False) for i in range(START, m)), (m, True), (START, True)]
        tag = f"imagerefl_s{START}_m{m}" + ("_clean" if m == START else "")
        items[tag] = (image_refl(world, m, 0.01), 0.01, m, calls)
    calls = [(START - 1, False), (START, True), (START, True)]
    stray = image_refl(world, START, 0.01, stray=True)
    items[f"imagerefl_s{START}_m{START}_official_offbyone"] = (stray, 0.01, START, calls)
    calls = [*((i, False) for i in range(START, 8)), (8, True), (START, False)]
    items[f"imagerefl_s{START}_m8_mse0"] = (image_refl(world, 8, 0), 0, 8, calls)
    items[f"imagerefl_s{START}_m8"] = (image_refl(world, 8, 0.01), 0.01, 8, [*calls[:-1], (START, True)])
    for first, k in CONFIG["draft"]:
        calls = [(i, i >= first) for i in range(first + k)]
        found = train(world, noise, list(range(first + k)), first + k, 1, 0, None, last=k)
        items[f"draft_first{first}_k{k}_T{first + k}"] = (found, None, None, calls)
    world.scalars["train"] = {tag: trained(world, f"train.{tag}", *item) for tag, item in items.items()}
    both = [image_refl(world, m, 0.01).gradient for m in CONFIG["accum"]]
    total = norms(World(world.stored, world.inputs), "sum", plus(*both), 1e-3)["grad_norm_total"]
    world.scalars["accumulation"] = {"mids": CONFIG["accum"], "grad_norm_total": total}


def trained(
    world: World, name: str, found: Trained, weight: float | None, mid: int | None, calls: list[tuple[int, bool]]
) -> dict[str, Any]:
    """Arrays and scalars of a training item."""
    raw, mean = world.raw(found.x0), float(found.reward.mean())
    world.arrays |= {
        f"{name}.x_m": found.x, f"{name}.eps_m": found.eps, f"{name}.x0": found.x0, f"{name}.reward": found.reward,
        f"{name}.image_raw_crop": raw[:, :, 28:36, 28:36],
    }  # fmt: skip
    if found.error_x is not None and found.error_eps is not None:
        world.arrays |= {f"{name}.mse_x": found.error_x, f"{name}.mse_eps": found.error_eps}
    gradient = norms(world, name, found.gradient, 1e-3)
    return gradient | {
        "mid": mid, "L_R": -mean, "L_mse": found.error, "loss_scale": 1e-3, "mse_loss_scale": weight,
        "loss_total": 1e-3 * (-mean + (weight or 0) * (found.error or 0)), "reward": found.reward.tolist(),
        "image_raw_mean": raw.mean(), "image_raw_std": raw.std(ddof=1),
        "grad_norm_official": gradient["grad_norm_total"],
        "step_index_sequence": [i for i, _ in calls], "grad_enabled": [g for _, g in calls],
    }  # fmt: skip


def optimizers(world: World) -> None:
    """Adam and AdamW, one or two steps on the gradient of an ImageReFL step."""
    m = CONFIG["opt_m"]
    gradient = {name: 1e-3 * value for name, value in image_refl(world, m, 0.01).gradient.items()}
    size = float(np.sqrt(sum((g**2).sum() for g in gradient.values())))
    world.scalars["optim"] = {}
    for tag, factors, eps, decay in (
        ("adam_plain", [1.0], 1e-8, 0.0),
        ("adam_scaler_only", [1.0], 1e-8, 0.0),
        ("adam_plain_eps1e_6", [1.0], 1e-6, 0.0),
        ("adam_official_double_step", [65536.0, 1.0], 1e-8, 0.0),
        ("adamw_official_double_step", [65536.0, 1.0], 1e-8, 0.01),
    ):  # fmt: skip
        moved = {}
        for name, g in gradient.items():
            weights, first, second = world.tuned[name], np.zeros_like(g), np.zeros_like(g)
            for n, factor in enumerate(factors, 1):
                weights = weights * (1 - 3e-4 * decay)
                first, second = 0.9 * first + 0.1 * factor * g, 0.999 * second + 0.001 * (factor * g) ** 2
                weights = weights - 3e-4 * (first / (1 - 0.9**n)) / (np.sqrt(second / (1 - 0.999**n)) + eps)
            moved[name] = weights - world.tuned[name]
            world.arrays[f"optim.{tag}.delta.{name}"] = moved[name]
        each = {name: float(np.linalg.norm(value)) for name, value in moved.items()}
        world.scalars["optim"][tag] = {
            "mid": m, "delta_norm_total": float(np.sqrt(sum(v**2 for v in each.values()))), "delta_norms": each,
            "adam_step_count": len(factors), "grad_norm_after": size,
        }  # fmt: skip
    sizes = np.concatenate([np.abs(g).ravel() for g in gradient.values()])
    world.scalars["optim"]["grad_abs_quantiles"] = {
        q: float(np.quantile(sizes, float(q))) for q in ("0.1", "0.5", "0.9")
    }


def preferences(world: World) -> None:
    """Diffusion-DPO at two strengths."""
    mean, std = (
        np.concatenate(p)
        for p in zip(*(world.posterior(f"{name}_images_u8") for name in ("real", "dpo_loser")), strict=True)
    )
    clean = SCALE * (mean + std * world.given("dpo_posterior_noise"))
    n, t = (np.concatenate([world.inputs[name]] * 2) for name in ("dpo_forward_noise", "dpo_timesteps"))
    abar = ABAR[t][:, None, None, None]
    x, n, c = np.sqrt(abar) * clean + np.sqrt(1 - abar) * n, n.astype(np.float64), np.concatenate([world.c] * 2)
    world.arrays["dpo.noisy_latents"] = x
    eps, hidden = denoise(world.tuned, x, t, c)
    errors = ((eps - n) ** 2).mean((1, 2, 3))
    others = ((denoise(world.base, x, t, c)[0] - n) ** 2).mean((1, 2, 3))
    for tag, beta in (("dpo", CONFIG["dpo_beta"]), ("dpo_beta100", 100.0)):
        inside = -0.5 * beta * ((errors[:B] - errors[B:]) - (others[:B] - others[B:]))
        by_inside = -1 / (1 + np.exp(inside)) / B
        by_error = np.concatenate([-0.5 * beta * by_inside, 0.5 * beta * by_inside])
        g = by_error[:, None, None, None] * 2 * (eps - n) / eps[0].size
        gradient = denoise_back(world.tuned, x, t, c, hidden, g)[1]
        world.arrays |= {f"{tag}.model_losses": errors, f"{tag}.ref_losses": others, f"{tag}.inside_term": inside}
        world.scalars[tag] = norms(world, tag, gradient) | {
            "beta": beta, "loss": np.log1p(np.exp(-inside)).mean(), "implicit_acc": float((inside > 0).mean()),
            "raw_model_loss": errors.mean(), "raw_ref_loss": others.mean(),
        }  # fmt: skip


def policy_gradients(world: World) -> None:
    """DDPO and SQDF: one stochastic DDIM step of both networks from the same states."""
    index, z, cut = world.inputs["pg_timestep_index"], world.given("pg_noise"), CONFIG["ddpo"]
    t = grid(50)[index]
    abar, prev = (ABAR[times][:, None, None, None] for times in (t, np.maximum(t - 20, 0)))
    x = np.sqrt(abar) * world.clean() + np.sqrt(1 - abar) * world.given("pg_x")
    var = (1 - prev) / (1 - abar) * (1 - abar / prev)
    world.arrays |= {"pg.grid50_timesteps": grid(50), "pg.timesteps": t, "pg.x_t": x}
    # the mean is linear in the prediction: mean = sqrt(prev / abar) x + slope eps
    slope = np.sqrt(1 - prev - var) - np.sqrt(prev) * np.sqrt(1 - abar) / np.sqrt(abar)

    def means(scale: float) -> tuple[Array, Array, Array]:
        old = world.guided(world.base, x, t, scale)
        new = world.guided(world.tuned, x, t, scale)
        start = np.sqrt(prev / abar) * x
        return old, start + slope * old, start + slope * new

    old_eps, old_mean, new_mean = means(cut["cfg"])
    after = old_mean + np.sqrt(var) * z
    density = lambda m: (-((after - m) ** 2) / (2 * var) - np.log(2 * np.pi * var) / 2).mean((1, 2, 3))  # noqa: E731
    old, new = density(old_mean), density(new_mean)
    ratio, advantage = np.exp(new - old), np.clip(world.given("pg_advantages"), -cut["adv"], cut["adv"])
    free, held = -advantage * ratio, -advantage * np.clip(ratio, 1 - cut["clip"], 1 + cut["clip"])
    world.arrays |= {
        "ddpo.old_eps": old_eps, "ddpo.next_latents": after, "ddpo.old_log_prob": old, "ddpo.new_log_prob": new,
        "ddpo.ratio": ratio, "ddpo.unclipped_loss": free, "ddpo.clipped_loss": held,
    }  # fmt: skip
    for tag, loss, by_density in (
        ("ddpo", np.maximum(free, held).mean(), np.where(free >= held, free, 0) / B),
        ("ddpo_logprob_mean", new.mean(), np.full(B, 1 / B)),
    ):
        g = by_density[:, None, None, None] * (after - new_mean) / var / new_mean[0].size * slope
        world.scalars[tag] = norms(world, tag, world.guided_back(world.tuned, x, t, cut["cfg"], g)[1]) | {"loss": loss}
    soft_q(world, x, t, var, slope, means(CONFIG["sqdf"]["cfg"]))


def soft_q(world: World, x: Array, t: Array, var: Array, slope: Array, means: tuple[Array, Array, Array]) -> None:
    """SQDF with the base's clean prediction at the next index."""
    given, index, z = CONFIG["sqdf"], world.inputs["pg_timestep_index"], world.given("pg_noise")
    _, other, own = means
    after = own + np.sqrt(var) * z
    kl = ((other - own) ** 2 / var).mean((1, 2, 3))
    following = grid(50)[np.minimum(index + 1, 49)]
    abar = ABAR[following][:, None, None, None]
    eps = world.guided(world.base, after, following, given["cfg"])
    last = (index == 49)[:, None, None, None]
    x0 = np.where(last, after, (after - np.sqrt(1 - abar) * eps) / np.sqrt(abar))
    cosine = world.reward(x0)
    reward, weight = cosine + given["shift"], given["gamma"] ** (49 - index)
    mask = reward > 0
    g0 = world.reward_back(x0, np.where(mask, -weight / B, 0.0))
    back, _ = world.guided_back(world.base, after, following, given["cfg"], -np.sqrt((1 - abar) / abar) * g0)
    by_mean = np.where(last, g0, g0 / np.sqrt(abar) + back)
    by_mean = by_mean + (mask * given["alpha"] / B)[:, None, None, None] * 2 * (own - other) / var / own[0].size
    gradient = world.guided_back(world.tuned, x, t, given["cfg"], slope * by_mean)[1]
    world.arrays |= {
        "sqdf.x_prev": after, "sqdf.kl": kl, "sqdf.x0_hat": x0, "sqdf.cosine": cosine, "sqdf.reward": reward,
        "sqdf.mask": mask.astype(np.float64), "sqdf.gamma_exponent": 49 - index,
    }  # fmt: skip
    world.scalars["sqdf"] = norms(world, "sqdf", gradient) | {
        "gamma": given["gamma"], "alpha": given["alpha"], "cfg": given["cfg"], "reward_shift": given["shift"],
        "loss": (mask * (given["alpha"] * kl - weight * reward)).mean(),
    }  # fmt: skip


def waves(rng: np.random.Generator, height: int, width: int) -> Array:
    """A smooth image [1, 3, height, width] of bytes: on noise, the rounding of resizing in single precision shows."""
    y, x = np.arange(height)[:, None] / 40, np.arange(width) / 40
    phases = rng.uniform(0, 6, (3, 2, 1, 1))
    return np.round(127 * (1 + np.sin(y + phases[:, 0]) * np.cos(x + phases[:, 1]))).astype(np.uint8)[None]


def draw(seed: int) -> World:
    """Random weights and inputs, as they are stored."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    # about 0.8 x, so that the trajectories of the sampler stay of order one
    base = {
        "first": 0.4 * np.eye(HIDDEN, 4, dtype=np.float32) + normal(HIDDEN, 4) / 20,
        "words": normal(HIDDEN, WIDTH) / 4, "time": normal(HIDDEN) / 4,
        "second": 2 * np.eye(4, HIDDEN, dtype=np.float32) + normal(4, HIDDEN) / 20,
    }  # fmt: skip
    stored = {f"base.{name}": value for name, value in base.items()}
    stored |= {f"tuned.{name}": value + normal(*value.shape) / 10 for name, value in base.items()}
    stored |= {
        "decode": normal(3, 4) / 5, "encode": normal(4, 3), "spread": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "scale": np.array(SCALE, np.float32), "table": normal(20, WIDTH), "judge_image": normal(5, 147) / 40,
        "judge_bias": normal(5), "judge_words": normal(20, 5),
    }  # fmt: skip
    latents = (B, 4, 8, 8)
    byte = lambda *shape: rng.integers(0, 256, shape, dtype=np.uint8)  # noqa: E731
    inputs = {
        "prompt_ids": rng.integers(0, 20, (B, LENGTH)), "uncond_ids": rng.integers(0, 20, (1, LENGTH)),
        "reward_ids": rng.integers(0, 20, (B, LENGTH)), "x_T": normal(*latents), "z": normal(T, *latents),
        "real_images_u8": byte(B, 3, 64, 64), "posterior_noise": normal(*latents), "forward_noise": normal(*latents),
        "preprocess_image_u8": waves(rng, 288, 320), "dino_features": normal(15, 12),
        "dpo_loser_images_u8": byte(B, 3, 64, 64), "dpo_posterior_noise": normal(2 * B, 4, 8, 8),
        "dpo_forward_noise": normal(*latents), "dpo_timesteps": rng.integers(0, 1000, B), "pg_x": normal(*latents),
        "pg_noise": normal(*latents), "pg_timestep_index": np.array([30, 45, 49]),
        "pg_advantages": np.array([0.7, -1.8, 0.4], np.float32),
    }  # fmt: skip
    return World(stored, inputs)


def write(folder: Path, seed: int = 0) -> None:
    """Write the whole set."""
    world = draw(seed)
    for items in (parts, rollouts, training, optimizers, preferences, policy_gradients):
        items(world)
    (folder / "weights" / "scheduler").mkdir(parents=True)
    scheduler = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 1,
    }  # fmt: skip
    (folder / "weights" / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    stored = {name: np.ascontiguousarray(value) for name, value in world.stored.items()}
    save_file(stored, folder / "weights" / "pixelwise.safetensors")
    save_file(world.inputs, folder / "inputs.safetensors")
    save_file(
        {name: np.ascontiguousarray(value) for name, value in world.arrays.items()}, folder / "expected.safetensors"
    )
    (folder / "expected.json").write_text(json.dumps(world.scalars | {"config": CONFIG}, default=float))
