"""The page that people look at: one HTML file for each product and profile, and an index of them."""

from __future__ import annotations

import functools
import hashlib
import logging
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.core.errors import ClosecastError
from storage.core.home import Home
from storage.reports import INDEX, Reports
from tasks.core.forecast import Forecast
from tasks.core.formatting import format_figure
from tasks.core.history import PriceHistory
from tasks.core.steps import step
from tasks.evaluation.scoreboard import Scoreboard
from tasks.evaluation.scoreboard import table as scoreboard_table
from tasks.report import text
from tasks.report.charts import charts
from tasks.report.context import ReportContext, count_forecasts, read_context

if TYPE_CHECKING:
    from jinja2 import Environment

log = logging.getLogger("closecast.report")

PACKAGE, FOLDER = "tasks.report", "templates"
# Rows of the table below the chart of past forecasts; the chart holds all.
TABLE_ROWS = 60


@step(timeout_seconds=300, run_name="{forecast.product_id}")
def write_page(
    home: Home, forecast: Forecast, history: PriceHistory, board: Scoreboard | None = None, *, day: date
) -> None:
    """Write the page at the end of a run, unless there is one of all forecasts.

    A run that made a forecast may have been killed before its page: so the page on disk decides.

    Args:
        forecast: of the run, as it is stored.
        history: the prices that it was made from.
        board: the profile's scoreboard, read here where the run has none.
        day: on which the page is written.

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
        summary=summary(context),
        render_index=lambda summaries: render_index(summaries, context.day),
    )


def render(context: ReportContext) -> str:
    """A page of HTML that needs nothing else: styles, scripts and figures are in it.

    The same context gives the same bytes. Every stored text is escaped, and the page's own policy lets no
    other script run and nothing be fetched.
    """
    forecast = context.forecast
    scripts = [_asset("echarts.min.js"), _asset("report.js")]
    header, board = scoreboard_table(context.board)
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
            board_head=[(name, number > 0) for number, name in enumerate(header)],
            past_rows=context.scored.iloc[::-1].head(TABLE_ROWS).to_dict("records"),
            # In tables the currency stands in the head of the column.
            amount=lambda value: forecast.price(value).removesuffix(f" {forecast.quote_currency}"),
            index=INDEX,
        )
    )


def render_index(summaries: Sequence[Mapping[str, Any]], day: date) -> str:
    """The page over all pages, a row each.

    Args:
        summaries: as `storage.reports.Reports.summaries` gives them.
        day: on which it is written.
    """
    rows = [_index_row(page, day) for page in summaries]
    template = _environment().get_template("index.html")
    return template.render(rows=rows, day=day, style=_asset("report.css"), policy=_policy([]))


def summary(context: ReportContext) -> dict[str, Any]:
    """A page in short, for the index: texts and figures."""
    span = context.board.all_days
    return {
        "product_id": context.forecast.product_id,
        "profile": context.forecast.profile,
        "target_day": str(context.forecast.first.target_day),
        "prices": dict(context.forecast.price_summary()),
        "forecasts": context.forecast_count,
        "scored": span.forecasts,
        "crps_ratio": span.crps_ratio,
        "covered_80": text.covered(context, 80),
        "notes": text.notes(context),
    }


def _index_row(page: Mapping[str, Any], day: date) -> dict[str, Any]:
    """A row of the index; a summary with a value of the wrong kind becomes a row without figures."""
    try:
        target = date.fromisoformat(str(page["target_day"]))
        return {
            "page": str(page["page"]),
            "product_id": str(page["product_id"]),
            "profile": str(page["profile"]),
            "target": target,
            "days_over": (day - target).days,
            "forecast": str(page["prices"]["forecast"]),
            "interval": str(page["prices"].get("80 %", "none")),
            "covered": str(page["covered_80"]),
            "ratio": format_figure(page["crps_ratio"], ".3f"),
            "notes": [str(note) for note in page["notes"]],
        }
    except (AttributeError, LookupError, TypeError, ValueError):
        return {"page": str(page.get("page", "")), "product_id": None}


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(PACKAGE, FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"long_day": text.long_day, "short_day": text.short_day}
    environment.filters |= {"figure": format_figure, "with_code": with_code}
    environment.globals["text"] = text
    return environment


def with_code(sentence: str) -> Any:
    """A text as HTML, escaped, with the parts between backticks as code."""
    from markupsafe import Markup, escape

    parts = [str(escape(part)) for part in sentence.split("`")]
    marked = (f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
    return Markup("".join(marked))  # noqa: S704 (each part is escaped)


@functools.cache
def _asset(name: str) -> Any:
    """A file of ours as it is, not escaped: a style or a script, neither with a closing tag of its kind."""
    from markupsafe import Markup

    environment = _environment()
    assert environment.loader is not None  # noqa: S101 (it was given above)
    source, _, _ = environment.loader.get_source(environment, name)
    return Markup(source)  # noqa: S704 (ours)


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy: the page's own scripts by their hash, and nothing from anywhere."""
    digests = [hashlib.sha256(str(script).encode()).digest() for script in scripts]
    allowed = " ".join(f"'sha256-{b64encode(digest).decode('ascii')}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed};"
        " style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
