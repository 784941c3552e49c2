"""The page that people look at: one file of HTML for each product and profile, and an index of them."""

from __future__ import annotations

import functools
import hashlib
import logging
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task

from storage.core.errors import ClosecastError
from storage.core.home import Home
from storage.reports import INDEX, Reports
from tasks.core.formatting import usd
from tasks.core.steps import STEP
from tasks.evaluation.scoreboard import UNKNOWN, percents, text
from tasks.evaluation.scoreboard import table as scoreboard_table
from tasks.report import text as words
from tasks.report.charts import charts
from tasks.report.context import ReportContext, forecasts_of, gather

if TYPE_CHECKING:
    from jinja2 import Environment

log = logging.getLogger("closecast.report")

PACKAGE, FOLDER = "tasks.report", "templates"
# Rows of the table beside the chart of past forecasts; the chart holds all.
TABLE_ROWS = 60
GATE = ("first_day", "last_day", "days", "champion", "champion_crps", "challenger_crps", "ratio", "limit")


def render(facts: ReportContext) -> str:
    """A page of HTML that needs nothing else: styles, program and figures are in it.

    The same facts give the same bytes. Every text that was stored is escaped, and the page's own policy lets
    no other program run and nothing be fetched.
    """
    environment = _environment()
    program = [_asset("echarts.min.js"), _asset("report.js")]
    return environment.get_template("report.html").render(
        facts=facts,
        words=words,
        charts=charts(facts),
        programs=program,
        style=_asset("report.css"),
        policy=_policy(program),
        board=scoreboard_table(facts.board),
        past_rows=facts.scored.iloc[::-1].head(TABLE_ROWS).to_dict("records"),
        lineage=lineage(facts),
        metrics=metric_figures(facts.model.metrics),
        gate=gate_figures(facts.model.version.tags),
        index=INDEX,
    )


def render_index(briefs: Sequence[Mapping[str, Any]], day: date) -> str:
    """The page over all pages, a row each.

    Args:
        briefs: as `storage.reports.Reports.summaries` gives them.
        day: on which it is made.
    """
    rows = [_index_row(brief, day) for brief in briefs]
    return (
        _environment()
        .get_template("index.html")
        .render(rows=rows, day=day, style=_asset("report.css"), policy=_policy([]), words=words)
    )


def brief(facts: ReportContext) -> dict[str, Any]:
    """What the index says of a page, as texts and figures."""
    row, every = facts.row, facts.board.spans[-1] if facts.board.spans else None
    return {
        "product_id": facts.product_id,
        "profile": facts.profile,
        "target_day": str(row["target_day"]),
        "point": row["point"],
        "last_close": row["last_close"],
        "lower_80": row["lower_80"],
        "upper_80": row["upper_80"],
        "forecasts": facts.forecasts,
        "scored": every.forecasts if every else 0,
        "crps_ratio": every.crps_ratio if every else None,
        "held_80": words.held(facts, 80),
        "notes": words.notes(facts),
    }


def write_report(home: Home, product_id: str, profile: str, *, day: date) -> Path:
    """Write the page of a product and profile, and the index anew; the page's path.

    Args:
        home: with at least one forecast of them.
        product_id: of the page.
        profile: of the page.
        day: on which the page is made: with the home it decides every byte.

    Raises:
        BadInput: there is no forecast yet.
        Damaged: what the page would show is not what was recorded.
        HomeUnusable: the page cannot be written.
    """
    facts = gather(home, product_id, profile, day)
    return Reports(home).write(
        product_id,
        profile,
        page=render(facts),
        summary=brief(facts),
        render_index=lambda summaries: render_index(summaries, day),
    )


def report_of_run(home: Home, row: Mapping[str, Any], *, day: date) -> None:
    """The last step of a run: its page, unless there is one of all forecasts.

    Whoever wrote that one: a run that made a forecast may have been ended before its page.

    Args:
        home: of the run.
        row: the forecast of the run, as it is stored.
        day: on which the page is made.

    Raises:
        ClosecastError: as `write_report`, of the same kind, and says that the forecast is kept.
    """
    product_id, profile = row["product_id"], row["profile"]
    known = Reports(home).summary(product_id, profile).get("forecasts")
    if known == forecasts_of(home, product_id, profile):
        return
    try:
        path = write_report(home, product_id, profile, day=day)
    except ClosecastError as error:
        raise type(error)(
            f"the forecast of {product_id} is stored, its report is not: {error};"
            f" then `closecast report --product {product_id} --profile {profile}` writes it"
        ) from error
    log.info("%s: report written to %s", product_id, path)


