"""The inside of the sandbox, with the standard library alone; `unmask.sandbox.check` starts it.

Two processes check one program. `program` holds the model's code and nothing else; `checker` holds
the tests and asks the first one to call its functions. What passes between them is plain data, so
the model's code never sees an expected value, and no object of its making is ever compared with
one. docs/security.md says what this stops.

    python CHILD program|checker READ WRITE [VERDICT]     the job comes as JSON on standard input
"""

import json
import os
import sys


def main() -> None:
    """Reads the job and plays one of the two roles. The numbers are descriptors of pipes."""
    role, *descriptors = sys.argv[1:]
    job = json.loads(sys.stdin.buffer.read())
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.set_int_max_str_digits(0)
    if role == "program":
        from program import run_program as play
    else:
        from checker import run_checker as play
    # The files beside this one are no modules of the programs that run here.
    sys.path.pop(0)
    play(job, *map(int, descriptors))
    os._exit(0)


if __name__ == "__main__":
    main()
