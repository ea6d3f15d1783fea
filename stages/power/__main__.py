"""How many training seeds, prompts and images per prompt are needed to see a gap, from two or more seeds of one method.

Reads the scores of a finished study and compares nothing with anything: only how far scores of the same method vary.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from stages.errors import InputError
from stages.params import nearest
from stages.report import settings
from stages.runtime import require_apart, run_and_leave, whole_file

if TYPE_CHECKING:
    from stages.power.components import Design, Question
    from stages.power.scores import Pilot
    from stages.report.settings import ReportStudy

FACTORS = (0.25, 0.5, 1, 2, 4, 8, 16)
"""Prompts and images per prompt that are tried, as multiples of the study's own."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.power", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="study file (default: %(default)s)")
    parser.add_argument("--study", type=Path, help="folder of its results (default: out/<name>)")
    parser.add_argument("--method", help="a method with two runs or more (default: study.reference)")
    parser.add_argument("--reward", help="a measured reward (default: that of report.main, else the first)")
    parser.add_argument("--diversity", help="a measured diversity (default: that of report.main, else the first)")
    parser.add_argument("--gap", type=float, default=0.02, help="share of the span from the base to the tuned network")
    parser.add_argument("--power", type=float, default=0.8, help="wanted probability to see it (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=24, help="most training seeds to try (default: %(default)s)")
    parser.add_argument("--prompts", type=int, help="most prompts there are (default: 16 times those of the study)")
    parser.add_argument("--out", type=Path, help="written: everything that was found (JSON)")
    args = parser.parse_args()
    for name, value in (("gap", args.gap), ("power", args.power)):
        if not 0 < value < 1:
            raise InputError(f"--{name} {value:g}: expected a number between 0 and 1")
    for name, most in (("seeds", args.seeds), ("prompts", args.prompts)):
        if most is not None and most < 2:
            raise InputError(f"--{name} {most}: expected 2 or more")
    require_apart([args.params], [args.out] if args.out else [])
    study = settings.read(args.params)
    reward, diversity = _pair(study, args.reward, args.diversity)

    from stages.power.components import Components, Question
    from stages.power.scores import read

    results = args.study or Path("out") / study.study.name
    pilot = read(study, results, args.method or study.study.reference, reward, diversity)
    question = Question(
        Components.of(pilot.scores), args.gap * abs(pilot.span), args.power, study.report.interval, pilot.cost
    )
    designs = question.designs(range(2, args.seeds + 1), *_tried(pilot, args.prompts))
    print("\n".join(said(pilot, question, designs, args.gap, reward, diversity)))
    if args.out:
        content = {
            "reward": reward, "diversity": diversity, "prompts": pilot.prompts, "seeds": pilot.seeds,
            "span": pilot.span, "slope": pilot.slope, "gap": question.gap, "power": args.power,
            "components": asdict(question.components), "own": asdict(_own(pilot, question)),
            "designs": [asdict(one) for one in designs],
        }  # fmt: skip
        with whole_file(args.out) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _pair(study: ReportStudy, reward: str | None, diversity: str | None) -> tuple[str, str]:
    """The reward and the diversity that are asked about."""
    report = study.report
    main = report.main_pair or (report.rewards[0], report.diversities[0])
    for flag, name, known in (("reward", reward, report.rewards), ("diversity", diversity, report.diversities)):
        if name is not None and name not in known:
            raise InputError(f"--{flag} {name}: not in the report of the study{nearest(name, known)}")
    return reward or main[0], diversity or main[1]


def _tried(pilot: Pilot, most: int | None) -> tuple[list[int], list[int]]:
    """Numbers of prompts and of images per prompt."""
    _, prompts, images = pilot.scores.shape
    limit = most or round(prompts * FACTORS[-1])
    counts = sorted({min(limit, max(2, round(prompts * factor))) for factor in FACTORS})
    return counts, sorted({max(2, round(images * factor)) for factor in FACTORS})


def _own(pilot: Pilot, question: Question) -> Design:
    """The study as it is."""
    return question.design(*pilot.scores.shape)


def said(
    pilot: Pilot, question: Question, designs: list[Design], share: float, reward: str, diversity: str
) -> list[str]:
    """What is printed, line by line."""
    found, own = question.components, _own(pilot, question)
    seeds, prompts, images = pilot.scores.shape
    names = ("seed", "prompt", "image", "seed_prompt", "seed_image")
    deviations = (f"{name.replace('_', ' x ')} {getattr(found, name) ** 0.5:.3g}" for name in names)
    lines = [
        f"{reward} at equal {diversity}: {seeds} seeds, {prompts} prompts, {images} images per prompt",
        f"span from the base to the tuned network {pilot.span:+.4g}; the gap to be seen is {share:.1%} of it,"
        f" {question.gap:.3g}",
        f"standard deviations: {', '.join(deviations)}",
        f"(that of seeds rests on {seeds - 1} degree{'s' * (seeds > 2)} of freedom; prompt and image cancel where"
        " methods are compared on the same prompts and noise)",
        f"as it is, the study sees gaps from {own.detectable:.3g} on with a power of {question.wanted:.0%}",
        "",
    ]  # fmt: skip
    if not designs:
        return [*lines, "no design that was tried sees the gap; more seeds (--seeds) or prompts (--prompts) are needed"]
    cheapest = min(designs, key=lambda one: one.evaluations)
    lines.append(f"{'seeds':>8}{'prompts':>9}{'images':>8}{'sees':>10}{'evaluations':>13}")
    for one in designs:
        mark = "  <- cheapest" if one == cheapest else ""
        lines.append(
            f"{one.seeds:>8}{one.prompts:>9}{one.images:>8}{one.detectable:>10.3g}{one.evaluations:>13.3g}{mark}"
        )
    return [*lines, "seeds and images of each of two methods; evaluations of both, one with gradient counts as three"]


if __name__ == "__main__":
    run_and_leave(main)
