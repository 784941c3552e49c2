"""The digest of candles that a data version is named by."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

CHUNK = 50_000


def digest(all_days: npt.NDArray[np.datetime64], all_figures: npt.NDArray[np.float64]) -> str:
    """SHA-256 over `day,open,high,low,close,volume` a line, in Python's shortest exact notation, LF.

    An unknown figure is empty. The lines are made in pieces, so that the text of all is never there at once.

    Args:
        all_days: (n,) datetime64[D].
        all_figures: (n, 5), in the order of FIGURES.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    page = hashlib.sha256()
    for start in range(0, len(all_days), CHUNK):
        days = pa.array(all_days[start : start + CHUNK]).cast(pa.string())
        figures = [_notation(column) for column in all_figures[start : start + CHUNK].T]
        lines = pc.binary_join_element_wise(days, *figures, ",")
        page.update(pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")[0].as_buffer())
        page.update(b"\n")
    return page.hexdigest()


def _notation(figures: npt.NDArray[np.float64]) -> pa.Array:
    """Each figure as Python's `repr` writes it, empty where it is unknown."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.array(figures, from_pandas=True).cast(pa.string())
    # Arrow's digits are Python's, but for the point of a whole number and for where exponents begin.
    whole = np.where(figures == np.floor(figures), ".0", "")
    text = pc.binary_join_element_wise(text, pa.array(whole), "")
    size = np.abs(figures)
    other = (size != 0) & ((size < 1e-4) | (size >= 1e10))
    if other.any():
        text = pc.replace_with_mask(text, other, pa.array(map(repr, figures[other].tolist()), pa.string()))
    return text.fill_null("")
