"""What the server takes at most; imports no torch: the command reads it for help."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.decoding.options import check_number, check_whole


@dataclass(frozen=True)
class Limits:
    """What one client may ask for, and how much may wait.

    Raises:
        UnmaskError: if a value has the wrong type or is out of range.
    """

    max_body_bytes: int = 2**20
    """Largest body of a request, in bytes."""
    max_row_tokens: int = 8192
    """Most tokens of one prompt and its answer together."""
    max_rows: int = 128
    """Most answers of one request: prompts times n."""
    max_queue: int = 1024
    """Most answers that wait or are in flight; further requests get status 429."""
    timeout: float = 600.0
    """Seconds that one request may take, its wait included; then it is given up."""

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_row_tokens", "max_rows", "max_queue"):
            check_whole(name, getattr(self, name), 1)
        check_number("timeout", self.timeout, "seconds, at least 0.001", low=0.001)
