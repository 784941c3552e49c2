"""The only code that opens files and connections."""
