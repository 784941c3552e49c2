"""What every Prefect task and flow here has in common."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE

# Persisted results are pickles, and loading one runs what it says: steps pass ids and small frames only.
STEP: dict[str, Any] = {"persist_result": False, "cache_policy": NO_CACHE}
# The error of a flow that failed is kept whatever is said here: as JSON, not as a pickle.
FLOW: dict[str, Any] = {"persist_result": False, "result_serializer": "json", "validate_parameters": True}
