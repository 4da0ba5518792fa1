"""The tag that MLflow's list of saved views reads."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

from sweeper.config.keys import searchable_keys
from sweeper.track.mlflow_saved_view import saved_view
from tests.track.builders import study


def unpack(study_record):
    envelope = json.loads(saved_view(study_record))
    kind, packed = envelope["state"].split(";")
    assert kind == "deflate"
    assert isinstance(envelope["name"], str)
    assert isinstance(envelope["createdAt"], int)
    return json.loads(zlib.decompress(base64.b64decode(packed)))


@pytest.mark.parametrize(("direction", "ascending"), [("maximize", False), ("minimize", True)])
def test_the_best_trials_come_first(direction, ascending):
    state = unpack(study(direction=direction))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`final/accuracy`", ascending)


def test_searched_params_and_the_state_are_columns():
    columns = unpack(study())["selectedColumns"]
    assert {"params.`lora.r`", "params.`train.learning_rate`", "params.`lora.alpha`", "tags.`state`"} <= set(columns)


def test_each_dimension_is_plotted_against_the_score():
    charts = unpack(study())["compareRunCharts"]
    axes = [chart["xaxis"]["key"] for chart in charts if chart["type"] == "SCATTER"]
    assert axes == ["log2.lora.r", "log10.train.learning_rate", "cost/device_s"]


def test_every_chart_lies_in_a_section():
    state = unpack(study())
    assert {c["metricSectionId"] for c in state["compareRunCharts"]} <= {s["uuid"] for s in state["compareRunSections"]}


def test_the_largest_space_fits_a_tag():
    space = dict.fromkeys(searchable_keys(), "tag(log,interval(0.001,0.1))")
    assert len(saved_view(study(space=space))) < 5000  # MLflow's limit for tags of experiments
