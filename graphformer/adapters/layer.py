"""The adapter in one layer of a model: a part of the module whose output it changes, called by a
hook.

Unlike most of PEFT's layers it is not wrapped around that module: the names of the base model's
parameters stay what they were, so that a LoRA inside of an adapted attention is saved and loaded
under the same names as without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from graphformer.adapters import calls
from graphformer.adapters.calls import BASE, Call
from graphformer.adapters.config import SparseGINConfig
from graphformer.adapters.edgeless import Edgeless
from graphformer.adapters.merging import not_merged
from graphformer.adapters.part import AdapterPart, exact, new_number
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.frozen import capture
from graphformer.frozen.anatomy import Place
from graphformer.frozen.capture import Attention
from graphformer.frozen.steps import stream_in, stream_out
from graphformer.graph import AttentionGraph
from graphformer.nn import memory
from graphformer.nn.sparse_gin import SparseGIN, self_loops

NAME = "sparsegin"
"""What it is called in the module that it is a part of."""


@dataclass
class AdapterSettings:
    """What an adapter's layer needs of its config."""

    config: SparseGINConfig
    sparsifier: Sparsifier
    key: str
    number: int = field(default_factory=new_number)
    """Names the adapter in caches: one that was deleted and made again under its name is
    another.
    """

    def graph(self, attention: Attention) -> AttentionGraph:
        graph = attention.graph(
            self.sparsifier, merged=self.config.graph == "merged", clamp=self.config.clamp
        )
        return self_loops(graph) if self.config.direction == "self" else graph


Settings = AdapterSettings
"""As pickled models name it."""


