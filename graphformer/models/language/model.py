"""Graphformer: a causal language model whose attention heads are graphs. Reads top to bottom."""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationConfig, GenerationMixin
from transformers.modeling_utils import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from graphformer.attention.candidates import Rule
from graphformer.attention.feed_forwards.base import HeadLinear
from graphformer.attention.relations import Tokens
from graphformer.errors import strict_flags
from graphformer.models.language.block import (
    GraphformerDecoderLayer,
    GraphformerRMSNorm,
    for_rotary,
)
from graphformer.models.language.cached_ids import remember_ids, with_cached_ids
from graphformer.models.language.configuration import GraphformerConfig
from graphformer.models.language.inputs import (
    OF_THE_LOSS,
    check_labels,
    check_others,
    check_tokens,
    embed,
    loss_of_labels,
    packed_texts,
    refuse_packed_and_padded,
    without_trivial,
)
from graphformer.models.language.outputs import (
    CACHE,
    GraphformerCausalLMOutput,
    GraphformerModelOutput,
    one_cache,
)
from graphformer.models.unmasked import refuse_masks
from graphformer.nn import GraphAttention, HeadMLP
from graphformer.nn.running_cache import let_hold_sums
from graphformer.nn.shell import check_first


class GraphformerPreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, as in every transformers model."""

    config_class = GraphformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GraphformerDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    # The layers call scaled_dot_product_attention themselves where no edges are needed; there is no
    # other implementation to switch to.
    _supports_sdpa = True
    _can_record_outputs = {
        "hidden_states": GraphformerDecoderLayer,
        "graphs": OutputRecorder(GraphAttention, index=1),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HeadMLP):
            for weight, bias in ((module.weight1, module.bias1), (module.weight2, module.bias2)):
                init.normal_(weight, mean=0.0, std=self.config.initializer_range)
                if bias is not None:
                    init.zeros_(bias)
            if module.norm is not None:
                init.ones_(module.norm)
        elif isinstance(module, HeadLinear):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        elif hasattr(module, "reset_own_parameters"):
            # layers and slots; transformers guards what was loaded
            module.reset_own_parameters()  # type: ignore[operator]

    @staticmethod
    def _finalize_model_loading(model: Any, load_config: Any, loading_info: Any) -> Any:
        """Masks of pruning are refused, which transformers would leave out."""
        refuse_masks(load_config.pretrained_model_name_or_path, loading_info.unexpected_keys)
        return PreTrainedModel._finalize_model_loading(model, load_config, loading_info)


class GraphformerModel(GraphformerPreTrainedModel):
    """Embedding, decoder blocks, final norm."""

    def __init__(self, config: GraphformerConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            GraphformerDecoderLayer(config, i) for i in range(config.num_hidden_layers)
        )
        for layer, after in itertools.pairwise(self.layers):
            layer.next_reads = after.self_attn.score_slot.previous  # type: ignore[union-attr]
        if config.num_hidden_layers and self.layers[0].self_attn.score_slot.previous:  # type: ignore[union-attr]
            raise ValueError(
                "the first layer's score reads the graph of the layer before, and there is none: "
                "give heads by layer"
            )
        if any(layer.self_attn.features.reads_first for layer in self.layers):  # type: ignore[union-attr]
            self.layers[0].later_read = True  # type: ignore[assignment]
            check_first([layer.self_attn for layer in self.layers])
        self.norm = GraphformerRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.relations = config.text_relations
        # reads only fields that our config has too
        self.rotary_emb = LlamaRotaryEmbedding(cast(Any, for_rotary(config)))
        self.gradient_checkpointing = False
        self.post_init()

    @strict_flags
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_graphs: bool = False,
        cache: Cache | None = None,
        block_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> GraphformerModelOutput:
        """
        Args:
            input_ids: ``[B, N]``, or ``inputs_embeds`` ``[B, N, hidden_size]``.
            attention_mask: 1 for real tokens, ``[B, N]`` with cached tokens counted, or allowed
                pairs ``[B, 1, N, Nk]``.
            position_ids: ``[B, N]``. Without cached tokens and where no mask hides anything, a
                position that does not follow its predecessor starts a new text: packed texts do not
                see each other.
            cache: a transformers cache. ``past_key_values`` is its older name.
            output_graphs: return every layer's :class:`~graphformer.AttentionGraph`.
            block_ids: int ``[B, N]`` with cached tokens counted, for heads with
                ``candidates=Blocks(None)``: a block begins where the number changes.
            kwargs: ``output_attentions`` (every layer's weights as a matrix ``[B, H, N, Nk]``, made
                from its graph: memory goes by the square of the length), ``output_hidden_states``,
                ``return_dict``. What other models read (``cache_position``, ``token_type_ids``,
                arguments of kernels for packed texts) may say what is so anyway.

        Raises:
            TypeError: an unknown keyword.
            ValueError: inputs that do not fit together, or that this model does not read.
        """
        check_tokens(input_ids, inputs_embeds, self.config.hidden_size)
        if block_ids is not None and not self.reads_block_ids:
            raise ValueError(
                "block_ids are given, and no layer has blocks without a size: leave them out, or "
                "take head=gf.Head(candidates=Blocks(None))"
            )
        length = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]  # type: ignore[union-attr]
        cache = one_cache(cache, past_key_values)
        past = 0 if cache is None else cache.get_seq_length()
        kwargs = check_others(kwargs, OWN_ARGUMENTS, position_ids, past, length)
        dense, return_dict = kwargs.pop("output_attentions", None), kwargs.pop("return_dict", None)
        dense = getattr(self.config, "output_attentions", False) if dense is None else dense
        outputs = self._forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_graphs=output_graphs or bool(dense),
            block_ids=block_ids,
            **{**kwargs, "return_dict": True},
        )
        if dense:
            outputs.attentions = tuple(graph.to_dense() for graph in outputs.graphs)
            if not output_graphs:
                outputs.graphs = None
        return_dict = (
            getattr(self.config, "return_dict", True) if return_dict is None else return_dict
        )
        return outputs if return_dict else outputs.to_tuple()

    @merge_with_config_defaults
    @capture_outputs
    def _forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
        inputs_embeds: Tensor | None,
        use_cache: bool | None,
        output_graphs: bool,
        block_ids: Tensor | None,
        **_: Any,  # what the decorators read
    ) -> GraphformerModelOutput:
        hidden_states = embed(self.embed_tokens, input_ids, inputs_embeds)
        filled = cache is not None
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
            let_hold_sums(cache, [layer.self_attn for layer in self.layers])
        length, past = hidden_states.shape[1], 0 if cache is None else cache.get_seq_length()
        candidates: Rule | None = None
        given = position_ids is not None
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=hidden_states.device).unsqueeze(
                0
            )
        elif position_ids.shape not in ((1, length), (hidden_states.shape[0], length)):
            raise ValueError(
                f"position_ids must have shape [{hidden_states.shape[0]} or 1, {length}] (batch, "
                f"length), got {list(position_ids.shape)}"
            )
        if attention_mask is not None:
            attention_mask = without_trivial(attention_mask, past + length, cut=filled)
        if given and past == 0:
            candidates = packed_texts(position_ids, hidden_states.shape[0])
            if candidates is not None and attention_mask is not None:
                refuse_packed_and_padded(position_ids, attention_mask, past)
                candidates = None
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        ids = None
        if any(one.reads == "ids" for one in self.relations):
            ids = with_cached_ids(input_ids, cache, past, len(self.layers))
        links = None
        if self.relations:  # the same for all layers
            sizes = hidden_states.shape[0], length, int(past) + length  # a tensor, if static
            tokens = Tokens.read(sizes, hidden_states.device, ids, attention_mask, candidates)
            links = tuple(link for one in self.relations for link in one.links(tokens))
        graph = first = None
        start = hidden_states
        for layer in self.layers:
            made = layer(
                hidden_states,
                attention_mask,
                first,
                start,
                position_embeddings=position_embeddings,
                candidates=candidates,
                output_graphs=output_graphs,
                previous=graph,
                links=links,
                block_ids=block_ids,
                **{CACHE: cache},  # by the name that activation checkpointing takes away
            )
            made = list(made) if isinstance(made, tuple) else [made]
            first = made.pop() if layer.later_read else first
            hidden_states, graph = made if layer.next_reads else (made[0], None)
        if cache is not None and ids is not None:
            remember_ids(input_ids, cache, len(self.layers))
        returned: dict[str, Any] = {CACHE: cache}
        return GraphformerModelOutput(last_hidden_state=self.norm(hidden_states), **returned)

    @property
    def reads_block_ids(self) -> bool:
        """Whether a layer has to be told where blocks begin."""
        return any(layer.self_attn.reads_block_ids for layer in self.layers)  # type: ignore[union-attr]

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = cast(nn.Embedding, value)


OWN_ARGUMENTS = tuple(inspect.signature(GraphformerModel.forward).parameters)


class GraphformerForCausalLM(GraphformerPreTrainedModel, GenerationMixin):
    """A causal language model: :class:`GraphformerModel` and an output layer, tied to the embedding
    by default.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: GraphformerConfig) -> None:
        super().__init__(config)
        self.model = GraphformerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
        # transformers reads settings of generation from a config, and takes top_k, edges of a row,
        # for tokens to sample from.
        self.generation_config.top_k = GenerationConfig().top_k

    def _get_static_cache_init_shape(self) -> Any:
        """None where layers have different numbers of heads, or may have more features than keys:
        a static cache then takes the sizes of each layer from its first keys.
        """
        heads = self.config.num_key_value_heads
        if not isinstance(heads, int) or heads != self.config.num_attention_heads:
            return None
        return super()._get_static_cache_init_shape()  # type: ignore[misc]

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """A cache that generate makes may hold sums in the place of keys; one that it was given
        stays as it is.
        """
        given = {name: model_kwargs.get(name) for name in ("cache", "past_key_values")}
        done = super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, *args, **kwargs
        )
        for name, one in given.items():
            if one is None:
                attentions = [layer.self_attn for layer in self.model.layers]
                let_hold_sums(model_kwargs.get(name), attentions)
        return done

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, and with it ``generate_batch``: transformers keeps the keys of all its requests
        in pages of one tensor, by an attention function of its own, and the heads here are graphs
        over the keys of one sequence.
        """
        raise NotImplementedError(
            "GraphformerForCausalLM has no continuous batching (generate_batch, transformers "
            "serve): its attention cannot read paged keys. Pad the prompts on the left and call "
            "generate(input_ids, attention_mask=...)"
        )

    # transformers reads its signature for the names that generate may be given
    @strict_flags
    @functools.wraps(GenerationMixin.prepare_inputs_for_generation, assigned=(), updated=())
    def prepare_inputs_for_generation(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """As of every transformers model.

        Raises:
            ValueError: where each call has to say where blocks begin.
        """
        if self.model.reads_block_ids:
            raise ValueError(
                "candidates=Blocks(None): generate() cannot know where the blocks of new tokens "
                "begin. Call the model with block_ids step by step, or give sizes, Blocks(64)"
            )
        prepare: Any = GenerationMixin.prepare_inputs_for_generation
        return cast(dict[str, Any], prepare(self, *args, **kwargs))

    @strict_flags
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_graphs: bool = False,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        block_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> GraphformerCausalLMOutput:
        """As :meth:`GraphformerModel.forward`; ``labels`` ``[B, N]`` (-100 is ignored) give the
        mean next-token loss in nats.

        ``num_items_in_batch``, ``ignore_index`` and ``shift_labels`` go to transformers' loss
        function; ``logits_to_keep`` (a number of last tokens, or their places) leaves logits out,
        and is refused beside labels.
        """
        for_loss = {name: kwargs.pop(name) for name in OF_THE_LOSS if name in kwargs}
        check_tokens(input_ids, inputs_embeds, self.config.hidden_size)
        batch, length = (input_ids if inputs_embeds is None else inputs_embeds).shape[:2]  # type: ignore[union-attr]
        check_labels(labels, batch, length, for_loss)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_graphs=output_graphs,
            block_ids=block_ids,
            **{**kwargs, "return_dict": True},
        )
        # 0 keeps all
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None or for_loss.get("shift_labels") is not None:
            if logits.shape[1] != length:
                raise ValueError(
                    f"logits_to_keep={logits_to_keep} leaves logits of labels out: without it the "
                    "loss is that of all labels"
                )
            size = self.config.vocab_size
            loss = loss_of_labels(self.loss_function, logits, labels, size, for_loss)
        return GraphformerCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            graphs=outputs.graphs,
            **{CACHE: outputs.get(CACHE)},
        )
