"""Progress of a run: a bar where the output is a terminal, a line for each evaluation anywhere."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback


class Progress(ProgressCallback):
    """A bar that carries the loss, and a line for each evaluation; a subclass says what is in
    it.
    """

    def told(self, logs: dict[str, float]) -> str:
        """An evaluation's figures (``eval_...``) as text."""
        raise NotImplementedError

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, dynamic_ncols=True, disable=None)
        self.current_step = 0

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """No second bar: evaluations are short."""

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training_bar is None or not logs:
            return
        if "eval_loss" in logs:
            self.training_bar.write(f"step {state.global_step}: validation {self.told(logs)}")
        elif "loss" in logs:
            self.training_bar.set_postfix(
                loss=f"{logs['loss']:.4f}", lr=f"{logs['learning_rate']:.2e}"
            )
