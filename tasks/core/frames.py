"""Arrow tables as frames for people: real dates, and pandas' values for unknown ones."""

from __future__ import annotations

from typing import cast

import pandas as pd
import pyarrow as pa


def dated_frame(table: pa.Table) -> pd.DataFrame:
    """The table with days as `datetime64[s]`, moments as `datetime64[us, UTC]`, nullable booleans."""
    types = {pa.bool_(): pd.BooleanDtype()}
    frame = cast("pd.DataFrame", table.to_pandas(date_as_object=False, types_mapper=types.get))
    days = [field.name for field in table.schema if pa.types.is_date(field.type)]
    return frame.astype(dict.fromkeys(days, "datetime64[s]"))
