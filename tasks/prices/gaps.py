"""Where days are missing."""

from tasks.prices.validation import find_gaps, require_origin  # noqa: F401
