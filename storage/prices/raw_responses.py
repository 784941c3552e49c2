"""Raw responses."""

from storage.core.files import keep_raw, read_raw  # noqa: F401
