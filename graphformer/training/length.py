"""The length of a run, the one setting that a resumed run may change: it is prolonged, or ended
earlier than planned, but never before the step that it has reached.

Both trainers draw the cosine of the learning rate over the whole length. A run that is given
another one goes on with the rate that the curve of the new length has at the step reached
(:class:`~graphformer.training.resumable.ResumableTrainer`); its linear rise stays as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphformer.training.file_checks import read_json
from graphformer.training.run import SETTINGS_FILE


def settings_of(output_dir: str | Path, resume: bool | str | Path) -> dict[str, Any]:
    """The settings of the run that is resumed, ``{}`` where there are none to be read."""
    if not resume:
        return {}
    folder = Path(output_dir) if resume is True else Path(resume).parent
    return read_json(folder / SETTINGS_FILE, []) or {}


def at_start(before: dict[str, Any], name: str, length: int) -> int:
    """The length that a run was started with; ``length`` for a new one."""
    return before.get(f"{name}_at_start", before.get(name, length))


def require_reachable(
    name: str, length: int, planned: int | None, *, steps: int, reached: int
) -> None:
    """Refuse a new length that is already behind the run.

    Args:
        name: of the length: ``"steps"`` or ``"epochs"``.
        length: the one that is asked for; ``planned``: the one of the run's settings.
        steps: what ``length`` comes to in steps.
        reached: the step of the run's newest checkpoint.

    Raises:
        ValueError: ``length`` differs from ``planned`` and is no step further than ``reached``.
    """
    if planned is None or length == planned or steps > reached:
        return
    of = "" if name == "steps" else f", and {name}={length} end at step {steps}"
    raise ValueError(
        f"{name}={length}: the run was planned with {name}={planned} and has reached step "
        f"{reached}{of}; give more to prolong it, or {name}={planned} to leave it as it is."
    )
