"""A prepared view for MLflow's list of saved views: best trials first, useful columns, charts of hyperparameters.

MLflow's default runs page shows neither params nor metrics. A saved view is a tag of the experiment; its value is what
the page's *Save as new view* writes in mlflow 3.17. A release with another format ignores it. `mlflow_runs` sets the
tag, the experiment's note links to it.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from sweeper.figures.hyperparameters import ALPHA
from sweeper.track.mlflow_view import CHUNKS, axis_params
from sweeper.types import StudyRecord

__all__ = ["TAG", "VIEW_KEY", "artifact", "page", "saved_view"]

VIEW_KEY = "sweeper1"
"""Key of the view in links; a new format of the view gets a new key."""
TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
_HYPERPARAMETERS = "hyperparameters"
_SECTIONS = (_HYPERPARAMETERS, "validation", "train", "final", "best", "cost")


def page(experiment_id: str) -> str:
    """Return the link of the view relative to the server, in the page's mode for models (not for traces)."""
    return (
        f"#/experiments/{experiment_id}/runs?compareRunsMode=CHART&viewStateShareKey={VIEW_KEY}"
        "&workflowType=machine_learning"
    )


def artifact(experiment_id: str, run_id: str, name: str) -> str:
    """Return the link of a run's artifact relative to the server."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifactPath/{name}"


def saved_view(study: StudyRecord) -> str:
    """Return the value of the tag: a name, times of 0 (the same study gives the same text) and the packed state."""
    packed = base64.b64encode(zlib.compress(json.dumps(_state(study)).encode(), 9)).decode()
    return json.dumps({"name": "Best trials first", "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})


def _state(study: StudyRecord) -> dict[str, Any]:
    score = f"final/{study.metric.removeprefix('validation/')}"
    return {
        "searchFilter": "",
        "orderByKey": f"metrics.`{score}`",
        "orderByAsc": study.direction != "maximize",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": _columns(study, score),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": _charts(study, score),
        "compareRunSections": [_section(name) for name in _SECTIONS],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _columns(study: StudyRecord, score: str) -> list[str]:
    metrics = [score, score.replace("final/", "best/"), "cost/device_s"]
    params = [*study.space, ALPHA, "num_parameters"]
    return [
        *(f"metrics.`{name}`" for name in metrics),
        *(f"params.`{name}`" for name in dict.fromkeys(params)),
        *(f"tags.`{name}`" for name in ("state", "origin")),
        "attributes.`Models`",
    ]


def _charts(study: StudyRecord, score: str) -> list[dict[str, Any]]:
    """Return the charts of hyperparameters; MLflow adds the curves and bars of every metric to the other sections."""
    axes = axis_params(study)
    parallel = {"selectedParams": axes, "selectedMetrics": [score], "showAllRuns": True}
    cost = {"xaxis": _axis("cost/device_s", "METRIC"), "yaxis": _axis(score, "METRIC")}
    scatters = [{"xaxis": _axis(axis, "PARAM"), "yaxis": _axis(score, "METRIC")} for axis in axes]
    charts = [_chart("PARALLEL", **parallel), *(_chart("SCATTER", **scatter) for scatter in scatters)]
    hidden = _chart("LINE", metricKey=CHUNKS, deleted=True, isGenerated=True) | {"metricSectionId": _id("cost")}
    charts += [_chart("SCATTER", **cost), hidden]
    return [{**chart, "uuid": f"sweeper-chart-{index}"} for index, chart in enumerate(charts)]


def _chart(kind: str, **fields: Any) -> dict[str, Any]:
    common = {
        "runsCountToCompare": 100,
        "metricSectionId": _id(_HYPERPARAMETERS),
        "deleted": False,
        "isGenerated": False,
    }
    return {"type": kind, **common, **fields}


def _section(name: str) -> dict[str, Any]:
    known = {"display": True, "isReordered": True, "deleted": False, "isGenerated": name != _HYPERPARAMETERS}
    return {"uuid": _id(name), "name": name, **known}


def _id(section: str) -> str:
    return f"sweeper-section-{section}"


def _axis(key: str, kind: str) -> dict[str, str]:
    return {"key": key, "type": kind}
