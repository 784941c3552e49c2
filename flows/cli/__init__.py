"""The command line: a command parses its options, calls a flow or a query, and prints the result.

Not here: what a command does, which is in the flows, and anything that a notebook would call.
Read first: `commands.py`.
"""
