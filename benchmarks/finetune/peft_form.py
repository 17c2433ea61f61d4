"""The stored runs in the form of PEFT's own method comparison (method_comparison/MetaMathQA in its
repository): a file a run with ``run_info``, ``train_info`` and ``meta_info``.

That comparison counts right answers of a model of three billion parameters; the models here answer
none, so losses stand where it has accuracies. What a run did not measure is null.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.finetune.methods import METHODS
from benchmarks.finetune.train import CLIP, SCHEDULE, WEIGHT_DECAY


def write(name: str, content: dict[str, Any], folder: Path) -> list[Path]:
    """A file for each run of a study."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for method in (one for one in METHODS if content["runs"].get(one)):
        for run in content["runs"][method]:
            path = folder / f"{method}--{name}-seed{run['seed']}.json"
            path.write_text(json.dumps(of_run(name, method, run, content), indent=2) + "\n")
            paths.append(path)
    return paths


def of_run(name: str, method: str, run: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    settings, (steps, losses) = content["settings"], zip(*run["curve"], strict=True)
    return {
        "run_info": {
            "experiment_name": f"{method}/{name}",
            "train_config": {
                "model_id": settings.get("model", "stories260K"),
                "dtype": "float32",
                "max_seq_length": settings["context"],
                "batch_size": settings["batch"],
                "max_steps": settings["steps"],
                "eval_steps": steps[1] - steps[0],
                "seed": run["seed"],
                "grad_norm_clip": CLIP,
                "optimizer_type": "AdamW",
                "optimizer_kwargs": {"lr": run["rate"], "weight_decay": WEIGHT_DECAY},
                "lr_scheduler": SCHEDULE,
            },
            "peft_config": {"method": METHODS[method], "ranks": run.get("ranks")},
            "error_msg": "",
        },
        "train_info": {
            "train_time": run["cpu_seconds"],
            "file_size": run.get("file_size"),
            "num_trainable_params": run["trainable"],
            "num_total_params": run.get("parameters"),
            "status": "success",
            "metrics": [
                *(
                    {"step": step, "valid loss": loss}
                    for step, loss in zip(steps, losses, strict=True)
                ),
                {"step": steps[-1], "test loss": run["loss"]},
            ],
        },
        "meta_info": {
            "dataset_info": {settings["text"]: {"tokens": settings["tokens"]}},
            "package_info": {
                f"{package}-version": version for package, version in content["versions"].items()
            },
            "system_info": content["machine"],
        },
    }
