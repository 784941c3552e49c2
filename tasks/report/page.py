"""The page that people look at: one HTML file for each product and profile, and an index of them."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import date
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from storage.core.errors import ClosecastError
from storage.core.home import Home
from storage.reports import INDEX, Reports
from tasks.core.forecast import Forecast
from tasks.core.formatting import format_figure
from tasks.core.history import PriceHistory
from tasks.core.quantiles import LEVELS
from tasks.core.steps import step
from tasks.evaluation.scoreboard import Scoreboard, horizon_table
from tasks.evaluation.scoreboard import table as scoreboard_table
from tasks.report import text
from tasks.report.charts import charts
from tasks.report.context import ReportContext, count_forecasts, read_context

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

log = logging.getLogger("closecast.report")

# Rows of the table below the chart of past forecasts, which holds all, and of the tables of odd data.
TABLE_ROWS, DATA_ROWS = 60, 20


class PageSummary(BaseModel):
    """A page in short, as the index shows it."""

    product_id: str
    profile: str
    target_day: date
    forecast: str
    interval: str | None
    forecasts: int
    covered: str
    crps_ratio: float | None
    notes: list[str]

    @classmethod
    def of_page(cls, context: ReportContext) -> PageSummary:
        """The summary that stands beside a page."""
        forecast, prices = context.forecast, dict(context.forecast.price_summary())
        return cls(
            product_id=forecast.product_id,
            profile=forecast.profile,
            target_day=forecast.first.target_day,
            forecast=prices["forecast"],
            interval=prices.get("80 %"),
            forecasts=context.forecast_count,
            covered=text.covered(context, 80),
            crps_ratio=context.board.all_days.crps_ratio,
            notes=text.notes(context),
        )


@step(timeout_seconds=300, run_name="{forecast.product_id}")
def write_page(
    home: Home, forecast: Forecast, history: PriceHistory, board: Scoreboard | None = None, *, day: date
) -> None:
    """Write the page at the end of a run, unless there is one of all forecasts.

    A run that made a forecast may have been killed before its page: so the page on disk decides. The run
    hands on the `history` of its forecast, and the profile's scoreboard where it has one.

    Raises:
        ClosecastError: as `write_report`, with a message that the forecast is stored.
    """
    product_id, profile = forecast.product_id, forecast.profile
    written = Reports(home).summary(product_id, profile).get("forecasts")
    if written == count_forecasts(home, product_id, profile):
        return
    try:
        path = _write(home, read_context(home, product_id, profile, day, history, board))
    except ClosecastError as error:
        raise type(error)(
            f"the forecast of {product_id} is stored, its report is not: {error};"
            f" then `closecast report --product {product_id} --profile {profile}` writes it"
        ) from error
    log.info("%s: report written to %s", product_id, path)


def write_report(home: Home, product_id: str, profile: str, *, day: date) -> Path:
    """Write the page of a product and profile, and the index anew; the page's path.

    The home and `day`, on which the page is written, decide every byte.

    Raises:
        BadInput: there is no forecast yet.
        Damaged: what the page would show is not what was recorded.
        HomeUnusable: the page cannot be written.
    """
    return _write(home, read_context(home, product_id, profile, day))


def _write(home: Home, context: ReportContext) -> Path:
    return Reports(home).write(
        context.forecast.product_id,
        context.forecast.profile,
        page=render(context),
        summary=PageSummary.of_page(context).model_dump(mode="json"),
        render_index=lambda summaries: render_index(summaries, context.day),
    )


def render(context: ReportContext) -> str:
    """A page of HTML that needs nothing else: styles, scripts and figures are in it.

    The same context gives the same bytes. Every stored text is escaped, and the page's own policy lets no
    other script run and nothing be fetched.
    """
    forecast = context.forecast
    scripts = [_asset("echarts.min.js"), _asset("report.js")]
    (header, board), (horizon_header, horizons) = (
        scoreboard_table(context.board),
        horizon_table(context.board),
    )
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=context,
            forecast=forecast,
            charts=charts(context),
            scripts=scripts,
            style=_asset("report.css"),
            policy=_policy(scripts),
            board=board,
            board_head=_figures_after_the_first(header),
            horizons=horizons,
            horizons_head=_figures_after_the_first(horizon_header),
            past_rows=context.scored.iloc[::-1].head(TABLE_ROWS).to_dict("records"),
            amount=forecast.amount,  # in tables the currency stands in the head of the column
            levels=LEVELS,
            newest=lambda rows: rows.iloc[::-1].head(DATA_ROWS).to_dict("records"),
            index=INDEX,
        )
    )


def _figures_after_the_first(header: Sequence[str]) -> list[tuple[str, bool]]:
    """The columns of a table, each with whether it holds figures."""
    return [(name, number > 0) for number, name in enumerate(header)]


def render_index(summaries: Sequence[Mapping[str, Any]], day: date) -> str:
    """The page over all pages, a row for each of `Reports.summaries`, as it looks on a day.

    One whose summary is of another kind has no figures.
    """
    rows: list[tuple[str, PageSummary | None]] = []
    for page in summaries:
        try:
            rows.append((page["page"], PageSummary.model_validate(page)))
        except ValidationError:
            rows.append((page["page"], None))
    template = _environment().get_template("index.html")
    return template.render(rows=rows, day=day, style=_asset("report.css"), policy=_policy([]))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tasks.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"long_day": text.long_day, "short_day": text.short_day}
    environment.filters |= {"figure": format_figure, "with_code": with_code}
    environment.globals["text"] = text
    return environment


def with_code(sentence: str) -> Markup:
    """A text as HTML, escaped, with the parts between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(sentence))))  # noqa: S704 (it is escaped)


@functools.cache
def _asset(name: str) -> Markup:
    """A file of ours as it is, not escaped: a style or a script, neither with a closing tag of its kind."""
    from markupsafe import Markup

    return Markup((resources.files("tasks.report") / "templates" / name).read_text("utf-8"))  # noqa: S704 (ours)


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy: the page's own scripts by their hash, and nothing from anywhere."""
    digests = [hashlib.sha256(str(script).encode()).digest() for script in scripts]
    allowed = " ".join(f"'sha256-{b64encode(digest).decode('ascii')}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed};"
        " style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
