"""New interpreters for what must be seen from the start: the order of imports, other processes that
read what was saved.

They are forked from one that has imported torch and what torch keeps for later, which takes most of
the time that an import of transformers takes; nothing else that the library uses is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FORKS = """
import json, os, sys, traceback
import torch, torch._dynamo, torch.distributed.tensor
torch.set_num_threads(1)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        ended = 1
        try:
            for place, number in ((os.devnull, 0), (job["out"], 1), (job["err"], 2)):
                os.dup2(os.open(place, os.O_RDWR | os.O_CREAT), number)
            sys.stdin = open(0, closefd=False)
            sys.argv = ["-c", *job["arguments"]]
            exec(compile(job["code"], "<new interpreter>", "exec"), {"__name__": "__main__"})
            ended = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(ended)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Interpreters:
    """Runs code in an interpreter of its own: (how it ended, what it printed, what it wrote to
    stderr).
    """

    def __init__(self, root: Path) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(root)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.forks = subprocess.Popen([sys.executable, "-c", FORKS], env=environment, **pipes)

    def __call__(self, code: str, *arguments: object) -> tuple[int, str, str]:
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            job = {
                "code": code,
                "arguments": [str(one) for one in arguments],
                "out": str(out),
                "err": str(err),
            }
            assert self.forks.stdin is not None and self.forks.stdout is not None
            self.forks.stdin.write(json.dumps(job) + "\n")
            self.forks.stdin.flush()
            ended = int(self.forks.stdout.readline())
            return ended, out.read_text(), err.read_text()

    def close(self) -> None:
        self.forks.communicate()
