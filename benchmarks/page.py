"""Write docs/benchmarks.md from the results in benchmarks/results; every number of the page stands in one of them."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.runtime import whole_file

RESULTS, PAGE = Path("benchmarks/results"), Path("docs/benchmarks.md")
Content = Mapping[str, Any]

HEAD = """\
# Benchmarks

Written by `python -m benchmarks.page` from `benchmarks/results/*.json`; `make bench` measures everything anew, but for
Slurm (`python -m benchmarks.slurm`), and writes both. `make bench QUICK=1` measures a little of everything into
`out/bench`, to see that it works, and leaves results and page as they are. Figures are those of the machine named in
each section.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of results (default: {RESULTS})")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default: {PAGE})")
    args = parser.parse_args()
    with whole_file(args.out) as partial:
        partial.write_text(page(args.results))


def page(results: Path) -> str:
    """The page of all results that are there, in the order of `SECTIONS`; raises KeyError for a file of no section."""
    found = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    if unknown := sorted(found.keys() - SECTIONS.keys()):
        raise KeyError(f"{results}: no section of the page for {unknown[0]}.json; known: {', '.join(SECTIONS)}")
    parts = ["\n".join(make(found[name])) for name, make in SECTIONS.items() if name in found]
    return "\n".join([HEAD, *parts])


