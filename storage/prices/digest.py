"""The digest of candles that names a data version, and the check of each candle on its own."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from closecast.storage.core.candle_schema import FIGURES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import pandas as pd

CHUNK = 50_000


def digest(candles: pd.DataFrame, decisions: Sequence[str] = ()) -> str:
    """SHA-256 over `day,open,high,low,close,volume` a line, in Python's shortest exact notation, LF.

    An unknown figure is empty. The lines of the decisions follow.
    """
    sha256 = hashlib.sha256()
    for lines in _lines(candles):
        text = pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")[0]
        sha256.update(text.as_buffer())
        sha256.update(b"\n")
    for line in decisions:
        sha256.update(f"{line}\n".encode())
    return sha256.hexdigest()


def checks(candles: pd.DataFrame, common: Mapping[str, str]) -> npt.NDArray[np.uint32]:
    """CRC-32 of each candle, (n,): it names the changed one when the digest of many no longer fits.

    `common` holds the columns that are the same in each row; the rest is as in `digest`.
    """
    start = zlib.crc32(json.dumps(common, sort_keys=True).encode())
    rows = (line for lines in _lines(candles) for line in lines.to_pylist())
    return np.array([zlib.crc32(line.encode(), start) for line in rows], dtype="uint32")


def _lines(candles: pd.DataFrame) -> Iterator[pa.Array]:
    """The rows as text, a chunk at a time: the text of all would not fit in memory."""
    for start in range(0, len(candles), CHUNK):
        chunk = candles.iloc[start : start + CHUNK]
        days = pa.array(chunk["day_utc"]).cast(pa.date32()).cast(pa.string())
        yield pc.binary_join_element_wise(days, *(_notation(chunk[name].to_numpy()) for name in FIGURES), ",")


def _notation(figures: npt.NDArray[np.float64]) -> pa.Array:
    """Each figure as Python's `repr` writes it, empty if it is unknown."""
    text = pa.array(figures, from_pandas=True).cast(pa.string())
    # Arrow's digits are Python's, but for the point of a whole number and for where exponents begin.
    whole = np.where(figures == np.floor(figures), ".0", "")
    text = pc.binary_join_element_wise(text, pa.array(whole), "")
    size = np.abs(figures)
    other = (size != 0) & ((size < 1e-4) | (size >= 1e10))
    if other.any():
        text = pc.replace_with_mask(text, other, pa.array(map(repr, figures[other].tolist()), pa.string()))
    return text.fill_null("")
