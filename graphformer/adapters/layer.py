"""The adapter in one layer of a model: a part of the module whose output it changes, called by a hook.

Other than most of PEFT's it is not put around that module: the names of the base model's parameters stay what they were, so that a LoRA
inside of an adapted attention is saved and loaded under the same names as without it.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from graphformer.adapters import capture, memory
from graphformer.adapters.anatomy import Place
from graphformer.adapters.capture import Attention
from graphformer.adapters.config import SparseGINConfig
from graphformer.adapters.steps import stream_in, stream_out
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.graph import AttentionGraph
from graphformer.nn.sparse_gin import SparseGIN, self_loops

NAME = "sparsegin"
"""What it is called in the module that it is a part of."""

_numbers = itertools.count()


@dataclass
class Settings:
    """What an adapter's layer needs of its config."""

    config: SparseGINConfig
    sparsifier: Sparsifier
    key: str
    number: int = field(default_factory=lambda: next(_numbers))
    """Names the adapter in caches: one that was deleted and made again under its name is another."""

    def graph(self, attention: Attention) -> AttentionGraph:
        graph = attention.graph(self.sparsifier, merged=self.config.graph == "merged", clamp=self.config.clamp)
        return self_loops(graph) if self.config.direction == "self" else graph


@dataclass
class Edgeless:
    """Warns once, after a whole pass, of layers whose graphs have no edge.

    Attributes:
        last: the last layer that has adapters.
        edges: what this pass has shown so far, fewest edges by the name of the layer.
    """

    last: int = 0
    previous: int = -1
    edges: dict[str, int] = field(default_factory=dict)
    warned: bool = False

    def note(self, place: Place, graph: AttentionGraph) -> None:
        if self.warned or graph.num_receivers != graph.num_senders:  # in decoding one token may well have no edge
            return
        if place.order < self.previous:  # a new pass, and the one before ended early
            self._warn()
        self.edges[place.attention] = min(graph.num_edges, self.edges.get(place.attention, graph.num_edges))
        self.previous = place.order
        if place.order == self.last:
            self._warn()

    def _warn(self) -> None:
        empty = [name for name, edges in self.edges.items() if edges == 0]
        self.edges.clear()
        self.previous = -1
        if empty:
            self.warned = True
            warnings.warn(
                f"no attention weight passes the threshold in {', '.join(empty)}: there Sparse-GIN has no edges and adds only its bias. "
                "Lower threshold in SparseGINConfig",
                stacklevel=2,
            )


