"""Combined generation as a pipeline of diffusers: a base network for the first steps, a fine-tuned one for the rest.

This file stands beside the weights of an exported model and needs nothing but diffusers:

    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder + "/pipeline.py", trust_remote_code=True)
    image = pipe("a red circle", switch_step=30).images[0]

The steps are those of ancestral sampling (Ho et al. 2020, equation 7) or of DDIM (Song et al. 2021, equation 12); for
flow-matching models, Euler steps or ancestral ones on the straight path (Kingma et al. 2021, appendix A.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

Steps = Callable[[int, Tensor, Tensor, Callable[[], Tensor]], Tensor]
TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")


class CombinedGenerationPipeline(DiffusionPipeline):
    """`base_network` predicts steps 0 to `switch_step` - 1, `network` the others; each has its own guidance scale.

    `family` names the pipeline of diffusers whose text encoding is used. The other values are defaults of a call.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->base_network->network->vae"
    _optional_components = [*TEXTS[1:3], *TEXTS[4:]]  # noqa: RUF012 (as diffusers has it)

    def __init__(
        self,
        vae: Any,
        network: Any,
        base_network: Any,
        scheduler: Any,
        text_encoder: Any,
        tokenizer: Any,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
        family: str = "StableDiffusionPipeline",
        zeros_for_empty_prompt: bool = False,
        sampler: str = "ddpm",
        steps: int = 40,
        switch_step: int = 30,
        base_guidance: float = 7.5,
        guidance: float = 1.0,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, network=network, base_network=base_network, scheduler=scheduler, text_encoder=text_encoder,
            tokenizer=tokenizer, text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3, tokenizer_3=tokenizer_3,
        )  # fmt: skip
        self.register_to_config(
            family=family, zeros_for_empty_prompt=zeros_for_empty_prompt, sampler=sampler, steps=steps,
            switch_step=switch_step, base_guidance=base_guidance, guidance=guidance,
        )  # fmt: skip
        self.scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.scale_factor)

    @property
    def defaults(self) -> Any:
        """The values given when the model was exported."""
        return self.config

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        switch_step: int | None = None,
        num_inference_steps: int | None = None,
        base_guidance_scale: float | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        step_noise: Callable[[int], Tensor] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Images of the prompts. What is not given is as the model was exported.

        `switch_step` counts first steps of the base: 0 is the fine-tuned network alone, all steps the base alone.
        Guidance 1 is none. `latents` [B, C, h, w] replace the start noise, `step_noise(i)` the noise of step i; both
        are drawn from `generator` otherwise.
        """
        config = self.defaults
        switch = config.switch_step if switch_step is None else switch_step
        count = config.steps if num_inference_steps is None else num_inference_steps
        scales = (
            config.base_guidance if base_guidance_scale is None else base_guidance_scale,
            config.guidance if guidance_scale is None else guidance_scale,
        )
        if not 0 <= switch <= count:
            raise ValueError(f"switch_step {switch} is not between 0 and num_inference_steps {count}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        device, total = self._execution_device, len(prompts) * num_images_per_prompt
        side = self.network.config.sample_size * self.scale_factor
        size = (height or side, width or side)
        given = self._conditions(prompts, num_images_per_prompt, *size, device)
        shape = (total, self.network.config.in_channels, *(edge // self.scale_factor for edge in size))
        dtype = self.network.dtype
        x = randn_tensor(shape, generator, device, dtype) if latents is None else latents.to(device, dtype)

        step = self._steps(count, device)
        with self.progress_bar(total=count) as bar:  # type: ignore[call-arg]
            for i, t in enumerate(self.scheduler.timesteps):
                network, scale = (self.base_network, scales[0]) if i < switch else (self.network, scales[1])
                output = self._predict(network, x, t, given, scale)

                def draw(i: int = i, like: Tensor = x) -> Tensor:
                    if step_noise is not None:
                        return step_noise(i).to(like)
                    return randn_tensor(like.shape, generator, like.device, like.dtype)

                x = step(i, x, output, draw).to(dtype)
                bar.update()

        if output_type != "latent":
            shift = getattr(self.vae.config, "shift_factor", None) or 0.0
            raw = self.vae.decode((x / self.vae.config.scaling_factor + shift).to(self.vae.dtype), return_dict=False)[0]
            x = self.image_processor.postprocess(raw, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=x) if return_dict else (x,)  # type: ignore[arg-type]

    def _predict(
        self, network: Any, x: Tensor, t: Tensor, given: dict[str, tuple[Tensor, Tensor]], scale: float
    ) -> Tensor:
        """The network's output, guided; `given` holds each condition without and with the prompt."""
        if scale == 1.0:
            return self._call(network, x, t, {name: pair[1] for name, pair in given.items()})
        both = self._call(network, torch.cat([x, x]), t, {name: torch.cat(pair) for name, pair in given.items()})
        plain, wanted = both.chunk(2)
        return plain + scale * (wanted - plain)

    def _call(self, network: Any, x: Tensor, t: Tensor, given: dict[str, Tensor]) -> Tensor:
        family = self.defaults.family
        if family == "StableDiffusionPipeline":
            return network(x, t, encoder_hidden_states=given["text"], return_dict=False)[0]
        if family == "StableDiffusionXLPipeline":
            added = {"text_embeds": given["pooled"], "time_ids": given["size"]}
            return network(x, t, encoder_hidden_states=given["text"], added_cond_kwargs=added, return_dict=False)[0]
        times = t.expand(len(x))
        if family == "PixArtAlphaPipeline":
            made = given["size"][:, 4:6] if network.config.use_additional_conditions else None
            added = {"resolution": made, "aspect_ratio": None if made is None else made[:, :1] / made[:, 1:]}
            return network(
                x, encoder_hidden_states=given["text"], encoder_attention_mask=given["mask"], timestep=times,
                added_cond_kwargs=added, return_dict=False,
            )[0][:, : x.shape[1]]  # fmt: skip
        return network(
            hidden_states=x, timestep=times, encoder_hidden_states=given["text"], pooled_projections=given["pooled"],
            return_dict=False,
        )[0]  # fmt: skip

    def _conditions(
        self, prompts: list[str], copies: int, height: int, width: int, device: torch.device
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Each condition as (without prompt, with prompt), [B, ...]."""
        family = self.defaults.family
        pipeline = self._family_pipeline()
        shared = {"device": device, "num_images_per_prompt": copies, "do_classifier_free_guidance": True}
        nothing = [""] * len(prompts)
        if family == "StableDiffusionPipeline":
            text, plain = pipeline.encode_prompt(prompts, negative_prompt=nothing, **shared)
            return {"text": (plain, text)}
        if family == "PixArtAlphaPipeline":
            text, mask, plain, plain_mask = pipeline.encode_prompt(prompts, negative_prompt=nothing, **shared)
            given = {"text": (plain, text), "mask": (plain_mask, mask)}
        else:
            others = {"prompt_2": None} if "XL" in family else {"prompt_2": None, "prompt_3": None}
            negative = None if self.defaults.zeros_for_empty_prompt else nothing
            found = pipeline.encode_prompt(prompts, **others, negative_prompt=negative, **shared)
            text, plain, pooled, plain_pooled = found
            given = {"text": (plain, text), "pooled": (plain_pooled, pooled)}
        size = torch.tensor([[height, width, 0, 0, height, width]], dtype=text.dtype, device=device)
        size = size.expand(len(text), 6)
        return given | {"size": (size, size)}

    def _family_pipeline(self) -> Any:
        """The family's own pipeline around the same parts, for its text encoding."""
        made = getattr(diffusers, self.defaults.family)
        parts = {name: getattr(self, name) for name in ("vae", "scheduler", *TEXTS)}
        parts |= {"unet": self.network, "transformer": self.network, "safety_checker": None, "feature_extractor": None}
        wanted = {name: part for name, part in parts.items() if name in made._get_signature_keys(made)[0]}
        more = {"requires_safety_checker": False} if self.defaults.family == "StableDiffusionPipeline" else {}
        if "XL" in self.defaults.family:
            more = {"force_zeros_for_empty_prompt": self.defaults.zeros_for_empty_prompt, "add_watermarker": False}
        return made(**wanted, **more)

    def _steps(self, count: int, device: torch.device) -> Steps:
        """Sets the scheduler's timesteps; the function that makes step i from latents, output and a draw of noise."""
        self.scheduler.set_timesteps(count, device=device)
        ancestral = self.defaults.sampler == "ddpm"
        if hasattr(self.scheduler, "alphas_cumprod"):
            return self._diffusion_steps(count, device, ancestral)
        sigmas = self.scheduler.sigmas.to(device)

        def flow(i: int, x: Tensor, v: Tensor, draw: Callable[[], Tensor]) -> Tensor:
            s, after = sigmas[i], sigmas[i + 1]
            if not ancestral or i == count - 1:
                return x + (after - s) * v
            ratio = (1 - s) / (1 - after)
            added = s**2 - ratio**2 * after**2
            mean = ratio * after**2 / s**2 * x + (1 - after) * added / s**2 * (x - s * v)
            return mean + added.sqrt() * after / s * draw()

        return flow

    def _diffusion_steps(self, count: int, device: torch.device, ancestral: bool) -> Steps:
        alphas = self.scheduler.alphas_cumprod.to(device)[self.scheduler.timesteps]
        following = torch.cat([alphas[1:], alphas.new_ones(1)])
        velocity = self.scheduler.config.prediction_type == "v_prediction"

        def step(i: int, x: Tensor, output: Tensor, draw: Callable[[], Tensor]) -> Tensor:
            alpha, prev = alphas[i], following[i]
            eps = alpha.sqrt() * output + (1 - alpha).sqrt() * x if velocity else output
            clean = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
            if i == count - 1:
                return clean
            if not ancestral:
                return prev.sqrt() * clean + (1 - prev).sqrt() * eps
            beta = 1 - alpha / prev
            mean = prev.sqrt() * beta / (1 - alpha) * clean + (1 - beta).sqrt() * (1 - prev) / (1 - alpha) * x
            return mean + ((1 - prev) / (1 - alpha) * beta).clamp(min=1e-20).sqrt() * draw()

        return step
