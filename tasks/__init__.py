"""The steps: pure functions, with thin Prefect tasks around them."""
