"""The interactive charts in Vega-Lite's grammar, without their data, and the library that draws them in a browser."""

from __future__ import annotations

import functools
from typing import Any

from stages.about import LineStyle

SHAPES = {
    "o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left",
    ">": "triangle-right", "D": "diamond", "P": "cross",
    "X": "M-.7,-1L0,-.3L.7,-1L1,-.7L.3,0L1,.7L.7,1L0,.3L-.7,1L-1,.7L-.3,0L-1,-.7Z",
    "h": "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",
    "*": "M0,-1.5L.35,-.5L1.4,-.46L.57,.2L.88,1.2L0,.6L-.88,1.2L-.57,.2L-1.4,-.46L-.35,-.5Z",
}  # fmt: skip
"""Markers of matplotlib as shapes of Vega: a name, or the outline as an SVG path."""
DASHES = {"-": [1.0, 0.0], "--": [6.0, 4.0], ":": [2.0, 3.0], "-.": [7.0, 3.0, 2.0, 3.0]}


PANEL_GAP = 75
"""Pixels between panels of the tape, with the labels of an axis in them; the page makes panels as much narrower."""


def shape(marker: str) -> str:
    """The shape of a marker of matplotlib; a circle for one that has none."""
    return SHAPES.get(marker, "circle")


def dash(line: LineStyle) -> list[float]:
    """Lengths of dashes and gaps in pixels."""
    return DASHES[line] if isinstance(line, str) else [2 * length for length in line[1]]


@functools.cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which loads nothing and sets `vegaEmbed`."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def frontier() -> dict[str, Any]:
    """Reward against diversity. The page fills in three data sets: `lines`, `points` (with intervals) and `chosen`."""
    x, y = (
        {"field": axis, "type": "quantitative", "scale": {"zero": False}, "axis": {"title": ""}} for axis in ("x", "y")
    )
    own = {name: {"field": name, "type": "nominal", "scale": None} for name in ("colour", "shape", "fill", "dash")}
    colour = own["colour"]
    return {
        "width": "container",
        "height": 420,
        "autosize": {"type": "fit", "contains": "padding"},
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "data": {"name": "lines"},
                "mark": {"type": "line", "strokeWidth": 1.5, "aria": False},
                "encoding": {"detail": {"field": "line"}, "order": {"field": "order"}, "color": colour,
                             "strokeDash": own["dash"]},
            },
            *(
                {
                    "data": {"name": "points"},
                    "mark": {"type": "rule", "opacity": 0.3, "aria": False},
                    "encoding": {axis: {"field": f"{axis}_low"}, f"{axis}2": {"field": f"{axis}_high"},
                                 "color": colour},
                }
                for axis in ("x", "y")
            ),
            {
                "data": {"name": "chosen"},
                "mark": {"type": "point", "size": 380, "strokeWidth": 2.5, "aria": False},
                "encoding": {"color": colour, "opacity": {"field": "ring", "type": "quantitative", "scale": None}},
            },
            {
                "name": "points",
                "data": {"name": "points"},
                "mark": {"type": "point", "size": 75, "strokeWidth": 1.5, "cursor": "pointer"},
                "encoding": {
                    "shape": own["shape"], "stroke": colour, "fill": own["fill"],
                    "description": {"field": "words"},
                    "tooltip": [{"field": name, "type": "nominal"} for name in ("point", "reward", "diversity")],
                },
            },
        ],
    }  # fmt: skip


def tape() -> dict[str, Any]:
    """The probe of a run over optimizer steps, one panel per term, and a line across all of them at the peak of the
    held-out reward, and at the step `at` whose pictures are shown. The page fills in `shots`, `peak` and `at`, and the
    size of a panel, and reads the step under the pointer from the data set `near_store`.
    """
    step = {"field": "step", "type": "quantitative", "axis": {"title": "optimizer step"}}
    value = {"field": "value", "type": "quantitative", "scale": {"zero": False}, "axis": {"title": ""}}
    return {
        "data": {"name": "shots"},
        "facet": {"field": "panel", "type": "nominal", "sort": None, "title": "", "header": {"labelFontSize": 13}},
        # Every panel has its own axis of steps: a shared one is drawn under each column, also where that has no panel.
        "resolve": {"scale": {"y": "independent"}, "axis": {"x": "independent"}},
        "bounds": "flush",
        "spacing": {"column": PANEL_GAP, "row": 84},
        "spec": {
            "height": 130,
            "layer": [
                {
                    "data": {"name": "peak"},
                    "mark": {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 1.5, "opacity": 1,
                             "color": "#b3261e"},
                    "encoding": {"x": step},
                },
                {
                    "data": {"name": "at"},
                    "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.55, "color": "#777777"},
                    "encoding": {"x": step},
                },
                {
                    "mark": {"type": "line", "color": "#0072b2"},
                    "encoding": {"x": step, "y": value},
                },
                {
                    "params": [{"name": "near", "select": {"type": "point", "on": "pointerover", "nearest": True,
                                                           "encodings": ["x"], "clear": False}}],
                    "mark": {"type": "point", "filled": True, "opacity": 1, "size": 30, "color": "#0072b2"},
                    "encoding": {
                        "x": step, "y": value,
                        "tooltip": [{"field": "step", "type": "quantitative"}, {"field": "value", "format": ".4"}],
                    },
                },
            ],
        },
    }  # fmt: skip
