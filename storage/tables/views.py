"""The SQL views derived from others: the latest forecasts, the scoreboard, descriptions of columns."""

from __future__ import annotations

import pyarrow as pa

from closecast.storage.core.candle_schema import PRICE_VIEWS, arrow_schema
from closecast.storage.core.intervals import INTERVALS
from closecast.storage.tables.schemas import TABLES

# Days of a scoreboard, the newest; None is every day.
SPANS = (30, 90, 365, None)
_SCORED = """\
select p.product_id, p.profile, p.horizon, p.basis = 'fallback' as is_fallback, s.*
    exclude (product_id, horizon) replace (error * factor as error, naive_error * factor as naive_error)
from (
    from scores qualify row_number() over (
        partition by product_id, prediction_id
        order by scored_at desc, regexp_extract(data_version, '@(\\d+):', 1)::bigint desc, data_version desc
    ) = 1
) s join predictions p using (product_id, prediction_id), lateral (
    -- Errors are in the units of the origin: those from before a split are rescaled to the units after it.
    select coalesce(product(d.factor), 1) as factor from (
        from price_decisions
        qualify row_number() over (partition by product_id, day_utc order by seq desc) = 1
    ) d where d.kind = 'split' and d.product_id = p.product_id and d.day_utc > p.origin_day
) where p.revision = 0"""
# Of a point there is no CRPS; the ratios are of the forecasts that have both figures.
_BOTH = "filter (where error is not null and naive_error is not null)"
_FIGURES = {
    "crps": ("avg(crps)", "mean CRPS of the log return; null for a point only"),
    "naive_crps": ("avg(naive_crps)", "mean CRPS of the naive forecast, the last close"),
    "crps_ratio": (
        "sum(crps) filter (where naive_crps is not null)"
        " / nullif(sum(naive_crps) filter (where crps is not null), 0)",
        "CRPS divided by that of the naive forecast: below 1 is better",
    ),
    "mae": (
        f"avg(abs(error)) {_BOTH}",
        "mean absolute error, quote currency, across a split in the units of the last day",
    ),
    "mae_ratio": (
        f"avg(abs(error)) {_BOTH} / nullif(avg(abs(naive_error)) {_BOTH}, 0)",
        "MAE divided by that of the naive forecast",
    ),
    "rmse": (
        f"sqrt(avg(error ** 2) {_BOTH})",
        "root mean squared error, quote currency, across a split in the units of the last day",
    ),
    "rmse_ratio": (
        f"sqrt(avg(error ** 2) {_BOTH} / nullif(avg(naive_error ** 2) {_BOTH}, 0))",
        "RMSE divided by that of the naive forecast",
    ),
    **{
        f"coverage_{percent}": (
            f"avg(covered_{percent}::int)",
            f"share of closes in the {percent} % interval",
        )
        for percent in INTERVALS
    },
}
_GROUPS = {
    "product_id": "base and quote currency, such as BTC-USD",
    "profile": "name of the kind of model",
    "horizon": "days from the origin to the target day",
    "is_fallback": "whether the baselines alone made the forecasts, without a model",
    "span_days": "days up to the newest scored target day; null for all",
}
_COUNTS = {
    "forecasts": ("count(*)", "published forecasts that are scored, each by its newest score"),
    "first_day": ("min(target_day)", "oldest target day"),
    "last_day": ("max(target_day)", "newest target day"),
}
_AGGREGATES = ", ".join(f"{sql} as {name}" for name, (sql, _) in (_COUNTS | _FIGURES).items())
_SPANS = ", ".join(f"({'null' if days is None else days})" for days in SPANS)
_KEYS = ", ".join(_GROUPS)
_SCOREBOARD = f"""\
with scored as ({_SCORED}), dated as (
    select *, max(target_day) over (partition by product_id, profile, horizon, is_fallback) as newest
    from scored
)
select {_KEYS}, {_AGGREGATES}
from dated, (values {_SPANS}) spans(span_days) where span_days is null or target_day > newest - span_days
group by {_KEYS} order by {_KEYS}"""  # noqa: S608 (no text from outside)
MADE_VIEWS = {
    "latest_forecasts": "from predictions where revision = 0 qualify origin_day = max(origin_day) over"
    " (partition by product_id, profile) order by product_id, profile, horizon",
    "scoreboard": _SCOREBOARD,
}
# The tables and views that each is made from.
NEEDED = {"latest_forecasts": ("predictions",), "scoreboard": ("predictions", "scores", "price_decisions")}


def column_comments() -> pa.Table:
    """A row for each column of each view: `view`, `column`, `type`, `comment`."""
    schemas = {name: arrow_schema(columns) for name, columns in PRICE_VIEWS.items()}
    schemas |= {name: table.arrow for name, table in TABLES.items()}
    schemas["latest_forecasts"] = TABLES["predictions"].arrow
    rows = [
        (view, field.name, str(field.type), (field.metadata or {}).get(b"comment", b"").decode())
        for view, schema in schemas.items()
        for field in schema
    ]
    kinds = {"is_fallback": "bool", "span_days": "int32", "horizon": "int32", "forecasts": "int64"}
    kinds |= dict.fromkeys(("first_day", "last_day"), "date32[day]") | dict.fromkeys(_FIGURES, "double")
    comments = _GROUPS | {name: comment for name, (_, comment) in (_COUNTS | _FIGURES).items()}
    rows += [("scoreboard", name, kinds.get(name, "string"), text) for name, text in comments.items()]
    names = ("view", "column", "type", "comment")
    return pa.table({name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)})
