"""Saved views in MLflow's page of a study, so that a comparison is one click and not twenty.

MLflow keeps a saved view as a tag of the experiment, `mlflow.sharedViewState.<id>`: a name and the state of the page as
JSON. The keys of that were read off MLflow 3.17; an MLflow that does not know one leaves that part as it is by default.
"""

from __future__ import annotations

import json
import time
from typing import Any

from stages.lineage.store import Connection

TAG = "mlflow.sharedViewState."
COMPARE, JOBS = "compare", "jobs"
NOTE = "mlflow.note.content"
EVALUATED = {"evaluated": "yes", "mlflow.runType": "evaluation"}
"""Tags of the runs that hold final measures; the second one makes MLflow show a study unfolded."""
RUNS_PAGE = "#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={view}"


def describe(connection: Connection, description: str) -> None:
    """Give a new experiment a line about it with links to its views, and the list of all jobs as a view."""
    if NOTE in connection.client.get_experiment(connection.experiment).tags:
        return
    links = " | ".join(
        f"[{title}]({RUNS_PAGE.format(experiment=connection.experiment, view=view)})"
        for title, view in (("Compare methods", COMPARE), ("All jobs", JOBS))
    )
    connection.client.set_experiment_tag(
        connection.experiment, NOTE, f"{description} | {links}" if description else links
    )
    columns = [
        *("attributes.`Source`", "attributes.`Dataset`", "tags.`stage`", "tags.`method`", "tags.`seed`"),
        *("metrics.`job/seconds`", "metrics.`job/peak_memory_mb`", "tags.`git_sha`"),
    ]
    # Sorted by time MLflow would fold the jobs into their parent.
    state = {"orderByKey": "tags.`mlflow.runName`", "orderByAsc": True, "selectedColumns": columns}
    _save(connection, JOBS, "All jobs", state)


def compare(connection: Connection, metrics: list[str], reward: str, heldout: str) -> None:
    """Save the view that sets the trained runs side by side.

    `metrics` are legal names of final measures, `tuned/proxy` or `combined k10/proxy`. Columns are the measures of the
    tuned model alone, the training reward and the held-out one first; charts are the rewards against each diversity.
    """
    tuned = sorted((m for m in metrics if m.startswith("tuned/")), key=lambda m: _rank(m, reward, heldout))
    if not tuned:
        return
    columns = [*(f"metrics.`{name}`" for name in tuned), "tags.`method`", "tags.`seed`"]
    diversities = [name for name in tuned if _rank(name, reward, heldout) == 2]
    rewards = [name for name in tuned if _rank(name, reward, heldout) < 2]
    state: dict[str, Any] = {
        "searchFilter": "tags.evaluated = 'yes'",
        "orderByKey": f"metrics.`{tuned[0]}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {column: max(80, 7 * len(column) - 30) for column in columns},
    }
    if rewards and diversities:
        section = "frontier"
        state |= {
            "compareRunSections": [{"uuid": section, "name": "Reward against diversity", "display": True}],
            "isAccordionReordered": True,
            "compareRunCharts": [_scatter(section, x, y) for y in rewards for x in diversities],
        }
    _save(connection, COMPARE, "Compare methods", state)


def _rank(metric: str, reward: str, heldout: str) -> int:
    """Training reward, held-out reward, diversities, the rest."""
    name = metric.rpartition("/")[2]
    if name in (reward, heldout):
        return 0 if name == reward else 1
    return 2 if name.endswith("diversity") else 3


def _scatter(section: str, x: str, y: str) -> dict[str, Any]:
    return {
        "type": "SCATTER",
        "uuid": f"{section} {x} {y}",
        "metricSectionId": section,
        "displayName": f"{y} against {x.rpartition('/')[2]}",
        "xaxis": {"key": x, "type": "METRIC"},
        "yaxis": {"key": y, "type": "METRIC"},
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
    }


def _save(connection: Connection, view: str, name: str, state: dict[str, Any]) -> None:
    text = json.dumps(state)
    there = connection.client.get_experiment(connection.experiment).tags.get(TAG + view)
    if there is None or json.loads(there)["state"] != text:
        now = int(time.time() * 1000)
        value = json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": text})
        connection.client.set_experiment_tag(connection.experiment, TAG + view, value)
