"""The PEFT tuner: puts Sparse-GIN adapters into a model and takes them off again."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, _ExcludedModule, check_target_module_exists
from peft.utils import _get_submodules
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from graphformer.adapters import calls
from graphformer.adapters.bottlenecks import BottleneckLayer, linears, plan
from graphformer.adapters.bottlenecks.linears import Linear
from graphformer.adapters.bottlenecks.putting import put
from graphformer.adapters.calls import BASE
from graphformer.adapters.choosing import only, refuse_copies, require_matches
from graphformer.adapters.config import SparseGINConfig
from graphformer.adapters.edgeless import Edgeless
from graphformer.adapters.forms import BOTTLENECKS
from graphformer.adapters.layer import NAME, SparseGINLayer
from graphformer.adapters.merging import not_merged
from graphformer.adapters.part import AdapterPart
from graphformer.errors import require_flag
from graphformer.frozen import anatomy, capture
from graphformer.frozen.anatomy import FrozenLayer, Place

_lock = threading.Lock()

PAGED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""The entries to transformers' continuous batching."""


class SparseGINModel(BaseTuner):
    """Adapters of both forms in a pre-trained transformers model.

    Made by ``peft.get_peft_model(model, SparseGINConfig(...))``. The model keeps its weights and
    the results of its attention. For the paper's form its config names another attention function
    meanwhile, which calls the one it had and reads the attention graph beside it.

    Raises:
        UnsupportedModel: an architecture whose attention cannot be read, or that has no place for
            the adapter.
    """

    prefix: str = "sparsegin_"
    tuner_layer_cls = AdapterPart
    target_module_mapping: dict[str, list[str]] = {}

    def _prepare_adapter_config(
        self, peft_config: PeftConfig, model_config: dict[str, Any]
    ) -> PeftConfig:
        return peft_config

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        """Find the places for this adapter; the first one also switches the model's attention."""
        assert isinstance(peft_config, SparseGINConfig)
        if not self._known() and any(isinstance(one, AdapterPart) for one in model.modules()):
            raise ValueError(
                "this model has Sparse-GIN adapters already: add another one with add_adapter or "
                "load_adapter"
            )
        self.sparsegin_places: dict[str, Place | None] = {}
        self.sparsegin_plan: plan.Plan | None = None
        if peft_config.form == BOTTLENECKS:
            if "sparsegin_linears" not in self.__dict__:
                self.sparsegin_linears: list[Linear] = linears.examine(model)
            made = plan.make(peft_config, model, self.sparsegin_linears)
            if (messages := peft_config.messages_config()) is not None:
                self.sparsegin_places = self._places(messages, model, _layers(made))
            self.sparsegin_plan = made
        else:
            self.sparsegin_places = self._places(peft_config, model)

    def _known(self) -> bool:
        """Whether this tuner has looked at its model."""
        return not self.__dict__.keys().isdisjoint(("sparsegin_layers", "sparsegin_linears"))

    def _places(
        self, config: SparseGINConfig, model: nn.Module, within: frozenset[str] | None = None
    ) -> dict[str, Place | None]:
        """Where networks on the model's own graph stand; the first adapter with such also switches
        the model's attention.

        Args:
            within: names of the only layers that are looked at.
        """
        if "sparsegin_layers" in self.__dict__:
            return self._choose(config, model, within)
        capture.switch_on(model)
        try:
            self.sparsegin_layers: list[FrozenLayer] = anatomy.examine(model)
            self.sparsegin_edgeless = Edgeless()
            return self._choose(config, model, within)
        except BaseException:
            capture.switch_off(model)
            self.__dict__.pop("sparsegin_layers", None)
            raise

    def _choose(
        self, config: SparseGINConfig, model: nn.Module, within: frozenset[str] | None
    ) -> dict[str, Place | None]:
        """Names of the modules whose outputs are changed, and where they are; None for those that
        the config excludes.
        """
        layers = self.sparsegin_layers
        if within is not None:
            layers = [
                one
                for one in layers
                if any(one.attention.startswith(f"{name}.") for name in within)
            ]
        if config.target_modules is None:
            config.target_modules = sorted({layer.attention.rpartition(".")[2] for layer in layers})
        names = [layer.attention for layer in layers]
        require_matches(config, model, names, "attention module")
        chosen: dict[str, Place | None] = {}
        matching = only(
            config, "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"
        )
        for layer in layers:
            match = check_target_module_exists(matching, layer.attention)
            if isinstance(match, _ExcludedModule):
                chosen[layer.attention] = None
            elif match:
                place = anatomy.require_place(model, layer, config.placement)
                chosen[place.name] = place
        if not any(chosen.values()):
            raise ValueError(
                f"target_modules={config.target_modules}, exclude_modules={config.exclude_modules} "
                f"and layers_to_transform={config.layers_to_transform} leave no attention module "
                f"of this model, which has {', '.join(names)}"
            )
        placed = [one for one in chosen.values() if one is not None]
        standing = [(one.attention, part) for one in placed for part in (one.module, one.caller)]
        standing += [
            (f"what reads the residual of {one.attention}", one.residual)
            for one in placed
            if one.residual is not None
        ]
        refuse_copies(config, model, standing)
        return chosen

    def inject_adapter(self, *args: Any, **kwargs: Any) -> None:
        # the config says which modules, and the weights' names are those of its parts
        kwargs.pop("state_dict", None)
        super().inject_adapter(*args, **kwargs)
        if _tell_unplaced not in self._load_state_dict_post_hooks.values():
            self.register_load_state_dict_post_hook(_tell_unplaced)
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
        if any(isinstance(one, AdapterPart) and one.merged for one in self.model.modules()):
            raise ValueError(
                "adapter_names needs adapters beside the weights, and some are merged into them: "
                "call unmerge_adapter() first"
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
        if (made := self.sparsegin_plan) is not None:
            return _ExcludedModule() if key in made.excluded else made.of(key) is not None
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
        assert isinstance(peft_config, SparseGINConfig)
        if self.sparsegin_plan is None:
            self._put_network(current_key, adapter_name, peft_config)
            return
        first = put(self.sparsegin_plan, current_key, adapter_name, peft_config, self)
        if first and (messages := peft_config.messages_config()) is not None:
            for name in self.sparsegin_places:
                self._put_network(name, adapter_name, messages)

    def _put_network(self, name: str, adapter_name: str, config: SparseGINConfig) -> None:
        """The paper's form in one layer."""
        place = self.sparsegin_places[name]
        assert place is not None
        layer = getattr(place.module, NAME, None)
        if layer is None:
            layer = SparseGINLayer(place, self.sparsegin_edgeless)
            layer.set_adapter(self.active_adapters)
            layer.attach()
        layer.update_layer(adapter_name, config)

    def _check_merge_allowed(self, adapter_names: list[str] | None = None) -> None:
        for name in self.active_adapters if adapter_names is None else adapter_names:
            config = self.peft_config.get(name)
            if isinstance(config, SparseGINConfig) and (reason := not_merged(config)):
                raise ValueError(reason)
        for path, module in self.model.named_modules():
            if isinstance(module, BottleneckLayer):
                module.require_plain_weight(path)

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False
    ) -> None:
        self._check_merge_allowed(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def unmerge_adapter(self) -> None:
        self._check_merge_allowed()
        super().unmerge_adapter()

    def _unload_and_optionally_merge(  # type: ignore[override]
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self._check_merge_allowed(adapter_names)
        for name, module in list(self.model.named_modules()):
            if isinstance(module, AdapterPart):
                if merge:
                    module.merge(safe_merge=safe_merge, adapter_names=adapter_names)
                module.detach()
            elif isinstance(module, ModulesToSaveWrapper) and not merge:
                # the untouched module; PEFT's own unload leaves the trained copy
                parent, _, own = _get_submodules(self.model, name)
                setattr(parent, own, module.original_module)
            elif isinstance(module, AuxiliaryTrainingWrapper):
                parent, _, own = _get_submodules(self.model, name)
                setattr(
                    parent,
                    own,
                    module.unload_and_optionally_merge_module(
                        merge=merge, safe_merge=safe_merge, adapter_names=adapter_names
                    ),
                )
        if "sparsegin_layers" in self.__dict__:
            capture.switch_off(self.model)
        for linear in self.__dict__.get("sparsegin_linears", ()):
            linear.stack.detach()
        for known in ("sparsegin_layers", "sparsegin_linears"):
            self.__dict__.pop(known, None)
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        return self.model

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """As PEFT's, which leaves out a name that it does not know.

        Raises:
            TypeError: ``inference_mode`` is no flag. ValueError: such a name.
        """
        require_flag("inference_mode", inference_mode)
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        if unknown := [name for name in names if name not in self.peft_config]:
            raise ValueError(
                f"set_adapter names {', '.join(map(repr, unknown))}, which is no adapter of this "
                f"model; it has {', '.join(map(repr, self.peft_config))}"
            )
        super().set_adapter(adapter_name, inference_mode)

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
        short = re.sub(rf"(\.sparsegin_[a-z]+)\.{re.escape(adapter_name)}(?=\.|$)", r"\1", key)
        return super()._remove_adapter_name_from_key(key, adapter_name) if short == key else short


def _layers(made: plan.Plan) -> frozenset[str]:
    """Names of the layers that have bottlenecks."""
    return frozenset(one.layer for group in made.groups for one in group.members)


def _tell_unplaced(tuner: nn.Module, keys: Any) -> None:
    """A warning for loaded weights of an adapter that this model has no place for; PEFT tells of
    missing ones alone.
    """
    if own := [key for key in keys.unexpected_keys if ".sparsegin_" in key]:
        warnings.warn(
            f"{len(own)} weights of a Sparse-GIN adapter have no place in this model and are left "
            f"out, {own[0]!r} among them: load it into the model that it was trained on, with its "
            "own config",
            stacklevel=2,
        )


def _refuse_pages(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(
        "a Sparse-GIN adapter has no continuous batching (generate_batch): transformers keeps the "
        "keys of all requests in pages, by an attention function of its own, and there is no graph "
        "of one sequence. Pad the prompts on the left and call generate"
    )
