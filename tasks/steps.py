"""What every Prefect task here has in common."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE

# Persisted results are pickles, and loading one runs what it says: steps pass ids and small frames only.
STEP: dict[str, Any] = {"persist_result": False, "cache_policy": NO_CACHE}
