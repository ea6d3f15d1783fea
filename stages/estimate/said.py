"""What the estimate says: hours, memory and disk in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.estimate.trial import Sampling, Training
    from stages.sample.meter import Cost


def said(trained: list[Training], runs: Counter[str], made: Sampling) -> str:
    """The tables and the sum, as printed."""
    lines = [f"{'training':<24}{'runs':>6}{'steps':>8}{'a run':>12}{'all runs':>12}{'memory':>12}"]
    for one in trained:
        lines.append(
            f"{one.method:<24}{runs[one.method]:>6}{one.steps:>8,}{duration(one.seconds):>12}"
            f"{duration(one.seconds * runs[one.method]):>12}{one.memory_mb:>9,.0f} MB"
        )
    count = runs.total()
    lines += [
        "", f"{'sampling':<24}{'runs':>6}{'images':>8}{'a run':>12}{'all runs':>12}"
        f"{'evaluations':>14}{'with gradient':>15}{'queries':>12}",
        _sampling("base", 1, made.base_images, made.base_seconds, made.base_cost),
        _sampling("each run", count, made.run_images, made.run_seconds, made.run_cost),
    ]  # fmt: skip
    seconds = sum(one.seconds * runs[one.method] for one in trained)
    seconds += made.base_seconds + made.run_seconds * count
    weights = sum(one.weights_mb * runs[one.method] for one in trained)
    images = made.image_mb * (made.base_images + made.run_images * count)
    disk = weights + images + made.latents_mb
    lines += [
        "", f"in all {duration(seconds)} {'of this GPU' if made.device == 'cuda' else 'here'}, one job after another, "
        "without measuring, scoring and the report",
        f"{disk / 1024:,.1f} GB on disk: policies {weights:,.0f} MB, images {images:,.0f} MB, latents "
        f"{made.latents_mb:,.0f} MB",
    ]  # fmt: skip
    return "\n".join(lines)


def _sampling(name: str, runs: int, images: int, seconds: float, cost: Cost) -> str:
    """A line of the second table; evaluations and queries are those of all images of one job."""
    return (
        f"{name:<24}{runs:>6}{images:>8,}{duration(seconds):>12}{duration(seconds * runs):>12}"
        f"{cost.nfe:>14,}{cost.nfe_backward:>15,}{cost.queries:>12,}"
    )


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
