"""Malformed inputs, made from the schemas of the files and from the options of the commands.

`pytest` runs some of each kind; `python -m tests.fuzz --cases 1000` runs as many as asked for, in
processes of their own, and prints a table.
"""