def lineage(facts: ReportContext) -> list[tuple[str, str]]:
    """What the newest forecast was made of and by, a name and a text each."""
    row, model = facts.row, facts.model
    tags = model.version.tags
    made = {
        "prediction": f"{row['prediction_id']}, revision {row['revision']}",
        "made": f"{row['created_at']:%Y-%m-%d %H:%M:%S} UTC",
        "origin": f"{row['origin_day']}, the last close that it knew",
        "data version": row["data_version"],
        "model": f"closecast.{facts.product_id}.{facts.profile} version {row['model_version']}",
        "model made by": tags.get("training_kind", UNKNOWN),
        "model made on": tags.get("origin_day", "the closes of this forecast" if model.age_days == 0 else ""),
        "age of the model": _age(facts),
        "training saw closes up to": tags.get("trained_through", ""),
        "model's data version": tags.get("data_version", ""),
        "trained together with": tags.get("pooled", "").replace(",", ", "),
        "gate": tags.get("gate", ""),
        "settings version": row["settings_version"],
        "recipe version": tags.get("recipe_version", ""),
        "code version": row["code_version"],
        "code that trained": tags.get("code_version", ""),
        "commit that trained": tags.get("git_commit", ""),
        "SHA-256 of the weights": tags.get("weights_sha256", ""),
        "SHA-256 of the bundle's list": model.version.manifest_sha256,
    }
    return [(name, str(said)) for name, said in made.items() if said and said != "none"]


def _age(facts: ReportContext) -> str:
    days, most = facts.model.age_days, facts.model.max_days
    if days is None:
        return "unknown"
    said = f"{days:,} day{'' if days == 1 else 's'} on the origin"
    return f"{said}; a warning begins after {most}" if most else said


def gate_figures(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """What the gate measured of the model as a challenger, a name and a text each; none of a first one."""
    if "gate_ratio" not in tags:
        return []
    return [(name.replace("_", " "), _plain(tags.get(f"gate_{name}", UNKNOWN))) for name in GATE]


def metric_figures(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """What a model's own test measured, a name and a text each: prices as prices are written."""
    found = []
    for name, value in sorted(metrics.items()):
        said = name.replace("_", " ").replace("rmse", "RMSE").replace("mae", "MAE")
        found.append((said, usd(value) if name.endswith(("rmse", "mae")) else text(value, ",.4f")))
    return found


def _plain(figure: str) -> str:
    try:
        return figure if figure.isdecimal() else f"{float(figure):.5g}"
    except ValueError:
        return figure


def _index_row(brief: Mapping[str, Any], day: date) -> dict[str, Any]:
    """A row of the index; whatever a file says that is not of the right kind is shown as unknown."""
    try:
        target = date.fromisoformat(str(brief["target_day"]))
        point, last = float(brief["point"]), float(brief["last_close"])
        bounds = [brief["lower_80"], brief["upper_80"]]
        return {
            "page": str(brief["page"]),
            "product_id": str(brief["product_id"]),
            "profile": str(brief["profile"]),
            "target": target,
            "behind": (day - target).days,
            "point": usd(point),
            "change": f"{point / last - 1:+.2%}",
            "interval": "none" if None in bounds else " to ".join(usd(float(bound)) for bound in bounds),
            "scored": int(brief["scored"]),
            "held": str(brief["held_80"]),
            "ratio": text(brief["crps_ratio"], ".3f"),
            "notes": [str(note) for note in brief["notes"]],
        }
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        return {"page": str(brief.get("page", "")), "product_id": None}


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader(PACKAGE, FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"usd": usd, "percents": percents, "long_day": words.long_day}
    made.filters |= {"short_day": words.short_day, "figure": text, "coded": _coded}
    made.globals["methods"] = words.METHODS
    return made


def _coded(said: str) -> Any:
    """A text with what stands between backticks as code."""
    from markupsafe import Markup, escape

    parts = [str(escape(part)) for part in said.split("`")]
    marked = (f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
    return Markup("".join(marked))  # noqa: S704 (each part is escaped)


@functools.cache
def _asset(name: str) -> Any:
    """A file of ours as it is, not escaped: a style or a program, neither with a closing tag of its kind."""
    from markupsafe import Markup

    environment = _environment()
    assert environment.loader is not None  # noqa: S101 (it was given above)
    source, _, _ = environment.loader.get_source(environment, name)
    return Markup(source)  # noqa: S704 (ours)


def _policy(programs: Sequence[str]) -> str:
    """The content security policy: the page's own programs by their hash, and nothing from anywhere."""
    hashes = [
        f"'sha256-{b64encode(hashlib.sha256(str(one).encode()).digest()).decode('ascii')}'"
        for one in programs
    ]
    return (
        f"default-src 'none'; script-src {' '.join(hashes) or chr(39) + 'none' + chr(39)};"
        " style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


write_page = task(
    name="write-report", task_run_name="write-report {row[product_id]}", timeout_seconds=300, **STEP
)(report_of_run)
