"""The front door: the entry of the command line."""

from __future__ import annotations

from flows.cli.commands import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
