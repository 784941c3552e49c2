"""The page that people look at: one HTML file for each product and profile, and an index of them."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from closecast.storage.core.errors import ClosecastError
from closecast.storage.core.home import Home
from closecast.storage.reports import INDEX, Reports
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.formatting import format_figure, format_price
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import LEVELS
from closecast.tasks.core.steps import step
from closecast.tasks.evaluation.scoreboard import Scoreboard, horizon_table, nothing_scored
from closecast.tasks.evaluation.scoreboard import table as scoreboard_table
from closecast.tasks.report import text
from closecast.tasks.report.charts import charts
from closecast.tasks.report.context import ReportContext, count_forecasts, read_context
from closecast.tasks.report.notes import Note, notes

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

log = logging.getLogger("closecast.report")

# Rows of the table below the chart of past forecasts, which holds all, and of the tables of odd data.
TABLE_ROWS, DATA_ROWS = 60, 20


class PageSummary(BaseModel):
    """The summary of a page, as the index shows it."""

    product_id: str
    profile: str
    target_day: date
    point: str
    change: str
    interval: str | None
    forecasts: int
    covered: str
    against_best: str
    notes: list[Note]
    run_url: str | None

    @classmethod
    def of_page(cls, context: ReportContext, run_url: str | None = None) -> PageSummary:
        """The summary stored beside a page."""
        forecast, ends = context.asked, text.headline(context.asked)
        return cls(
            product_id=forecast.product_id,
            profile=forecast.profile,
            target_day=forecast.first.target_day,
            point=forecast.price(forecast.first.point),
            change=forecast.change(forecast.first.point),
            interval=f"{' to '.join(ends)} {forecast.quote_currency}" if ends else None,
            forecasts=context.forecast_count,
            covered=text.covered(context, 80),
            against_best=text.ratio_to_best(context.record),
            notes=notes(context),
            run_url=run_url,
        )

    @classmethod
    def written(cls, home: Home, product_id: str, profile: str) -> PageSummary | None:
        """The summary of the page on disk; None if it, the page or the index is missing or unreadable."""
        try:
            return cls.model_validate(Reports(home).summary(product_id, profile))
        except ValidationError:
            return None


@step(timeout_seconds=300, run_name="{forecast.product_id}")
def write_page(
    home: Home,
    forecast: Forecast,
    history: PriceHistory,
    board: Scoreboard | None = None,
    *,
    day: date,
    as_of: date,
    run_url: str | None = None,
) -> None:
    """Write the page at the end of a run, unless there is one of all forecasts, headed by the right one.

    A run that made a forecast may have been killed before its page: so the page on disk decides. The run
    hands on the `history` of its forecast, the profile's scoreboard where it has one, the origin that it was
    asked for, `as_of`, and its own address in Prefect, which stands on the page of the forecast that it made.

    Raises:
        ClosecastError: as `write_report`, with a message that the forecast is stored.
    """
    product_id, profile = forecast.product_id, forecast.profile
    written = PageSummary.written(home, product_id, profile)
    is_headed = written and written.target_day > as_of
    if written and is_headed and written.forecasts == count_forecasts(home, product_id, profile):
        return
    target_day = as_of + timedelta(days=1)
    try:
        context = read_context(home, product_id, profile, day, history, board, target_day)
        path = _write(home, context, run_url, written.run_url if written else None)
    except ClosecastError as error:
        raise type(error)(
            f"the forecast of {product_id} is stored, its report is not: {error};"
            f" then `closecast report --product {product_id} --profile {profile}` writes it"
        ) from error
    log.info("%s: report written to %s", product_id, path)


def write_report(home: Home, product_id: str, profile: str, *, day: date) -> Path:
    """Write the page of a product and profile, and the index; returns the page's path.

    The home and `day`, on which the page is written, decide every byte. The page keeps the day that a run
    chose for it until a newer forecast is made.

    Raises:
        BadInput: there is no forecast yet.
        Damaged: what the page would show is not what was recorded.
        HomeUnusable: the page cannot be written.
    """
    written = PageSummary.written(home, product_id, profile)
    target_day = written.target_day if written else None
    context = read_context(home, product_id, profile, day, target_day=target_day)
    return _write(home, context, written.run_url if written else None)


def _write(home: Home, context: ReportContext, *run_urls: str | None) -> Path:
    run_url = next((url for url in run_urls if url and is_address_of(url, context.asked)), None)
    return Reports(home).write(
        context.forecast.product_id,
        context.forecast.profile,
        page=render(context, run_url),
        summary=PageSummary.of_page(context, run_url).model_dump(mode="json"),
        render_index=lambda summaries: render_index(summaries, context.day),
    )


def is_address_of(url: str, forecast: Forecast) -> bool:
    """Whether a URL links to the Prefect run that made a forecast, and may be on a page."""
    parts = urlsplit(url)
    own = forecast.flow_run_id is not None and parts.path.endswith(f"/{forecast.flow_run_id}")
    return own and parts.scheme in ("http", "https") and "@" not in parts.netloc and not parts.query


def render(context: ReportContext, run_url: str | None = None) -> str:
    """A self-contained HTML page with its styles, scripts and figures.

    The same context gives the same bytes. Every stored text is escaped, and the page's content policy allows
    no other script and no requests. `run_url` is the address of the forecast's run in Prefect.
    """
    scripts = [_asset("echarts.min.js"), _asset("report.js")]
    header, board = scoreboard_table(context.board)
    horizon_header, horizons = horizon_table(context.board.horizons)
    _, fallbacks = horizon_table(context.board.fallbacks)
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=context,
            notes=notes(context),
            run_url=run_url,
            forecast=context.asked,
            run=context.forecast,
            charts=charts(context),
            scripts=scripts,
            style=_asset("report.css"),
            policy=_policy(scripts),
            board=board,
            board_head=_figures_after_the_first(header),
            horizons=horizons,
            fallbacks=fallbacks,
            nothing_scored=nothing_scored(context.board),
            horizons_head=_figures_after_the_first(horizon_header),
            past_rows=context.scored.iloc[::-1].head(TABLE_ROWS).to_dict("records"),
            amount=context.forecast.amount,  # in tables the currency stands in the head of the column
            levels=LEVELS,
            newest=lambda rows: rows.iloc[::-1].head(DATA_ROWS).to_dict("records"),
            index=INDEX,
        )
    )


def _figures_after_the_first(header: Sequence[str]) -> list[tuple[str, bool]]:
    """The columns of a table, each with whether it has figures."""
    return [(name, number > 0) for number, name in enumerate(header)]


def render_index(summaries: Sequence[Mapping[str, Any]], day: date) -> str:
    """The page over all pages, a row for each of `Reports.summaries`, as it looks on a day.

    A page with a foreign summary has no figures.
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
        loader=PackageLoader("closecast.tasks.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"long_day": text.long_day, "short_day": text.short_day}
    environment.filters |= {"figure": format_figure, "number": format_price, "with_code": with_code}
    environment.globals["text"] = text
    return environment


def with_code(sentence: str) -> Markup:
    """A text as HTML, escaped, with the parts between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(sentence))))  # noqa: S704 (it is escaped)


@functools.cache
def _asset(name: str) -> Markup:
    """One of our files, not escaped: a style or a script, which has no closing tag of its kind."""
    from markupsafe import Markup

    return Markup((resources.files("closecast.tasks.report") / "templates" / name).read_text("utf-8"))  # noqa: S704 (ours)


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy: only the page's own scripts, by their hash, and no requests."""
    digests = [hashlib.sha256(str(script).encode()).digest() for script in scripts]
    allowed = " ".join(f"'sha256-{b64encode(digest).decode('ascii')}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed};"
        " style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
