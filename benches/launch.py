"""Run a command and print what it took: `python -I -S launch.py STALE ERRORS COMMAND…`.

Printed are wall seconds, CPU seconds, peak resident memory in bytes, the exit status and the floor
of the memory figure. The files in the folder STALE are removed before the clock starts (why:
`measure.py`). Standard output of the command is dropped, its errors go to the file ERRORS.

A process of its own, and a small one: Linux counts the peak of the process that spawns as one of
the child's until it executes (fs/exec.c, `setmax_mm_hiwater_rss` in `exec_mmap`), so `ru_maxrss` is
never below the spawner's. That is the floor; below it nothing can be told.
"""

import os
import sys
import time

KIBIBYTE = 1024  # Linux: unit of ru_maxrss and of /proc/self/status


def main() -> None:
    """Run the command line's command."""
    stale, errors, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    actions = [
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    for name in os.listdir(stale):  # noqa: PTH208 - pathlib is not small
        os.unlink(os.path.join(stale, name))  # noqa: PTH108, PTH118
    began = time.perf_counter()
    child = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - began
    code = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    print(seconds, cpu, usage.ru_maxrss * KIBIBYTE, code, _own_peak())


def _own_peak() -> int:
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - pathlib is not small
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIBIBYTE
    return 0


main()