class SparseGINLayer(nn.Module, BaseTunerLayer):
    r"""``y -> y + scale * SparseGIN(h, graph)``, ``h`` being the stream that ``y`` belongs to (see :mod:`graphformer.adapters.anatomy`).

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
        self.settings: dict[str, Settings] = {}
        self.place, self.edgeless = place, edgeless
        self._disable_adapters = False
        self.merged_adapters = []
        self.frozen_peft_weight_names = {}
        self._forget()

    def attach(self) -> None:
        """Become a part of the module whose output is to be changed."""
        place = self.place
        self.train(place.module.training)
        self.edgeless.last = max(self.edgeless.last, place.order)
        place.module.add_module(NAME, self)
        capture.listen(place.caller, self)
        self.handles = [place.caller.register_forward_pre_hook(self._see_cache, with_kwargs=True)]
        if place.residual is not None:
            self.handles.append(place.residual.register_forward_pre_hook(self._see_residual, with_kwargs=True))
        self.handles.append(place.module.register_forward_hook(self._change))

    def detach(self) -> None:
        """The opposite of :meth:`attach`."""
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
            config.hidden_dim,
            config.depth,
            activation=config.activation,
            mlp_ratio=config.mlp_ratio,
            hidden_norm=config.hidden_norm,
            residual=config.residual,
            dropout=config.dropout,
            output_norm=config.output_norm,
            self_weight=config.self_weight,
            input_norm=config.input_norm,
            num_heads=place.num_heads if config.graph == "per_head" else None,
        )
        scale = config.scale(place.position, place.count)
        if config.init_identity:
            scale = _start_as_identity(gnn, scale, config)
        gnn.train(self.training)
        device = next(place.caller.parameters()).device
        if not next(gnn.parameters()).is_meta:  # where weights are loaded into later, PEFT places them
            gnn = gnn.to(device, torch.float32)
        self.sparsegin_gnn[adapter_name] = gnn
        self.sparsegin_scale[adapter_name] = nn.Parameter(torch.full((1,), scale, dtype=torch.float32, device=device))
        self.settings[adapter_name] = Settings(config, config.sparsifier(place.num_heads), config.graph_key())
        if not config.train_scale:
            self.frozen_peft_weight_names[adapter_name] = ("sparsegin_scale",)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError(NO_MERGE)

    def unmerge(self) -> None:
        raise ValueError(NO_MERGE)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        return next(self.place.caller.parameters()).device, torch.float32

    # ------------------------------------------------------------------ running

    def _running(self) -> list[str]:
        return [] if self.disable_adapters else [name for name in self.active_adapters if name in self.settings]

    def _forget(self) -> None:
        self._residual: Tensor | None = None
        self._cache: Any = None
        self._graphs: dict[str, AttentionGraph] | None = None

    # All of these run inside the layer's forward, so that a recomputed layer (activation checkpointing) runs them again.

    def _see_residual(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._residual = stream_in(args, kwargs) if self._running() else None

    def _see_cache(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._graphs, self._cache = None, memory.find_cache(args, kwargs) if self._running() else None

    def hear(self, attention: Attention) -> None:
        graphs: dict[str, AttentionGraph] = {}
        for name in self._running():
            settings = self.settings[name]
            if settings.key not in graphs:
                graphs[settings.key] = settings.graph(attention)
                self.edgeless.note(self.place, graphs[settings.key])
        self._graphs = graphs

    def _change(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self(output)

    def forward(self, output: Any) -> Any:
        """The output of the module that this is a part of, with the adapters' messages added."""
        running = self._running()
        residual, cache, graphs = self._residual, self._cache, self._graphs
        self._forget()
        if not running:
            return output
        y = stream_out(output)
        if graphs is None or y is None or (residual is None and self.place.residual is not None):
            raise RuntimeError(self._nothing_heard())
        h = y if residual is None else residual.reshape(y.shape) + y
        for name in running:
            settings = self.settings[name]
            message = self.sparsegin_scale[name] * self._message(name, settings, h, graphs[settings.key], cache)
            y = y + message.to(y.dtype).reshape(y.shape)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    def _message(self, name: str, settings: Settings, h: Tensor, graph: AttentionGraph, cache: Any) -> Tensor:
        gnn = self.sparsegin_gnn[name]
        if h.ndim == 3 and h.shape[:2] != (graph.batch_shape[0], graph.num_receivers):
            raise RuntimeError(
                f"the attention of {self.place.attention} was over {graph.batch_shape[0]} sequences of {graph.num_receivers} tokens, and "
                f"the layer's stream is {list(h.shape)}: a Sparse-GIN adapter needs the same tokens in both"
            )
        # Of the adapter's precision, float32 beside a model in half precision; some layers fold sequences into one axis.
        h = h.to(self.sparsegin_scale[name].dtype).reshape(graph.batch_shape[0], graph.num_receivers, -1)
        if cache is None:
            return gnn(h, graph)
        layer = memory.remembering(cache, int(self.place.caller.layer_idx))  # type: ignore[arg-type]
        past = memory.recall(layer, settings.number, name, h, graph.num_senders - graph.num_receivers)
        out, sent = gnn(h, graph, past)
        layer.store(settings.number, sent)
        return out

    def _nothing_heard(self) -> str:
        if not capture.is_on(self.place.caller):
            now = getattr(self.place.caller.config, "_attn_implementation", None)
            return (
                f"the model's attention implementation was set to {now!r} after a Sparse-GIN adapter was put in, so that its graph "
                "cannot be read: set it before get_peft_model, or on the base model that unload() returns"
            )
        return f"{self.place.attention} ran without its attention graph being read: call the whole model, not a part of a layer"


NO_MERGE = (
    "a Sparse-GIN adapter cannot be merged into the weights of its model: what it adds depends on the attention graph of the input. "
    "Keep it beside the model, or take it off with unload()"
)


@torch.no_grad()
def _start_as_identity(gnn: SparseGIN, scale: float, config: SparseGINConfig) -> float:
    """Make the network's output 0 in a way that trains; returns the scale to start with.

    Of a product of two only one factor may be 0: else neither gets a gradient. So a scale of 0 leaves the network as it is.
    """
    if scale == 0:
        if config.train_scale:
            return scale
        raise ValueError("a layer's scale is 0 and train_scale is False, so that layer could never learn: set scale_start above 0")
    if gnn.norm is not None:
        nn.init.zeros_(gnn.norm.weight)
    elif gnn.mix is not None or not isinstance(gnn.output_projection, nn.Identity):
        for parameter in (gnn.output_projection if gnn.mix is None else gnn.mix).parameters():
            nn.init.zeros_(parameter)
    elif config.train_scale:
        return 0.0
    else:
        raise ValueError(
            "init_identity needs a factor that can start at 0: output_norm, a projection (hidden_dim below the model's) or train_scale"
        )
    return scale
