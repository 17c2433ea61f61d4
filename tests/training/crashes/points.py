"""Runs of the command line, each broken at one call that changes the disk, and then resumed.
test_crashes.py starts this process.

The process is warmed up by an unbroken run and then forked for every further one. Each line of its
output is one broken run, as JSON.
"""

import ctypes
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import tqdm

OFF, COUNT, KILL, FULL = range(4)
disk = ctypes.CDLL(None)


def run(arguments, output, mode, call):
    """The command line in a process of its own: (how it ended, the number of calls, what it wrote
    to stderr).
    """
    log = output.with_suffix(".log")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        from graphformer.cli import main

        code = 99
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            disk.faulty_disk(mode, ctypes.c_long(call), os.fsencode(output))
            main([*arguments, "--output", str(output)])
        except SystemExit as end:
            code = end.code
        except BaseException:
            import traceback

            traceback.print_exc()
        disk.faulty_disk_calls.restype = ctypes.c_long
        os.write(writer, str(disk.faulty_disk_calls()).encode())
        os._exit(code)
    os.close(writer)
    with open(reader) as told:
        calls = told.read()
    _, status = os.waitpid(child, 0)
    ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return ended, int(calls or 0), log.read_text()


def weights(output):
    path = output / "model.safetensors"
    return path.read_bytes() if path.is_file() else None


def main(work, share, of, arguments):
    """Every ``of``-th call from the ``share``-th on, of those of a whole run, is where a run is
    killed, and where one meets a full disk.
    """
    whole = work / "whole"
    from graphformer.cli import main as call

    # tqdm's lock is shared between processes, and a killed one would never give it back; its thread
    # might hold one at a fork.
    tqdm.tqdm.set_lock(threading.RLock())
    tqdm.tqdm.monitor_interval = 0
    try:
        call([*arguments, "--output", str(work / "warm")])
    except SystemExit as end:
        assert end.code == 0
    ended, calls, log = run(arguments, whole, COUNT, 0)
    assert ended == 0, log
    expected = weights(whole)
    print(json.dumps({"calls": calls}), flush=True)
    for point in range(1 + share, calls + 1, of):
        for name, mode in {"kill": KILL, "full": FULL}.items():
            output = work / "run"
            shutil.rmtree(output, ignore_errors=True)
            ended, _, log = run(arguments, output, mode, point)
            saved = (
                sorted(path.name for path in output.glob("checkpoint-*")) if output.exists() else []
            )
            again, _, resumed = run([*arguments, "--resume"], output, OFF, 0)
            line = {
                "mode": name,
                "call": point,
                "ended": ended,
                "log": log[-2000:],
                "saved": saved,
                "resumed": again,
            }
            line |= {"told": resumed[-2000:], "equal": weights(output) == expected}
            line["leftovers"] = [path.name for path in output.iterdir() if "partial" in path.name]
            print(json.dumps(line), flush=True)
    times = os.times()
    print(
        json.dumps(
            {"seconds": times.user + times.system + times.children_user + times.children_system}
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
