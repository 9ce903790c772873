"""Queries and panels shared by both dashboards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard
from rules import DATASOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid=DATASOURCE)
GREEN, YELLOW, RED, BLUE, GREY = "green", "orange", "red", "blue", "text"


def query(expr: str, legend: str = "__auto", *, ref: str = "A", instant: bool = False) -> prometheus.Dataquery:
    """A PromQL query, as a range or an instant query."""
    one = prometheus.Dataquery().ref_id(ref).datasource(SOURCE).expr(expr).legend_format(legend)
    return one.instant() if instant else one.range()


def steps(*colours: tuple[float | None, str]) -> build.ThresholdsConfig:
    """Thresholds as (start value, colour); the first has no start."""
    thresholds = [dashboard.Threshold(value=value, color=colour) for value, colour in colours]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(thresholds)


def number(
    title: str,
    expr: str,
    description: str,
    *,
    unit: str = "short",
    span: int = 4,
    thresholds: build.ThresholdsConfig | None = None,
    decimals: int | None = None,
) -> stat.Panel:
    """A panel with one current number."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(query(expr, instant=True))
        .unit(unit)
        .span(span)
        .height(4)
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(thresholds or steps((None, GREY)))
        .no_value("-")
    )
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    title: str,
    queries: Mapping[str, str],
    description: str,
    *,
    unit: str = "short",
    span: int = 12,
    height: int = 8,
) -> timeseries.Panel:
    """Lines by legend."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(height)
        .line_width(2)
        .fill_opacity(5)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            options.VizLegendOptions()
            .show_legend(True)
            .placement(common.LegendPlacement.BOTTOM)
            .display_mode(common.LegendDisplayMode.LIST)
            .calcs([])
        )
        .tooltip(options.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    )
    for place, (legend, expr) in enumerate(queries.items()):
        panel.with_target(query(expr, legend, ref=chr(ord("A") + place)))
    return panel


def bars(
    title: str, queries: Mapping[str, str], description: str, *, unit: str = "short", span: int = 12
) -> timeseries.Panel:
    """Increase per interval, as stacked bars."""
    return (
        lines(title, queries, description, unit=unit, span=span)
        .draw_style(common.GraphDrawStyle.BARS)
        .stacking(options.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
        .fill_opacity(80)
        .line_width(0)
        .min(0)
        # A bar must contain a few scrapes; increase() needs at least two.
        .interval("5m")
    )


def areas(title: str, queries: Mapping[str, str], description: str, *, span: int = 12) -> timeseries.Panel:
    """Counts as stacked areas."""
    return (
        lines(title, queries, description, span=span)
        .stacking(options.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
        .fill_opacity(40)
        .line_interpolation(common.LineInterpolation.STEP_AFTER)
        .min(0)
    )


def phases(
    title: str, expr: str, description: str, colours: Mapping[str, str], *, span: int = 24
) -> statetimeline.Panel:
    """A timeline with one row per phase, coloured while the phase is current."""
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(query(expr, "{{phase}}"))
        .span(span)
        .height(6)
        .show_value(common.VisibilityMode.NEVER)
        .merge_values(True)
        .line_width(0)
        .fill_opacity(70)
        .row_height(0.8)
    )
    for phase, colour in colours.items():
        panel.override_by_name(
            phase, [dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})]
        )
    return panel


def colour(panel: timeseries.Panel, name: str, fixed: str, *, dashed: bool = False) -> timeseries.Panel:
    """Give one line a fixed colour."""
    wanted = [dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": fixed})]
    if dashed:
        wanted.append(dashboard.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [10, 10]}))
    return panel.override_by_name(name, wanted)


def choice(name: str, label: str, values: str, *, several: bool = False) -> build.QueryVariable:
    """A variable with values from Prometheus."""
    variable = (
        build.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": values, "refId": "StandardVariableQuery"})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    )
    if several:
        everything = dashboard.VariableOption(text="All", value="$__all", selected=True)
        variable.multi(True).include_all(True).all_value(".*").current(everything)
    return variable


class Annotation(dashboard.AnnotationQuery):
    """An annotation at the time in a series' value, in milliseconds. Grafana reads fields that the SDK 11.6 does not have."""

    text: str = ""

    def to_json(self) -> dict[str, object]:
        """Add the fields that the datasource's own editor writes."""
        return {**super().to_json(), "useValueForTime": True, "titleFormat": self.name, "textFormat": self.text}


class Mark(Builder[dashboard.AnnotationQuery]):
    """Builder of an `Annotation`."""

    def __init__(self, name: str, expr: str, colour: str, *, text: str = "", enable: bool = True) -> None:
        self._made = Annotation(name=name, datasource=SOURCE, icon_color=colour, expr=expr, enable=enable)
        self._made.text = text

    def build(self) -> dashboard.AnnotationQuery:
        """It."""
        return self._made


def page(uid: str, title: str, description: str) -> build.Dashboard:
    """An empty dashboard."""
    return (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["trainingrun"])
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .version(1)
    )


def numbered(made: build.Dashboard) -> dashboard.Dashboard:
    """Build the dashboard with stable panel ids, so that links to a panel keep working."""
    board = made.build()
    for place, panel in enumerate(board.panels or (), 1):
        panel.id_val = place
    return board