class SparseGINLayer(AdapterPart):
    r"""``y -> y + scale * SparseGIN(h, graph)``, ``h`` being the stream that ``y`` belongs to (see
    :mod:`graphformer.frozen.anatomy`).

    Args:
        place: where it stands.
        edgeless: collects layers without edges.
    """

    adapter_layer_names = ("sparsegin_gnn", "sparsegin_scale")
    other_param_names = ("settings",)

    def __init__(self, place: Place, edgeless: Edgeless) -> None:
        super().__init__()
        self.sparsegin_gnn = nn.ModuleDict()
        self.sparsegin_scale = nn.ParameterDict()
        self.settings: dict[str, AdapterSettings] = {}
        self.place, self.edgeless = place, edgeless

    def attach(self) -> None:
        place = self.place
        self.train(place.module.training)
        self.edgeless.last = max(self.edgeless.last, place.order)
        place.module.add_module(NAME, self)
        capture.listen(place.caller, self)
        self.handles = [
            # a run may also end in an error
            place.layer.register_forward_hook(self._end, always_call=True),
            place.caller.register_forward_pre_hook(self._see_cache, with_kwargs=True),
            place.module.register_forward_hook(self._change),
        ]
        if place.residual is not None:
            self.handles.append(
                place.residual.register_forward_pre_hook(self._see_residual, with_kwargs=True)
            )

    def detach(self) -> None:
        delattr(self.place.module, NAME)
        capture.ignore(self.place.caller, self)
        for handle in self.handles:
            handle.remove()

    def get_base_layer(self) -> nn.Module:
        return self.place.module

    # ------------------------------------------------------------------ adapters

    def update_layer(self, adapter_name: str, config: SparseGINConfig) -> None:
        """Add an adapter, at the start of its training."""
        place = self.place
        gnn = SparseGIN(
            place.hidden_size,
            **config.network(),
            num_heads=place.num_heads if config.graph == "per_head" else None,
        )
        scale = config.scale(place.position, place.count)
        if config.init_identity:
            scale = _start_as_identity(gnn, scale, config)
        gnn.train(self.training)
        device, dtype = self._device_and_dtype()
        # where weights are loaded into later, PEFT places them
        if not next(gnn.parameters()).is_meta:
            gnn = gnn.to(device, dtype)
        self.sparsegin_gnn[adapter_name] = gnn
        self.sparsegin_scale[adapter_name] = nn.Parameter(
            torch.full((1,), scale, dtype=dtype, device=device)
        )
        self.settings[adapter_name] = AdapterSettings(
            config, config.sparsifier(place.num_heads), config.graph_key()
        )
        if not config.train_scale:
            self.frozen_peft_weight_names[adapter_name] = ("sparsegin_scale",)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.settings:
                raise ValueError(not_merged(self.settings[name].config))

    def unmerge(self) -> None:
        """Nothing: it is never merged."""

    def _get_base_layer_device_and_dtype(
        self, base_layer: nn.Module
    ) -> tuple[torch.device, torch.dtype]:
        return self._device_and_dtype()

    def _device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        return exact(next(self.place.caller.parameters()))

    # ------------------------------------------------------------------ running

    # All of these but the last run inside the layer's forward, so that a recomputed layer
    # (activation checkpointing) runs them again. `self` is the layer that was attached, also where
    # torch has made replicas of the model: those share its hooks.

    def _see_residual(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self.runs():
            calls.of(self).residual = stream_in(args, kwargs)

    def _see_cache(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.runs():
            call = calls.of(self)
            call.cache, call.graphs = memory.find_cache(args, kwargs), None

    def hear(self, attention: Attention) -> None:
        """Build the graphs of the adapters that run."""
        if not self.runs():
            return
        call, graphs = calls.of(self), []
        call.running = self._running(attention)
        # adapters with all rows share the graphs that are the same
        made: dict[str, AttentionGraph] = {}
        for name, rows in call.running:
            settings = self.settings[name]
            graph = made.get(settings.key) if rows is None else None
            if graph is None:
                graph = settings.graph(attention if rows is None else attention.select(rows))
                self.edgeless.note(self.place, graph)
            if rows is None:
                made[settings.key] = graph
            graphs.append(graph)
        call.graphs = tuple(graphs)

    def _running(self, attention: Attention) -> tuple[tuple[str, Tensor | None], ...]:
        """The adapters that take part and the rows of the batch that each is for; None for all."""
        asked = calls.rows()
        if asked is None:
            return tuple((name, None) for name in self.active_adapters if name in self.settings)
        names = asked.of(attention.query.shape[0])
        numbers = {
            name: [row for row, other in enumerate(names) if other == name]
            for name in dict.fromkeys(names)
            if name != BASE
        }
        device = attention.query.device
        return tuple(
            (name, torch.tensor(rows, device=device))
            for name, rows in numbers.items()
            if name in self.settings
        )

    def _change(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self.runs():
            return output
        return getattr(module, NAME)(output, calls.end(self))

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls.end(self)

    def forward(self, output: Any, call: Call | None) -> Any:
        """The output of the module that this is a part of, with the adapters' messages added."""
        y = stream_out(output)
        if (
            call is None
            or call.graphs is None
            or y is None
            or (call.residual is None and self.place.residual is not None)
        ):
            raise RuntimeError(self._nothing_heard())
        h = y if call.residual is None else call.residual.reshape(y.shape) + y
        for (name, rows), graph in zip(call.running, call.graphs, strict=True):
            message = self.sparsegin_scale[name] * self._message(name, h, graph, call.cache, rows)
            message = message.to(y.dtype)
            if rows is not None:
                # some layers fold sequences into one axis
                tokens = y.reshape(-1, graph.num_receivers, y.shape[-1])
                message = torch.zeros_like(tokens).index_copy(0, rows, message)
            y = y + message.reshape(y.shape)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    def _message(
        self, name: str, h: Tensor, graph: AttentionGraph, cache: Any, rows: Tensor | None
    ) -> Tensor:
        """What the adapter says to the tokens of its rows, ``[rows, N, hidden]``."""
        gnn, number = self.sparsegin_gnn[name], self.settings[name].number
        length = graph.num_receivers
        batch = graph.batch_shape[0] if rows is None else len(h)
        if h.ndim == 3 and h.shape[:2] != (batch, length):
            raise RuntimeError(
                f"the attention of {self.place.attention} was over {graph.batch_shape[0]} "
                f"sequences of {length} tokens, and the layer's stream is {list(h.shape)}: a "
                "Sparse-GIN adapter needs the same tokens in both"
            )
        # Of the adapter's precision, float32 beside a model in half precision.
        h = h.to(self.sparsegin_scale[name].dtype).reshape(-1, length, h.shape[-1])
        batch = len(h)
        h = h if rows is None else h[rows]
        if cache is None:
            return gnn(h, graph)
        layer = memory.remembering(cache, int(self.place.caller.layer_idx))  # type: ignore[arg-type]
        past = memory.recall(layer, number, name, h, graph.num_senders - length, rows)
        out, sent = gnn(h, graph, past)
        layer.store(number, sent, rows, batch)
        return out

    def _nothing_heard(self) -> str:
        if not capture.is_on(self.place.caller):
            now = getattr(self.place.caller.config, "_attn_implementation", None)
            return (
                f"the model's attention implementation was set to {now!r} after a Sparse-GIN "
                "adapter was put in, so that its graph cannot be read: set it before "
                "get_peft_model, or on the base model that unload() returns"
            )
        return (
            f"{self.place.attention} ran without its attention graph being read: call the whole "
            "model, not a part of a layer"
        )


@torch.no_grad()
def _start_as_identity(gnn: SparseGIN, scale: float, config: SparseGINConfig) -> float:
    """Make the network's output 0 in a way that trains; returns the scale to start with.

    Of a product of two only one factor may be 0: else neither gets a gradient. So a scale of 0
    leaves the network as it is.
    """
    if scale == 0:
        if config.train_scale:
            return scale
        raise ValueError(
            "a layer's scale is 0 and train_scale is False, so that layer could never learn: set "
            "scale_start above 0"
        )
    if gnn.norm is not None:
        nn.init.zeros_(gnn.norm.weight)
    elif gnn.mix is not None or not isinstance(gnn.output_projection, nn.Identity):
        for parameter in (gnn.output_projection if gnn.mix is None else gnn.mix).parameters():
            nn.init.zeros_(parameter)
    elif config.train_scale:
        return 0.0
    else:
        raise ValueError(
            "init_identity needs a factor that can start at 0: output_norm, a projection "
            "(hidden_dim below the model's) or train_scale"
        )
    return scale