def machine(content: Content) -> str:
    """The line that names the machine."""
    about = [f"{content['processors']} processors", f"{content['memory_mb'] / 1024:.0f} GB"]
    if "processor" in content:
        about[0] += f" ({content['processor']})"
    if "threads" in content:
        about.append(f"{content['threads']} thread{'s' if content['threads'] != 1 else ''} in use")
    if "load_before" in content:
        about.append(f"load {content['load_before']:.1f} before")
    versions = [f"Python {content['python']}", *(f"{name} {number}" for name, number in content["versions"].items())]
    return f"On {', '.join(about)}; {', '.join(versions)}.\n"


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> Iterator[str]:
    """Lines of a table; the first column to the left, the others to the right."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(head) - 1)])}|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def steps(content: Content) -> Iterator[str]:
    """Training steps and the sweep against the plain reference."""
    shape = content["shape"]
    yield "## Steps and the sweep against a plain reference\n"
    yield machine(content)
    yield (
        f"Random networks of the shape of Stable Diffusion 1.5 with {shape['width']} channels in place of 320, latents "
        f"of {shape['latent']} x {shape['latent']}, float32. The plain reference "
        "(`benchmarks/plain.py`) does the work the way the released trainer does. Both sides take turns in one process "
        "and must come to the same losses (1e-5), gradients (1e-3) and pictures (1 of 255) first. A step is "
        f"{len(content['middles'])} micro-steps, judged at m = {', '.join(map(str, content['middles']))}. Evaluations "
        "are an image and micro-step, of the sweep an image of all six k (the released code makes 392, a stray guided "
        "step more). Seconds are medians of n repetitions, without the time that compiling takes. `over the bare "
        "calls` is the processor time beyond that of the calls of the networks alone, made again on the same inputs. "
        "With gradients joined (`finetune.gradient_batch`), predictions with gradient are made at once for all.\n"
    )
    median = statistics.median
    yield from table(
        ("work", "batch", "plain", "ours", "times as fast", "by processor time", "over the bare calls",
         "evaluations, plain", "ours", "ratio", "n"),
        [
            (named(row), row["batch"], f"{median(row['plain_seconds']):.2f} s", f"{median(row['seconds']):.2f} s",
             f"**{row['ratio']:.2f}**", f"{row['cpu_ratio']:.2f}", over_bare(row), f"{row['plain_evaluations']:g}",
             f"{row['evaluations']:g}", f"{row['evaluation_ratio']:.2f}", len(row["seconds"]))
            for row in content["rows"]
        ],
    )  # fmt: skip
    for row in content["rows"]:
        if row["name"] == "sweep":
            off = [100 * (row[name] / row["evaluation_ratio"] - 1) for name in ("ratio", "cpu_ratio")]
            yield (
                f"The ratio of seconds of the {named(row)} in batches of {row['batch']} is {off[0]:+.0f} % off its "
                f"ratio of evaluations, that of processor time {off[1]:+.0f} %.\n"
            )


def named(row: Content) -> str:
    """What was done, and how."""
    joined = ", gradients joined" if row.get("joined") else ""
    return f"{row['name']}{joined}{', compiled' if row['compiled'] else ''}"


def over_bare(row: Content) -> str:
    """Processor time beyond that of the bare network calls."""
    return "" if row.get("over_bare") is None else f"{100 * (row['over_bare'] - 1):+.0f} %"


def released(content: Content) -> Iterator[str]:
    """Training steps and the sweep against the released trainers themselves, which are not part of this project."""
    yield "## Beside the released code\n"
    code = " and ".join(f"{name} {at}" for name, at in content["releases"].items())
    yield (
        f"The released trainers themselves, {code}, with stubs for trackers, data sets and weights, against this "
        f"project at {content['commit']}, in one process and in turns ({content['measured']}; one thread, float32, "
        "random networks of Stable Diffusion 1.5's shape, 32 channels and latents of 16 x 16, or 8 and 8 x 8 for the "
        f"column `narrow`; processor seconds, {content['repetitions']} repetitions; ImageReFL was measured twice). "
        f"Losses agree to {content['loss']:g}, gradients to {content['gradient']:g}, images of the sweep are the same "
        "for k above 0. The released trainers are not in this repository: `make bench` does not measure this anew.\n"
    )
    yield from table(
        ("work", "released", "ours", "times as fast", "narrow", "evaluations, released", "ours"),
        [
            (row["work"], f"{theirs:.2f} s", f"{ours:.2f} s", f"**{theirs / ours:.2f}**", row["narrow"] or "",
             *row["evaluations"])
            for row in content["rows"]
            for theirs, ours in zip(row["released"], row["ours"], strict=True)
        ],
    )  # fmt: skip


def studies(content: Content) -> Iterator[str]:
    """Whole studies from nothing."""
    yield "## Whole studies\n"
    yield machine(content)
    for study in content["studies"]:
        yield (
            f"**{study['study']}**: {study['seconds']:.0f} s from nothing, {study['planning_seconds']:.1f} s to plan, "
            f"{study['repeat_seconds']:.1f} s with nothing to do, {study['memory_mb']:.0f} MB in the largest job.\n"
        )
        rules: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for job in study["jobs"]:
            rules[job["rule"]].append(job)
        busy = sum(job["seconds"] for job in study["jobs"])
        rows = sorted(rules.items(), key=lambda item: -sum(job["seconds"] for job in item[1]))
        yield from table(
            ("stage", "jobs", "seconds in all", "share", "longest job", "largest memory"),
            [
                (name, len(jobs), f"{(own := sum(job['seconds'] for job in jobs)):.0f}", f"{100 * own / busy:.0f} %",
                 f"{max(job['seconds'] for job in jobs):.0f} s", f"{max(job['memory_mb'] for job in jobs):.0f} MB")
                for name, jobs in rows
            ],
        )  # fmt: skip


def curation(content: Content) -> Iterator[str]:
    """Curation in rows."""
    yield "## Curation in rows\n"
    yield machine(content)
    yield f"All text filters on, {content['cores']} cores (`python -m benchmarks.curation`).\n"
    yield from table(
        ("rows", "of", "seconds", "CPU seconds", "memory", "kept"),
        [
            (f"{run['rows']:,}", run["what"], f"{run['seconds']:.1f}", f"{run['cpu_seconds']:.1f}",
             f"{run['memory_mb']:.0f} MB", f"{run['kept']:,}")
            for run in content["runs"]
        ],
    )  # fmt: skip
    yield from powers(content["exponents"])


ROWS = {
    "measure": "images of one run in 20 settings, 5 a prompt, judged by a rule that costs nothing",
    "report": "rows of measures of a study of 4 runs",
    "sets": "images of one setting, every set metric with its interval, on features of 64 numbers",
}


def rows(content: Content) -> Iterator[str]:
    """Measuring and reporting in rows."""
    yield "## Measure and report in rows\n"
    yield machine(content)
    known = [what for what in ROWS if any(run["what"] == what for run in content["runs"])]
    about = "; ".join(f"{what}: {ROWS[what]}" for what in known)
    yield f"{about} ({content['cores']} cores, `python -m benchmarks.rows`).\n"
    yield from table(
        ("rows", "of", "seconds", "CPU seconds", "memory"),
        [
            (f"{run['rows']:,}", run["what"], f"{run['seconds']:.1f}", f"{run['cpu_seconds']:.1f}",
             f"{run['memory_mb']:.0f} MB")
            for what in known
            for run in sorted(content["runs"], key=lambda run: run["rows"])
            if run["what"] == what
        ],
    )  # fmt: skip
    yield from powers(content["exponents"])
    if "sets" in known:
        yield "Set metrics compare every image with every other, so their time grows with the square of a setting.\n"


def powers(exponents: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The fitted exponents."""
    for what, found in exponents.items():
        yield f"{what}: " + "; ".join(f"{name} grow as rows^{power:.2f}" for name, power in found.items()) + ".\n"


