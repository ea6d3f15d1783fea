"""The frontier at equal cost: which reward and diversity are to be had for a budget per image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.report.affordable import affordable, budgets, mean, of_network, pair, place, within
from stages.report.figure import FigureAbout
from stages.report.gaps import unbeaten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from stages.report.affordable import Budget
    from stages.report.data import ReportData

ABOUT = FigureAbout(
    "Reward against diversity at equal cost",
    files=("equal_cost.svg", "equal_cost.png"),
    table="plots/equal_cost.csv",
    section="cost",
    kept=True,
    place=41,
    alt="Reward against diversity within a budget per image, in a panel per way to count and budget.",
)


def caption(data: ReportData) -> str:
    """What is affordable, and how to read the line."""
    named = data.study.report.budgets
    from stages.report import cost_panels

    apart = (
        "A column per network, a row per budget: a strategy has one colour on all of them. The dotted line is the "
        "frontier of the network's own points, the broad one that of all networks at this cost. "
    )
    together = (
        "The grey line is the frontier at this cost, through the points that are not beaten: no other one of the panel "
        "has more of one and no less of the other. "
    )
    where = "report.budgets" if named else "what the yardstick, the best of several images of the base, spends"
    return (
        f"Budgets are {where}. A panel shows, of every method and strategy, the settings whose images cost at most "
        "its budget: the dearest of them large, cheaper ones small. "
        f"{apart if cost_panels.crowded(data) else together}Further up is more reward, "
        "further right more diversity. Training is not counted; an evaluation with gradient counts as three. "
        "Strategies that ask no reward are within every budget of queries. Points have no intervals here; the figure "
        "of costs has some."
    )


def shown(data: ReportData) -> bool:
    """Only where there is a budget, and something that could keep to it."""
    from stages.report.cost_curves import curves

    return bool(budgets(data)) and bool(curves(data))


def draw(data: ReportData) -> Figure:
    """A row of panels per way to count, a column per budget; where there are many lines, a row per budget and a column
    per network.
    """
    from stages.report import cost_panels, equal_panels, legend, style

    if cost_panels.crowded(data):
        return equal_panels.draw(data)
    style.use()
    import matplotlib.pyplot as plt

    rows, (reward, diversity) = budgets(data), pair(data)
    columns = max(map(len, rows))
    size = (3.3 * columns + 0.6, 3.0 * len(rows) + 0.4)
    figure, grid = plt.subplots(len(rows), columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for panels, row in zip(grid, rows, strict=True):
        for axes in panels[len(row) :]:
            axes.set_visible(False)
        for axes, budget in zip(panels, row, strict=False):
            _panel(axes, data, budget)
            axes.set_title(
                f"at most {budget.most:.3g} {budget.axis.label.removesuffix(' per image')}", fontsize="small"
            )
            axes.set_xlabel(data.look.axis(diversity))
        panels[0].set_ylabel(data.look.axis(reward))
    figure.align_ylabels()
    legend.arrange(figure, _handles(data))
    return figure


def rows(data: ReportData) -> list[dict[str, object]]:
    """Every affordable point of every budget: `dearest` of its curve or not, `frontier` where no other point of the
    budget has more of one of the pair and no less of the other, `frontier_of_method` where no other one of its network
    has.
    """
    report, found = data.study.report, list[dict[str, object]]()
    names = (*report.rewards, *report.diversities)
    for budget in (budget for row in budgets(data) for budget in row):
        curves = affordable(data, budget)
        points = within(data, budget, curves)
        best, dearest = set(unbeaten([place(data, p) for p in points])), [p for one in curves for p in one.dearest]
        own = {
            method: set(unbeaten([place(data, p) for p in of_network(points, method)]))
            for method in {point.method for point in points}
        }
        for point in points:
            found.append({
                "count": budget.axis.name, "budget": budget.most, "method": point.method, "strategy": point.strategy,
                "setting": data.evaluation.labels[point], "cost": budget.axis.of(data.evaluation.costs[point]),
                "dearest": point in dearest, "frontier": place(data, point) in best,
                "frontier_of_method": place(data, point) in own[point.method],
                **{name: mean(data, point, name) for name in names},
            })  # fmt: skip
    return found


def _panel(axes: Axes, data: ReportData, budget: Budget) -> None:
    from stages.report import equal_panels
    from stages.report.figures.cost import drawn

    curves = affordable(data, budget)
    for each in curves:
        equal_panels.marks(axes, data, each, {**drawn(data, each.curve), "linestyle": "none"})
    equal_panels.around(axes, data, within(data, budget, curves))


def _handles(data: ReportData) -> list[Line2D]:
    from matplotlib.lines import Line2D

    from stages.report.figures.cost import handles

    for line in (found := handles(data)):
        line.set_linestyle("none")
    front = Line2D([], [], color="0.6", linewidth=5, alpha=0.45, label="frontier within the budget")
    return [*found, front]
