"""Run a command and write its wall seconds, peak memory and exit code to a file: launcher.py RESULT COMMAND...

A child's ru_maxrss is never below what its parent held when it forked, so the parent that is measured against must be
tiny: this file imports next to nothing, and is run with ``python -I -S``.
"""

import os
import sys
import time

began = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - began
with open(sys.argv[1], "w") as out:  # noqa: PTH123 - pathlib would cost 5 MB
    out.write(f"{seconds} {usage.ru_maxrss * 1024} {os.waitstatus_to_exitcode(status)}")
