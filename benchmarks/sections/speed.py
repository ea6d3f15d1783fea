"""Sections on speed: training steps, the sweep, pairs and searches beside other code or beside what they count."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.sections.markdown import Content, machine, table


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
        "are counted per image and micro-step, those of the sweep per image over all six k (the released code makes "
        "392: one stray guided step more). Seconds are medians of n repetitions by the clock, which counts what else "
        "the machine does, without the time that compiling takes. `over the bare calls` is the processor time beyond "
        "that of the calls of the networks alone, made again on the same inputs. "
        "With gradients joined (`finetune.gradient_batch`), predictions with gradient are made at once for all.\n"
    )
    yield from _rows(content)


def steps_before(content: Content) -> Iterator[str]:
    """The same of an earlier commit on another processor: gradients are not joined, and compiled steps are there."""
    yield f"## Steps and the sweep at {content['commit']}\n"
    yield machine(content)
    yield (
        "The same work before the trainer was rewritten, without and with `compile: true`. Gradients could not be "
        "joined then, and the bare calls were not timed.\n"
    )
    yield from _rows(content)


def _rows(content: Content) -> Iterator[str]:
    median = statistics.median
    yield from table(
        ("work", "batch", "plain", "ours", "times as fast", "by processor time", "over the bare calls",
         "evaluations, plain", "ours", "ratio", "n"),
        [
            (named(row), row["batch"], f"{median(row['plain_seconds']):.2f} s", f"{median(row['seconds']):.2f} s",
             f"{row['ratio']:.2f}", f"**{row['cpu_ratio']:.2f}**", over_bare(row), f"{row['plain_evaluations']:g}",
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
        ("pairs per step", "micro-batches, plain", "ours", "plain", "ours", "times as fast", "by processor time", "n"),
        [
            (row["pairs"], row["plain_micro"], f"{row['micro']}{', joined' if row['joined'] else ''}",
             f"{median(row['plain_seconds']):.2f} s", f"{median(row['seconds']):.2f} s", f"{row['ratio']:.2f}",
             f"**{row['cpu_ratio']:.2f}**", len(row["seconds"]))
            for row in content["rows"]
        ],
    )  # fmt: skip
    repaid = max(row["repaid"] for row in content["rows"] if row["repaid"] is not None)
    yield (
        f"Encoding is counted apart: {content['encoded_pairs']} pairs took {content['encode_seconds']:.2f} s of the "
        f"processor once, {each:.3f} s a pair, prompts included. It has paid after a pair was trained on {repaid:.1f} "
        "times at most. Without joining the gain is that of encoding alone. Joined, all micro-batches of the step are "
        "evaluated at once, to the same losses and gradients (`finetune.gradient_batch`), which needs the memory for "
        "it; 16 micro-batches are the release's start, one pair at a time. The clock counts what else the "
        "machine does.\n"
    )


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


def paint(content: Content) -> Iterator[str]:
    """How long a browser takes to open the page of a report."""
    yield "## Opening the page of a report\n"
    yield machine(content)
    yield (
        f"The page of `{content['page']}`, {content['megabytes']:.1f} MB, opened in a headless Chromium "
        f"{len(content['openings'])} times (`python -m benchmarks.paint`); seconds since the navigation, and of the "
        "processor for the page's main thread until all is drawn. The section *Explore* is made when the rest stands.\n"
    )
    names = {"painted": "first paint", "parsed": "parsed", "explored": "Explore drawn", "thread": "processor"}
    times = {name: [one[name] for one in content["openings"]] for name in names}
    yield from table(("", "median", "least", "most"), [
        (words, *(f"{pick(times[name]):.2f}" for pick in (statistics.median, min, max)))
        for name, words in names.items()
    ])  # fmt: skip
