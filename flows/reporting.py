"""The reports, written by hand between the runs that write them daily."""

from __future__ import annotations

from pathlib import Path

from flows import clock
from storage.core.errors import BadInput
from storage.core.home import Home
from storage.locks.bucket_owner import prepare_home
from storage.reports import Reports
from tasks.report.context import products_of
from tasks.report.page import write_report


def write_reports(home: Home, product_id: str | None = None, profile: str | None = None) -> Path:
    """Write the pages of every product and profile that has a forecast, or of those named, and the index.

    Returns:
        The page, or the index where there is more than one.

    Raises:
        BadInput: there is no forecast to write a page of.
        Damaged: what a page would show is not what was recorded.
        HomeUnusable: a page cannot be written.
    """
    day = clock.now().date()
    asked = [
        (product, recipe)
        for product, recipe in products_of(home)
        if product_id in (None, product) and profile in (None, recipe)
    ]
    if not asked:
        whose = f" of {product_id}" if product_id else ""
        how = f" by profile {profile}" if profile else ""
        again = f" --product {product_id}" if product_id else ""
        raise BadInput(
            f"a report needs a forecast, and {home.root} has none{whose}{how}:"
            f" make one with `closecast run{again}{f' --profile {profile}' if profile else ''}`"
        )
    prepare_home(home)
    paths = [write_report(home, product, recipe, day=day) for product, recipe in asked]
    return paths[0] if len(paths) == 1 else Reports(home).index