def planning(content: Content) -> Iterator[str]:
    """Planning in jobs."""
    yield "## Planning large studies\n"
    yield machine(content)
    yield "A dry run of a generated study, nothing built yet (`python -m benchmarks.planning`).\n"
    yield from table(
        ("runner", "jobs", "seconds", "CPU seconds", "memory"),
        [
            (plan["runner"], f"{plan['jobs']:,}", f"{plan['seconds']:.1f}", f"{plan['cpu_seconds']:.1f}",
             f"{plan['memory_mb']:.0f} MB")
            for plan in content["plans"]
        ],
    )  # fmt: skip
    for runner, power in content["exponents"].items():
        if power is not None:
            yield f"{runner}: CPU seconds grow as jobs^{power:.2f} between the two largest.\n"


def slurm(content: Content) -> Iterator[str]:
    """A study through Slurm."""
    yield "## Through Slurm\n"
    yield machine(content)
    yield (
        f"{content['study']} through a {content['slurm']} of one node: {content['slurm_seconds']} s, without "
        f"{content['local_seconds']} s (`python -m benchmarks.slurm`).\n"
    )
    yield from table(
        ("job", "state", "waited", "seconds"),
        [
            (job["job"], job["state"], f"{job['waited_seconds']:.0f} s", f"{job['seconds']:.0f}")
            for job in content["jobs"]
        ],
    )


def tilt(content: Sequence[Content]) -> Iterator[str]:
    """How far the results of searches are from the tilted law, by candidates."""
    yield "## Searches and the tilted law\n"
    counts = sorted({row["candidates"] for row in content})
    yield (
        f"Total variation of the rewards of {content[0]['count']} independent searches from p exp(lambda r) / Z on a "
        "mixture of Gaussians where that law is known, by the number of particles, candidates or rollouts "
        "(`python -m benchmarks.tilt`; [what it means](sampling.md)).\n"
    )
    found = {(row["search"], row["candidates"]): f"{row['distance']:.3f}" for row in content}
    names = dict.fromkeys(row["search"] for row in content)
    head = ("search", *map(str, counts))
    yield from table(head, [(name, *(found.get((name, count), "") for count in counts)) for name in names])


def searches(content: Content) -> Iterator[str]:
    """What searches take beside what they count, worst first."""
    yield "## Searches and what they count\n"
    yield machine(content)
    images, size = content["rows"][0]["images"], content["shape"]
    yield (
        f"{images} images by each search, {content['steps']} steps, batches of {size['batch']}, on a small random "
        f"Stable Diffusion 1.5 ({size['width']} channels, latents of side {size['latent']}). Seconds of the processor, "
        "beside those of its evaluations, decodings and reward queries by themselves in full batches; aimed at are "
        "ratios of at most 1.15 (`python -m benchmarks.searches`).\n"
    )
    rows = sorted(content["rows"], key=lambda row: -row["ratio"])
    names = ("nfe", "nfe_backward", "decodes", "queries")
    head = ("search", "evaluations", "with gradient", "decodings", "queries", "seconds", "of the counts", "ratio")
    yield from table(head, [
        (row["search"], *(f"{row['counts'][name]}" for name in names), f"{statistics.median(row['seconds']):.2f}",
         f"{row['priced']:.2f}", f"{row['ratio']:.2f}")
        for row in rows
    ])  # fmt: skip


