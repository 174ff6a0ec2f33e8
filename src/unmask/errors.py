"""The one exception that means "your input, not our bug": commands print its sentence and exit with
code 2."""


class UnmaskError(Exception):
    """Bad input. The message is one sentence: what was given, what is accepted, what to do."""
