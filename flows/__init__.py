"""What happens, in order: each flow reads as one paragraph, and the command line is in `cli`.

Not here: how a step does its work (`tasks`), and what opens files and connections (`storage`).
Read first: `daily.py`.
"""
