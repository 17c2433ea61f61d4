"""Small random models of every architecture that the adapter's tests run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

SIZES = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
DECODER = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {**SIZES, "max_position_embeddings": 64, "pad_token_id": 0}
WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}


def _gpt2() -> Any:
    return tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=61, n_embd=24, n_layer=3, n_head=4, n_positions=64, eos_token_id=2, bos_token_id=1))


def _opt() -> Any:
    sizes = {
        "vocab_size": 61,
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 24,
    }
    return tf.OPTForCausalLM(tf.OPTConfig(**sizes, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2))


def _distilbert() -> Any:
    return tf.DistilBertForMaskedLM(tf.DistilBertConfig(vocab_size=61, dim=24, hidden_dim=40, n_layers=3, n_heads=4, pad_token_id=0))


def _modernbert() -> Any:
    extra = {
        "global_attn_every_n_layers": 2,
        "local_attention": 4,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return tf.ModernBertForMaskedLM(tf.ModernBertConfig(**ENCODER, **extra))


DECODERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**DECODER)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**DECODER)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**DECODER, head_dim=8)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**DECODER, sliding_window=5)),
    "mixtral": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**DECODER, num_local_experts=3, num_experts_per_tok=2)),
    "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**DECODER, head_dim=8)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**DECODER, **WINDOW, head_dim=8, query_pre_attn_scalar=8)),
    "gemma3_text": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**DECODER, **WINDOW, head_dim=8, query_pre_attn_scalar=8)),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**DECODER)),
    "olmo2": lambda: tf.Olmo2ForCausalLM(tf.Olmo2Config(**DECODER)),
    "smollm3": lambda: tf.SmolLM3ForCausalLM(tf.SmolLM3Config(**DECODER)),
    "gpt2": _gpt2,
    "opt": _opt,
    "gpt_oss": lambda: tf.GptOssForCausalLM(
        tf.GptOssConfig(
            **DECODER,
            **WINDOW,
            head_dim=8,
            num_local_experts=3,
            num_experts_per_tok=2,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )
    ),
}
ENCODERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: tf.BertForMaskedLM(tf.BertConfig(**ENCODER)),
    "roberta": lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**{**ENCODER, "pad_token_id": 1})),
    "esm": lambda: tf.EsmForMaskedLM(
        tf.EsmConfig(**{**ENCODER, "pad_token_id": 1}, mask_token_id=3, position_embedding_type="rotary", token_dropout=False)
    ),
    "distilbert": _distilbert,
    "modernbert": _modernbert,
}
REFUSED: dict[str, Callable[[], Any]] = {
    "falcon": lambda: tf.FalconForCausalLM(tf.FalconConfig(vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=4)),
    "gptj": lambda: tf.GPTJForCausalLM(tf.GPTJConfig(vocab_size=61, n_embd=24, n_layer=2, n_head=4, rotary_dim=4, n_positions=64)),
    "gpt_neo": lambda: tf.GPTNeoForCausalLM(
        tf.GPTNeoConfig(vocab_size=61, hidden_size=24, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]])
    ),
    "bloom": lambda: tf.BloomForCausalLM(tf.BloomConfig(vocab_size=61, hidden_size=24, n_layer=2, n_head=4)),
    "deberta-v2": lambda: tf.DebertaV2ForMaskedLM(tf.DebertaV2Config(**ENCODER)),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**{**ENCODER, "num_hidden_layers": 2}, use_parallel_residual=True)),
    "t5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=61, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4)),
}


def make(name: str) -> Any:
    """A model in evaluation mode whose attention differs enough between keys for edges to be dropped."""
    torch.manual_seed(0)
    model = {**DECODERS, **ENCODERS, **REFUSED}[name]().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(
                    6 if any(part in key for part in ("q_proj", "k_proj", "query", "key", "q_lin", "k_lin", "qkv", "Wqkv", "c_attn")) else 3
                )
            if key.endswith("sinks"):
                parameter.normal_()
    return model
