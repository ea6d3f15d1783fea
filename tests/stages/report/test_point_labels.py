"""Labels beside points: none on another or on a point, in the wished direction where there is room."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from stages.report import style
from stages.report.point_labels import Label, place


@pytest.fixture
def axes() -> Iterator[Axes]:
    style.use()
    figure, made = plt.subplots(figsize=(4, 3))
    made.set(xlim=(0, 10), ylim=(0, 10))
    yield made
    plt.close(figure)


def written(axes: Axes) -> list[Annotation]:
    return [text for text in axes.texts if isinstance(text, Annotation)]


def test_a_lone_label_stands_where_it_wishes(axes: Axes) -> None:
    for toward, (right, up) in {"ne": (1, 1), "sw": (-1, -1), "s": (0, -1)}.items():
        place(axes, [Label("7", 5, 5, "black", toward)], [])
        across, above = written(axes)[-1].xyann
        assert (across > 0) - (across < 0) == right
        assert (above > 0) - (above < 0) == up


def test_a_taken_place_sends_a_label_elsewhere(axes: Axes) -> None:
    blocked = axes.transData.inverted().transform(axes.transData.transform((5, 5)) + 10)
    (label,) = place(axes, [Label("7", 5, 5, "black", "ne")], [(5, 5), (blocked[0], blocked[1])])
    assert label.text == "7"
    across, above = written(axes)[0].xyann
    assert across <= 0 or above <= 0


def test_crowded_labels_do_not_overlap_and_the_first_ones_win(axes: Axes) -> None:
    labels = [Label(f"k{n}", 5 + n / 50, 5, "black", "ne") for n in range(30)]
    kept = place(axes, labels, [(label.x, label.y) for label in labels])
    assert 2 <= len(kept) < 30
    assert kept[0] is labels[0]
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in written(axes)]
    assert len(boxes) == len(kept)
    assert not any(a.shrunk(0.8, 0.6).overlaps(b.shrunk(0.8, 0.6)) for a, b in combinations(boxes, 2))
