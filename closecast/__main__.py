"""`python -m closecast` is the command line."""

from closecast.flows.cli.commands import main

if __name__ == "__main__":
    main()
