"""Write docs/scale.md: what the whole grid of experiments would take, estimated from operation counts.

Network evaluations are counted by the code that makes them; what one costs is its floating-point operations at full
size, counted on networks without weights. Nothing here was timed on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from benchmarks.search_hours import SEARCHES, lines
from benchmarks.sections.markdown import table
from benchmarks.units import UNITS, Unit, schedule
from stages.estimate.counting import of_base, of_run
from stages.finetune.budget import costs
from stages.finetune.resolve import training_plan
from stages.params import read_study
from stages.runtime import whole_file
from stages.sample.resolve import SamplingPlan, sampling_plan
from workflow.layout import Layout

STUDY, PAGE = Path("studies/sd15-hps.yaml"), Path("docs/scale.md")
PEAK, SHARE = 790.0, 0.4
"""Dense bfloat16 of one H200 in TFLOP/s, and the share of it that the estimate assumes."""
SEEDS, REWARDS = 3, 2
PROMPTS, IMAGES = 400, 113_287
"""Evaluation prompts of HPDv2, and training pictures of COCO 2014 in Karpathy's split."""
COUNTED_STEPS = 25


@dataclass(frozen=True)
class Job:
    """One kind of job: how many there are of it, and the TFLOP of one."""

    name: str
    count: int
    work: float

    def hours(self, speed: float) -> float:
        """GPU-hours of one of them at a speed in TFLOP/s."""
        return self.work / speed / 3600


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--study", type=Path, default=STUDY, help=f"the study that is multiplied (default: {STUDY})")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default: {PAGE})")
    args = parser.parse_args()
    with whole_file(args.out) as partial:
        partial.write_text("\n".join(page(args.study)))


@cache
def training(study: Path, run: str) -> tuple[float, float, int]:
    """Evaluations, and those among them with gradient, of an image; and the images of the whole run."""
    plan = training_plan(study, run)
    found = list(islice(costs(plan, schedule()), COUNTED_STEPS))
    images = plan.train.batch_size
    forward, backward = (sum(getattr(cost, name) for cost in found) for name in ("forward", "backward"))
    return forward / COUNTED_STEPS / images, backward / COUNTED_STEPS / images, images * plan.train.steps


def sampling(plan: SamplingPlan) -> tuple[int, int, dict[str, int]]:
    """Evaluations per image of the base's job, how many images it decodes, and evaluations by strategy of a run."""
    base, run = of_base(plan, schedule()), of_run(plan, schedule())
    return base.nfe, base.decodes, {name: cost.nfe for name, cost in run.items()}


def jobs(study: Path, unit: Unit) -> list[Job]:
    """The jobs of one study on one base with one reward, `SEEDS` runs per method."""
    plan, methods = sampling_plan(study), _methods(study)
    images = PROMPTS * plan.sample.samples_per_prompt
    base, shown, strategies = sampling(plan)
    points = sum(len(each.settings.points()) for each in plan.of("tuned"))
    found = [
        Job("encode", 1, IMAGES * unit.encode),
        Job("sample_base", 1, images * (base * unit.forward + shown * unit.decode)),
        Job("measure_base", 1, images * shown * unit.score),
        Job("sample", SEEDS * len(methods), images * (sum(strategies.values()) * unit.forward + points * unit.decode)),
        Job("measure", SEEDS * len(methods), images * points * unit.score),
    ]
    for method, run in methods.items():
        forward, backward, count = training(study, run)
        work = count * (forward * unit.forward + backward * unit.backward + unit.reward_gradient)
        found.append(Job(f"finetune {method}", SEEDS, work))
    return found


def _methods(study: Path) -> dict[str, str]:
    """A run of each method."""
    return {values["method"]: run for run, values in read_study(study)["runs"].items()}


def light_jobs(study: Path) -> int:
    """Jobs of one study that cost little: curation, models, scores, features of real pictures, the report."""
    layout = Layout.read(study)
    return 1 + len(layout.imported) + len(layout.rewards) + 1 + 1


