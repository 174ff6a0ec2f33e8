"""Calls to the kernel that Python has no function for."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def must_succeed(result: int, what: str) -> int:
    """The result of a C call. The jail is whole, or nothing runs.

    Raises:
        OSError: if the result is negative.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
