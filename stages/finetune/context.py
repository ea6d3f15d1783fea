"""The set-up that training, the sweep over learning rates and the estimate share: loaded once, for any of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from stages.encode.store import Encodings
from stages.errors import InputError
from stages.finetune.data import Data, of_annotators, suitable, with_preference
from stages.finetune.networks import Networks
from stages.finetune.objective import Run
from stages.finetune.paths import Paths
from stages.finetune.probe import Probe
from stages.finetune.requirements import require_enough, require_latents_of
from stages.finetune.resolve import TrainingPlan
from stages.finetune.reward import CountedReward, LatentReward
from stages.finetune.training import Trainer
from stages.models import record
from stages.models.consistency import recorded_student
from stages.models.diffusion import Denoiser, DiffusionModel, load_diffusion
from stages.models.noise import KeyedNoise
from stages.models.policy import Policy, make_policy
from stages.processes import ALONE, Processes
from stages.rewards.base import Reward, load_reward, require_embedding, require_oracle
from stages.runtime import device


@dataclass(frozen=True)
class TrainingContext:
    """The base, the encodings and the rewards by name, on one device; all `plans` are of one study."""

    paths: Paths
    model: DiffusionModel
    encodings: Encodings
    rewards: dict[str, Reward]

    @classmethod
    def load(cls, paths: Paths, plans: Sequence[TrainingPlan]) -> TrainingContext:
        """Everything that the plans need; raises InputError where their methods need more than the reward has.

        The held-out reward and the oracle are loaded where the paths name them.
        """
        where, study = device(), plans[0].study
        model = load_diffusion(record.load(paths.base), where, parts=("unet", "vae"))
        rewards = {study.reward: load_reward(record.load(paths.reward, study.reward), where)}
        for plan in plans:
            require_enough(plan, rewards[study.reward])
            require_latents_of(plan, rewards[study.reward], model.record)
        if paths.heldout is not None:
            rewards[study.heldout] = load_reward(record.load(paths.heldout, study.heldout), where)
        if paths.oracle is not None:
            oracle = record.load(paths.oracle, plans[0].train.probe.oracle)
            rewards[oracle.name] = load_reward(oracle, where)
        encodings = Encodings(paths.tensors, paths.index, where, model.record.digest)
        encodings.require_fit(model, paths.tensors)
        return cls(paths, model, encodings, rewards)

    def policy(self, plan: TrainingPlan) -> Policy:
        """The policy of a plan before its first step: equal to the base, or to the distilled model it starts as."""
        train, lora = plan.train, plan.train.lora
        return make_policy(self.start(plan), train.trainable, plan.seed, lora.rank, lora.alpha, lora.targets)

    def start(self, plan: TrainingPlan) -> nn.Module:
        """The frozen network that policy and reference start as."""
        needs = plan.method_settings.needs
        if needs.starts_as_student and needs.student is not None:
            return self.student(plan, needs.student).network
        return self.model.unet

    def trainer(self, plan: TrainingPlan, policy: Policy, processes: Processes = ALONE) -> Trainer:
        """The trainer of a plan before its first step; raises InputError where something that its method needs is not
        there.
        """
        if plan.train.gradient_checkpointing:
            policy.network.enable_gradient_checkpointing()  # type: ignore[operator]
            self.model.vae.network.enable_gradient_checkpointing()
        reward = LatentReward(self.model.vae.decode, CountedReward(self.rewards[plan.study.reward]), plan.train)
        run = Run(self.networks(plan, policy), reward, plan.train, processes)
        objective = plan.definition.objective(plan.method_settings, run)
        return Trainer.start(run, objective, dict(policy.parameters()))

    def networks(self, plan: TrainingPlan, policy: Policy) -> Networks:
        """The networks that the plan's method needs, on the grid of its rollouts."""
        train, needs, process = plan.train, plan.method_settings.needs, self.model.process
        return Networks(
            policy=Denoiser(policy.network, process, quick=train.compile),
            grid=process.grid(train.sampling_steps),
            empty=self.encodings.empty(),
            guidance=train.guidance,
            sampler=train.sampler,
            extra_step=train.as_released.extra_step,
            reference=Denoiser(self.start(plan), process, quick=train.compile) if needs.reference else None,
            student=self.student(plan, needs.student) if needs.student and not needs.starts_as_student else None,
            companion=Denoiser(self.companion(plan), process, quick=train.compile) if needs.companion else None,
        )

    def companion(self, plan: TrainingPlan) -> nn.Module:
        """A second network like the policy before its first step."""
        made = self.policy(plan).network
        if plan.train.gradient_checkpointing:
            made.enable_gradient_checkpointing()  # type: ignore[operator]
        return made

    def student(self, plan: TrainingPlan, name: str) -> Denoiser:
        """The consistency model of that name; raises InputError where there is none."""
        path = self.paths.student(name)
        if path is None:
            raise InputError(f"run {plan.name!r}: its method needs the distilled model {name!r}, expected --predictors")
        return Denoiser(recorded_student(path, name, self.model.device), self.model.process)

    def data(self, plan: TrainingPlan, processes: Processes = ALONE) -> Data:
        """The prompts, the captioned images or the pairs that the plan's method trains on."""
        needs, source = plan.method_settings.needs, plan.method_settings.source
        if needs.data == "labelled":
            raise InputError(
                f"run {plan.name!r}: the encodings hold no {needs.data}, which method {plan.method!r} needs"
            )
        images, pairs = needs.data == "images", ()
        if needs.data == "pairs":
            found = suitable(self.encodings.pairs("train", source), needs.captions, f"run {plan.name!r}")
            pairs = with_preference(found, needs.ties, f"run {plan.name!r}")
            pairs = of_annotators(pairs, needs.annotators, f"run {plan.name!r}") if needs.annotators else pairs
        items = self.encodings.images("train", source) if images else self.encodings.prompts("train")
        return Data(
            encodings=self.encodings, items=items, seed=plan.seed, batch_size=plan.train.batch_size,
            accumulate=plan.train.accumulate, scale=self.model.vae.scale, device=self.model.device, posterior=images,
            repeat=needs.group, processes=processes,
            pairs=pairs,
        )  # fmt: skip

    def probe(self, plan: TrainingPlan) -> Probe:
        """The same training prompts and noise for every run of the study, so that their curves compare."""
        size, prompts = plan.train.probe, self.encodings.prompts("train")
        chosen = prompts[:: max(1, len(prompts) // size.prompts)][: size.prompts]
        items = [item for item in chosen for _ in range(size.samples)]
        keys = [("probe", item.item_id, n) for item in chosen for n in range(size.samples)]
        noise = KeyedNoise(plan.study.seed, keys, self.encodings.latent_shape(), self.model.device)
        embed = require_embedding(self.rewards[plan.study.heldout]).embed
        texts = [item.text for item in items]
        if size.oracle is not None and size.oracle not in self.rewards:
            raise InputError(f"finetune.probe.oracle: {size.oracle} is asked for, expected --oracle")
        oracle = None if size.oracle is None else require_oracle(self.rewards[size.oracle])
        return Probe(texts, self.encodings.text(items), noise, size.samples, dict(self.rewards), embed, oracle)
