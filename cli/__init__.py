"""The command line: arguments, start-up, text in and out, tables."""