def page(study: Path) -> Iterator[str]:
    """The lines of the page."""
    plan = sampling_plan(study)
    base, _, strategies = sampling(plan)
    methods = _methods(study)
    grid = {unit: jobs(study, unit) for unit in UNITS}
    runs = len(UNITS) * REWARDS * SEEDS * len(methods)
    yield HEAD.format(study=study, runs=runs, methods=len(methods), seeds=SEEDS, peak=PEAK, share=100 * SHARE,
                      speed=PEAK * SHARE, prompts=PROMPTS, each=plan.sample.samples_per_prompt)  # fmt: skip
    yield "## Evaluations, counted by the code\n"
    yield (
        f"Training: means of the first {COUNTED_STEPS} optimizer steps with the indices that they draw; formulas in\n"
        "[methods](methods.md) are the means of all draws.\n"
    )
    counted = [(name, *training(study, run)) for name, run in methods.items()]
    yield from table(
        ("training, per image", "evaluations", "with gradient", "images of a run"),
        [(name, f"{forward:.1f}", f"{backward:.1f}", f"{images:,}") for name, forward, backward, images in counted],
    )
    everything = sum(strategies.values())
    yield from table(
        ("sampling, one image of each setting", "evaluations", "share of a run"),
        [("the base's own job", base, ""), *((n, v, f"{100 * v / everything:.0f} %") for n, v in strategies.items())],
    )
    yield SAMPLING
    yield "## GPU-hours\n"
    for unit, found in grid.items():
        yield f"{unit.name}, one reward:\n"
        yield from table(
            ("job", "jobs", "PFLOP each", "hours each, at the limit", "hours each, estimate", "hours in all, estimate"),
            [
                (job.name, job.count, f"{job.work / 1000:,.0f}", f"{job.hours(PEAK):.2f}",
                 f"{job.hours(PEAK * SHARE):.2f}", f"{job.count * job.hours(PEAK * SHARE):.1f}")
                for job in found
            ],
        )  # fmt: skip
    hours = {unit: REWARDS * sum(job.count * job.hours(PEAK * SHARE) for job in found) for unit, found in grid.items()}
    limit = REWARDS * sum(job.count * job.hours(PEAK) for found in grid.values() for job in found)
    parts = ", ".join(f"{value:,.0f} of them {unit.name}" for unit, value in hours.items())
    total = sum(hours.values())
    yield f"The whole grid: **{total:,.0f} GPU-hours** by the estimate ({parts}), {limit:,.0f} at the limit.\n"
    yield "## Jobs, critical path, storage\n"
    studies, heavy = len(UNITS) * REWARDS, sum(job.count for job in next(iter(grid.values())))
    yield f"{studies} studies, {studies * (heavy + light_jobs(study))} jobs, {studies * heavy} of them in the tables.\n"
    yield from table(
        ("one study", "critical path, hours", "GPUs that keep it", "policies", "samples", "latents", "encodings"),
        [_study_row(unit, found, plan) for unit, found in grid.items()],
    )
    yield TAIL
    yield "## Searches at sampling time\n"
    yield from lines(SEARCHES, UNITS[0], PEAK * SHARE)


def _study_row(unit: Unit, found: list[Job], plan: SamplingPlan) -> tuple[object, ...]:
    by_name = {job.name: job for job in found}
    tuning = [job for job in found if job.name.startswith("finetune")]
    speed = PEAK * SHARE
    path = sum(by_name[name].hours(speed) for name in ("encode", "sample", "measure"))
    path += max(job.hours(speed) for job in tuning)
    images = PROMPTS * plan.sample.samples_per_prompt
    points = sum(len(each.settings.points()) for each in plan.of("tuned"))
    switches = sum(len(ks) for ks in plan.switches().values())
    number = sum(job.count for job in tuning)
    return (
        unit.name, f"{path:.1f}", number, f"{number * unit.weights:.0f} GB",
        f"{number * images * points * 0.45 / 1000:.0f} GB", f"{images * switches * 65.5e3 / 1e9:.1f} GB",
        f"{IMAGES * (2 * 4 * 64 * 64 * 2 + unit.text * 2) / 1e9:.0f} GB",
    )  # fmt: skip


HEAD = """\
# Scale

Written by `python -m benchmarks.scale`. What the grid {{Stable Diffusion 1.5, SDXL}} x {{HPSv2.1, PickScore}} x
{methods} methods x {seeds} seeds, {runs} runs with every strategy of `{study}`, would take. **These are estimates from
operation counts; nothing on this page was timed on a GPU.** Evaluations are counted by the stages' own code on networks
that cost nothing. Operations are those of the full-size networks, counted without weights (a multiplication and an
addition are two): an evaluation 0.803 TFLOP, with gradient 2.407 (SDXL at 512 pixels 1.589, and three times that is
assumed), decoding 2.51, decoding and HPSv2.1 with their gradient 5.74, encoding 1.12, judging an image by the study's
five models 0.83. The limit is {peak:.0f} TFLOP/s, one H200 in dense bfloat16; the estimate assumes {share:.0f} % of it,
{speed:.0f} TFLOP/s. Full fine-tuning; {prompts} evaluation prompts with {each} images each.
"""

SAMPLING = """\
The two AIG strategies are most of a run's sampling: they evaluate the base in every step, at latents that no other
setting visits, so nothing of theirs can be shared. A study of combined generation alone leaves them out, or gives them
fewer powers. The sweep k = 0, 20, 25, 32, 35, 38 of 40 steps takes 166 evaluations an
image for one method, 392 in the released way. Four methods take 76 for the guided steps that all share and 90 each, 436
(1568 released), and not fewer: after the prefix every latent is visited by one setting of one method.
"""

TAIL = """\
The critical path is encode, the longest training, one run's sampling and measuring; with a GPU per run (the third
column) no job waits. `sample.shards` and `measure.shards` shorten both further. Policies are whole networks in float32
(LoRA: a few MB per run); samples are PNGs of 512 x 512 at an assumed 0.45 MB; latents are those at switch steps;
encodings are in float16, of 113,287 pictures with one caption each. DVC's cache holds all of it a second time.
The saved state of a run, from which it resumes after an interruption (weights and Adam's moments, three times the
policy), is deleted when it ends.

The time that the runners take to plan a study of many jobs is in [benchmarks](benchmarks.md).
"""


if __name__ == "__main__":
    main()
