"""The dashboards are what Grafana's own models say, and ask only for what there is."""

from __future__ import annotations

import re

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.models import dashboard
from promql import every_query, panels
from unit.monitoring.conftest import boards

from trainingrun_operator.exporter import catalogue

BOARDS = pytest.mark.parametrize("board", boards().values(), ids=boards())
BEYOND_THE_MODEL = ("useValueForTime", "titleFormat", "textFormat")
"""Of annotations: written by the datasource's editor in Grafana, and no field of the SDK 11.6."""


@BOARDS
def test_a_dashboard_survives_the_models_of_grafana_11(tools, board):
    plugins.register_default_plugins()
    again = tools["document"].plain(dashboard.Dashboard.from_json(board))
    for mark in board["annotations"]["list"]:
        assert [mark.pop(key) for key in BEYOND_THE_MODEL]
    assert again == board


@BOARDS
def test_a_dashboard_asks_only_for_metrics_that_the_operator_exports(board):
    exported = {metric.name for metric in catalogue()}
    exported |= {
        f"{metric.name}_{part}"
        for metric in catalogue()
        if metric.kind == "histogram"
        for part in ("bucket", "sum", "count")
    }
    asked = {name for query in every_query(board) for name in re.findall(r"\btrainingrun_\w+", query.expr)}
    assert asked
    assert asked <= exported


def test_between_them_the_dashboards_show_every_metric_of_a_run():
    asked = {
        name
        for board in boards().values()
        for query in every_query(board)
        for name in re.findall(r"\btrainingrun_\w+", query.expr)
    }
    of_runs = {metric.name for metric in catalogue() if metric.labels[:2] == ("namespace", "name")}
    # When a run was over is seen where its series end; its status is the reason by which the fleet counts.
    assert of_runs - asked <= {"trainingrun_completion_time_seconds", "trainingrun_termination_status"}


@BOARDS
def test_every_panel_says_what_it_shows_and_asks_the_one_datasource(board):
    for panel in panels(board):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@BOARDS
def test_panels_have_numbers_of_their_own(board):
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)


@BOARDS
def test_panels_fill_rows_and_never_overlap(board):
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_starts_stops_and_checkpoints_are_marked_on_both():
    for board in boards().values():
        marks = board["annotations"]["list"]
        assert [mark["name"] for mark in marks] == ["Started", "Stop decided", "Checkpoint proven"]
        assert all(mark["useValueForTime"] and mark["expr"].endswith("* 1000") for mark in marks)


def test_a_run_is_found_from_the_fleet_and_the_fleet_from_a_run():
    fleet, run = boards()["fleet"], boards()["run"]
    assert f"/d/{run['uid']}?var-namespace=" in str(fleet)
    assert [link["url"] for link in run["links"]] == [f"/d/{fleet['uid']}"]
    assert [variable["name"] for variable in run["templating"]["list"]] == ["namespace", "name"]
