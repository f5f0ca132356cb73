"""The command line: arguments, start-up, text in and out, tables."""

__version__ = "1.0.0"  # of the whole project
