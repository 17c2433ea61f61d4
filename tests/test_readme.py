"""The README's Python runs as it stands, from top to bottom."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 4
    scope: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), scope)
    assert scope["g"].num_lanes == 16 and scope["merged"].num_lanes == 2
    assert scope["outputs"].loss.isfinite()