def pairs(content: Content) -> Iterator[str]:
    """Learning from pairs against the plain reference, and encoding once."""
    shape, median = content["shape"], statistics.median
    each = content["encode_seconds"] / content["encoded_pairs"]
    yield "## Learning from pairs\n"
    yield machine(content)
    yield (
        "An optimizer step of Diffusion-DPO (gradient, without the update), against a plain reference "
        "(`benchmarks/plain_pairs.py`) that works as released trainers do: two complete networks in memory, "
        f"prompts and both images of every pair encoded in every step. Networks as above, of {shape['width']} "
        f"channels and latents of {shape['latent']} x {shape['latent']}; the autoencoder has "
        f"{', '.join(map(str, shape['autoencoder']))} channels, about Stable Diffusion 1.5's proportion to the UNet, "
        "which decides what encoding costs. Losses and gradients (1e-3; half of beta multiplies rounding) must agree "
        "first, with a policy that has left the base. All weights are trained (`python -m benchmarks.pairs`).\n"
    )
    yield from table(
        ("pairs a step", "micro-batches, plain", "ours", "plain", "ours", "times as fast", "by processor time", "n"),
        [
            (row["pairs"], row["plain_micro"], row["micro"], f"{median(row['plain_seconds']):.2f} s",
             f"{median(row['seconds']):.2f} s", f"{row['ratio']:.2f}", f"**{row['cpu_ratio']:.2f}**",
             len(row["seconds"]))
            for row in content["rows"]
        ],
    )  # fmt: skip
    repaid = max(row["repaid"] for row in content["rows"] if row["repaid"] is not None)
    yield (
        f"Encoding is counted apart: {content['encoded_pairs']} pairs took {content['encode_seconds']:.2f} s of the "
        f"processor once, {each:.3f} s a pair, prompts included. It has paid after a pair was trained on {repaid:.1f} "
        "times at most. With equal micro-batches the gain is that of encoding alone; the clock counts what else the "
        "machine does. The last row is the release's start (a pair at a time, gradients accumulated) against all pairs "
        "of the step at once, which needs the memory for it.\n"
    )


def mutants(content: Content) -> Iterator[str]:
    """How many of the faults that were put into the code the tests noticed, and which they did not."""
    faults, listed = content["faults"], content["listed"]
    missed = [row for row in faults if not row["noticed"]]
    seen = len(faults) - len(missed)
    share = math.floor(100 * seen / max(1, len(faults)))
    yield "## Faults that the tests notice\n"
    yield (
        f"`tests/mutants/mutants.toml` lists {listed} small faults in the code: an exchanged wire, a lost factor, a "
        "wrong sign. `make mutants` puts one after another into a copy of the tree and runs the tests that should "
        f"notice. **{seen} of {len(faults)}** were noticed, {share} %. A fault that goes unnoticed gets a test, so the "
        "number says that these tests hold, not how many other faults they would notice.\n"
    )
    if listed > len(faults):
        yield f"{listed - len(faults)} were not tried.\n"
    if missed:
        yield "Not noticed:\n"
        yield from (f"- `{row['file']}`: `{row['old'].strip()}` became `{row['new'].strip()}`" for row in missed)
        yield ""


SECTIONS: dict[str, Callable[[Any], Iterator[str]]] = {
    "steps": steps, "pairs": pairs, "released": released, "studies": studies, "curation": curation, "rows": rows,
    "planning": planning, "slurm": slurm, "tilt": tilt, "searches": searches, "mutants": mutants,
}  # fmt: skip
"""Results files by name, in the order of the page."""


if __name__ == "__main__":
    main()
