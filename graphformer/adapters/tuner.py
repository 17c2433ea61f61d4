"""The PEFT tuner: puts Sparse-GIN adapters into a model and takes them off again."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, _ExcludedModule, check_target_module_exists
from peft.utils import _get_submodules
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from graphformer.adapters import calls
from graphformer.adapters.calls import BASE
from graphformer.adapters.config import SparseGINConfig
from graphformer.adapters.edgeless import Edgeless
from graphformer.adapters.layer import NAME, NO_MERGE, SparseGINLayer
from graphformer.frozen import anatomy, capture
from graphformer.frozen.anatomy import FrozenLayer, Place

_lock = threading.Lock()

PAGED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""The entries to transformers' continuous batching."""

HEADS = ("classifier", "score", "qa_outputs")
"""What PEFT adds to ``modules_to_save`` for a task of classes or questions, whichever of them the
model has.
"""


class SparseGINModel(BaseTuner):
    """Sparse-GIN adapters (arXiv 2501.02393, section 2.3) in a pre-trained transformers model.

    Made by ``peft.get_peft_model(model, SparseGINConfig(...))``. The model keeps its weights and
    the results of its attention; its config names another attention function meanwhile, which calls
    the one it had and reads the attention graph beside it.

    Raises:
        UnsupportedModel: an architecture whose attention cannot be read, or that has no place for
            the adapter.
    """

    prefix: str = "sparsegin_"
    tuner_layer_cls = SparseGINLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _prepare_adapter_config(
        self, peft_config: PeftConfig, model_config: dict[str, Any]
    ) -> PeftConfig:
        return peft_config

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        """Find the places for this adapter; the first one also switches the model's attention."""
        assert isinstance(peft_config, SparseGINConfig)
        if "sparsegin_layers" not in self.__dict__:
            if any(isinstance(module, SparseGINLayer) for module in model.modules()):
                raise ValueError(
                    "this model has Sparse-GIN adapters already: add another one with add_adapter "
                    "or load_adapter"
                )
            capture.switch_on(model)
            try:
                self.sparsegin_layers: list[FrozenLayer] = anatomy.examine(model)
                self.sparsegin_edgeless = Edgeless()
                self.sparsegin_places = self._choose(peft_config, model)
            except BaseException:
                capture.switch_off(model)
                self.__dict__.pop("sparsegin_layers", None)
                raise
        else:
            self.sparsegin_places = self._choose(peft_config, model)

    def _choose(self, config: SparseGINConfig, model: nn.Module) -> dict[str, Place | None]:
        """Names of the modules whose outputs are changed, and where they are; None for those that
        the config excludes.
        """
        if config.target_modules is None:
            config.target_modules = sorted(
                {layer.attention.rpartition(".")[2] for layer in self.sparsegin_layers}
            )
        self._require_matches(config, model)
        chosen: dict[str, Place | None] = {}
        matching = _only(
            config, "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"
        )
        for layer in self.sparsegin_layers:
            match = check_target_module_exists(matching, layer.attention)
            if isinstance(match, _ExcludedModule):
                chosen[layer.attention] = None
            elif match:
                place = anatomy.require_place(model, layer, config.placement)
                chosen[place.name] = place
        if not any(chosen.values()):
            names = ", ".join(layer.attention for layer in self.sparsegin_layers)
            raise ValueError(
                f"target_modules={config.target_modules}, exclude_modules={config.exclude_modules} "
                f"and layers_to_transform={config.layers_to_transform} leave no attention module "
                f"of this model, which has {names}"
            )
        for name in config.modules_to_save or ():
            for path, module in model.named_modules():
                inside = [
                    place.attention
                    for place in chosen.values()
                    if place is not None and _holds(module, place.module)
                ]
                if inside and path and path.endswith(name):
                    raise ValueError(
                        f"modules_to_save={name!r} holds {inside[0]}, where this adapter stands: a "
                        "copy of it would be trained without its adapter. Leave it out of "
                        "modules_to_save, or put it into exclude_modules"
                    )
        return chosen

    def _require_matches(self, config: SparseGINConfig, model: nn.Module) -> None:
        """That each name and number of the config is one of this model's: PEFT looks at all of them
        together.
        """
        attentions = [layer.attention for layer in self.sparsegin_layers]
        for field in ("target_modules", "exclude_modules"):
            given = getattr(config, field) or ()
            names = [given] if isinstance(given, str) else sorted(given)
            for name in names:
                asked = _only(config)
                asked.target_modules = name if isinstance(given, str) else [name]
                if any(check_target_module_exists(asked, attention) for attention in attentions):
                    continue
                # where nothing is left, that is told with all that chooses
                if field == "exclude_modules" or len(names) > 1:
                    has = ", ".join(attentions)
                    raise ValueError(
                        f"{field} names {name!r}, which is no attention module of this model; it "
                        f"has {has}"
                    )
        numbers = config.layers_to_transform
        if numbers is not None and (
            full := sorted({*(config.target_modules or ())} & {*attentions})
        ):
            raise ValueError(
                f"layers_to_transform picks among names such as 'self_attn', and {full[0]!r} in "
                "target_modules is one whole path"
            )
        for number in [numbers] if isinstance(numbers, int) else numbers or ():
            asked = _only(config, "layers_pattern")
            asked.target_modules = [attention.rpartition(".")[2] for attention in attentions]
            asked.layers_to_transform = [number]
            if not any(check_target_module_exists(asked, attention) for attention in attentions):
                raise ValueError(
                    f"layers_to_transform names layer {number}, which this model has not got"
                    + (
                        f" under layers_pattern={config.layers_pattern!r}"
                        if config.layers_pattern
                        else ""
                    )
                    + f"; it has {', '.join(attentions)}"
                )
        known = [path for path, _ in model.named_modules()]
        for name in config.modules_to_save or ():
            if name not in HEADS and not any(path.endswith(name) for path in known):
                raise ValueError(
                    f"modules_to_save names {name!r}, and this model has no module of that name"
                )

    def inject_adapter(self, *args: Any, **kwargs: Any) -> None:
        # the config says which modules, and the weights' names are those of its parts
        kwargs.pop("state_dict", None)
        super().inject_adapter(*args, **kwargs)
        self._hand_names_to_wrappers()

    # ------------------------------------------------------------------ an adapter for each row

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT's name for what it does with ``adapter_names``, an adapter for each row of the batch
        (``"__base__"`` for none).

        Raises:
            ValueError: a name that is none of an adapter; a model in training mode;
                ``alora_offsets``, which are of another method.
            TypeError: not a list of names.
        """
        if kwargs.get("alora_offsets") is not None:
            raise ValueError(
                "alora_offsets belongs to aLoRA, and Sparse-GIN has no use for it: leave it out"
            )
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise TypeError(
                "adapter_names must be a list of names, one for each row of the batch, got "
                f"{names!r}"
            )
        if self.training:
            raise ValueError(
                "adapter_names is for inference and the model is in training mode: call eval() "
                "first"
            )
        if unknown := sorted({*names} - {BASE, *self.peft_config}):
            known = ", ".join(map(repr, (*self.peft_config, BASE)))
            raise ValueError(
                f"adapter_names holds {', '.join(map(repr, unknown))}, which is no adapter of this "
                f"model; it has {known}"
            )
        self._hand_names_to_wrappers()
        with calls.by_row(names):
            yield

    def _hand_names_to_wrappers(self) -> None:
        """Let the wrappers of ``modules_to_save`` see ``adapter_names``, once each: hooks for one
        call would be seen by other threads.
        """
        with _lock:
            for module in self.model.modules():
                if (
                    isinstance(module, AuxiliaryTrainingWrapper)
                    and calls.hand_names_on not in module._forward_pre_hooks.values()
                ):
                    module.register_forward_pre_hook(calls.hand_names_on, with_kwargs=True)

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if name in PAGED:
            return _refuse_pages
        return calls.repeating(found) if name == "generate" else found

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> Any:  # type: ignore[override]
        if key not in self.sparsegin_places:
            return False
        return _ExcludedModule() if self.sparsegin_places[key] is None else True

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        place = self.sparsegin_places[current_key]
        assert place is not None and isinstance(peft_config, SparseGINConfig)
        layer = getattr(place.module, NAME, None)
        if layer is None:
            layer = SparseGINLayer(place, self.sparsegin_edgeless)
            layer.set_adapter(self.active_adapters)
            layer.attach()
        layer.update_layer(adapter_name, peft_config)

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE)

    def _unload_and_optionally_merge(  # type: ignore[override]
        self, merge: bool = True, *args: Any, **kwargs: Any
    ) -> nn.Module:
        if merge:
            self._check_merge_allowed()
        for name, module in list(self.model.named_modules()):
            if isinstance(module, SparseGINLayer):
                module.detach()
            elif isinstance(module, ModulesToSaveWrapper):
                # the untouched module; PEFT's own unload leaves the trained copy
                parent, _, own = _get_submodules(self.model, name)
                setattr(parent, own, module.original_module)
            elif isinstance(module, AuxiliaryTrainingWrapper):
                parent, _, own = _get_submodules(self.model, name)
                setattr(
                    parent,
                    own,
                    module.unload_and_optionally_merge_module(
                        merge=False, safe_merge=False, adapter_names=None
                    ),
                )
        capture.switch_off(self.model)
        self.__dict__.pop("sparsegin_layers", None)
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        return self.model

    def delete_adapter(self, adapter_name: str) -> None:
        active = self.active_adapters
        super().delete_adapter(adapter_name)
        # one choice for all layers: PEFT lets each choose among those that it has
        if adapter_name in active:
            self.set_adapter(
                [name for name in active if name != adapter_name] or list(self.peft_config)[:1]
            )

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "Sparse-GIN adapters are not linear in their weights, so no adapter adds the weighted "
            "sum of what others add: set_adapter([...]) on the tuner runs several at once"
        )

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        short = re.sub(
            rf"(\.sparsegin_(?:gnn|scale))\.{re.escape(adapter_name)}(?=\.|$)", r"\1", key
        )
        return super()._remove_adapter_name_from_key(key, adapter_name) if short == key else short


def _only(config: SparseGINConfig, *fields: str) -> SparseGINConfig:
    """A config that chooses modules by these of its fields alone."""
    made = copy.copy(config)
    for name in (
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
    ):
        if name not in fields:
            setattr(made, name, None)
    return made


def _holds(module: nn.Module, part: nn.Module) -> bool:
    return any(inside is part for inside in module.modules())


def _refuse_pages(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(
        "a Sparse-GIN adapter has no continuous batching (generate_batch): transformers keeps the "
        "keys of all requests in pages, by an attention function of its own, and there is no graph "
        "of one sequence. Pad the prompts on the left and call generate"
    )
