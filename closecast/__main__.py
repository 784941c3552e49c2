"""`python -m closecast` is the command line."""

from closecast import main

if __name__ == "__main__":
    main()
