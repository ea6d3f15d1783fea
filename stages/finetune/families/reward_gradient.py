"""The reward's gradient through the last part of a sampling chain: the family of ReFL, DRaFT and ImageReFL.

A method is a generator per micro-batch. It yields requests for rollouts, which are computed without gradient and for
several micro-batches together, and for predictions with gradient, and returns the clean latents that the reward scores:

    def step(networks, batch, settings):
        m = batch.draw(settings.middle)
        x = yield Rollout(batch.noise.initial(), 0, m)
        prediction = yield Prediction(x, m)
        return StepOutput(networks.grid.x0(x, prediction, m), batch.prompts)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.objective import Loss, Objective, Run
from stages.finetune.reward import Similarity
from stages.finetune.rollouts import Prediction, Rollout, predict, roll_out
from stages.finetune.together import joined


@dataclass(frozen=True)
class StepOutput:
    """The clean latents that the reward scores, [N, C, h, w] with a graph to the policy, and the prompt of each.

    `penalties` are further terms of the loss: name to (weight, scalar). `similarity` is one on the images. `weights`
    [N], where given, are those of the images in the reward's part of the loss.
    """

    x0: Tensor
    prompts: Sequence[str]
    penalties: Mapping[str, tuple[float, Tensor]] = field(default_factory=dict)
    similarity: Similarity | None = None
    weights: Tensor | None = None


Step = Generator[Rollout | Prediction, Tensor, StepOutput]
"""A micro-batch of a method: it is sent the latents that each of its rollouts ends with, and its predictions."""


class RewardGradient(Objective):
    """L = -reward_scale mean(w (R + reward_offset)) + sum of weight * penalty, the similarity among them; w is 1 where
    a method weighs no images.

    The gradient of decoder and reward is collected at x0 and enters the network once, together with that of the
    penalties that come with x0. Penalties that come with a rollout are taken before it is made.
    """

    def __init__(self, run: Run, start: Callable[[Batch], Step]) -> None:
        self.run, self.start = run, start

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """Advance every micro-batch to its next request and serve the requests together, until all have returned what
        the reward scores.
        """
        steps = {place: self.start(batch) for place, batch in enumerate(batches)}
        answers: Iterator[Mapping[int, Tensor | None]] = iter([{place: None} for place in steps])
        while steps:
            requests: dict[int, Rollout | Prediction] = {}
            for group in answers:
                yield from joined([self.advance(steps, requests, place, answer) for place, answer in group.items()])
            answers = self.answers(dict(enumerate(batches)), requests)

    def answers(
        self, batches: Mapping[int, Batch], requests: Mapping[int, Rollout | Prediction]
    ) -> Iterator[Mapping[int, Tensor | None]]:
        """What micro-batches asked for, by place; micro-batches whose predictions share a graph come together."""
        networks, settings = self.run.networks, self.run.settings
        rollouts = {place: wanted for place, wanted in requests.items() if isinstance(wanted, Rollout)}
        predictions = {place: wanted for place, wanted in requests.items() if isinstance(wanted, Prediction)}
        for place, x in roll_out(networks, batches, rollouts, settings.rollout_batch).items():
            yield {place: x}
        yield from predict(networks, batches, predictions, settings.gradient_batch)

    def advance(
        self, steps: dict[int, Step], requests: dict[int, Rollout | Prediction], place: int, answer: Tensor | None
    ) -> Loss | None:
        """Let micro-batch `place` go on with its answer, up to its next request or to its end; returns the part of
        its loss that is known then, if any.
        """
        step = steps[place]
        try:
            wanted = next(step) if answer is None else step.send(answer)
        except StopIteration as end:
            del steps[place]
            return self.scored(end.value, place)
        requests[place] = wanted
        penalties = wanted.penalties if isinstance(wanted, Rollout) else {}
        return penalised(penalties, place) if penalties else None

    def scored(self, output: StepOutput, place: int) -> Loss:
        """The loss of what micro-batch `place` ends with."""
        reward = self.run.reward
        found = reward.gradient(output.x0, output.prompts, weights=output.weights, similarity=output.similarity)
        loss = reward.loss(found.rewards, output.weights)
        terms = {"reward": found.rewards.mean()}
        root = (found.gradient * output.x0).sum()
        if output.penalties:
            others = penalised(output.penalties, place)
            root, loss = root + others.root, loss + others.terms["loss"]
            terms |= {name: value for name, value in others.terms.items() if name != "loss"}
        if output.similarity is not None and found.distances is not None:
            terms["loss_likeness"] = found.distances.mean()
            loss = loss + output.similarity.weight * terms["loss_likeness"]
        return Loss(root, {**terms, "loss": loss}, place)


def penalised(penalties: Mapping[str, tuple[float, Tensor]], place: int) -> Loss:
    """The weighted sum of penalties, each of them a term `loss_<name>`."""
    total = sum((weight * value for weight, value in penalties.values()), torch.zeros(()))
    terms = {f"loss_{name}": value.detach() for name, (_, value) in penalties.items()}
    return Loss(total, {**terms, "loss": total.detach()}, place)
