"""Small random models of every architecture that the adapter's tests run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import transformers as tf
from packaging.version import Version
from torch import Tensor
from transformers.integrations.peft import MIN_PEFT_VERSION

transformers_own = pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"this transformers works with peft {MIN_PEFT_VERSION} or newer",
)
"""For tests of transformers' own add_adapter and load_adapter, which ask for a newer PEFT than this
library does.
"""

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
DECODER = {
    **SIZES,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER = {**SIZES, "max_position_embeddings": 64, "pad_token_id": 0}
NEOX = {**ENCODER, "bos_token_id": 1, "eos_token_id": 2}
WINDOW = {
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def _gpt2() -> Any:
    return tf.GPT2LMHeadModel(
        tf.GPT2Config(
            vocab_size=61,
            n_embd=24,
            n_layer=3,
            n_head=4,
            n_positions=64,
            eos_token_id=2,
            bos_token_id=1,
        )
    )


def _opt() -> Any:
    sizes = {
        "vocab_size": 61,
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 24,
    }
    return tf.OPTForCausalLM(
        tf.OPTConfig(
            **sizes, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2
        )
    )


def _distilbert() -> Any:
    return tf.DistilBertForMaskedLM(
        tf.DistilBertConfig(
            vocab_size=61, dim=24, hidden_dim=40, n_layers=3, n_heads=4, pad_token_id=0
        )
    )


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


def _t5(kind: str, **settings: Any) -> Any:
    sizes = {
        "vocab_size": 61,
        "d_model": 24,
        "d_kv": 6,
        "d_ff": 40,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
    }
    buckets = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
    return getattr(tf, kind)(
        tf.T5Config(
            **sizes, **buckets, decoder_start_token_id=0, pad_token_id=0, eos_token_id=2, **settings
        )
    )


def _umt5() -> Any:
    sizes = {
        "vocab_size": 61,
        "d_model": 24,
        "d_kv": 6,
        "d_ff": 40,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
    }
    tokens = {
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "initializer_factor": 0.5,
    }
    return tf.UMT5ForConditionalGeneration(tf.UMT5Config(**sizes, **tokens))


def _bart() -> Any:
    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 40}.items()
    }
    tokens = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    }
    return tf.BartForConditionalGeneration(
        tf.BartConfig(vocab_size=61, d_model=24, max_position_embeddings=64, **sides, **tokens)
    )


PATCH = 4
IMAGE = {
    **{key: value for key, value in SIZES.items() if key != "vocab_size"},
    "patch_size": PATCH,
    "image_size": 3 * PATCH,
}

DECODERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**DECODER)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**DECODER)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**DECODER, head_dim=8)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**DECODER, sliding_window=5)),
    "mixtral": lambda: tf.MixtralForCausalLM(
        tf.MixtralConfig(**DECODER, num_local_experts=3, num_experts_per_tok=2)
    ),
    "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**DECODER, head_dim=8)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(**DECODER, **WINDOW, head_dim=8, query_pre_attn_scalar=8)
    ),
    "gemma3_text": lambda: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(**DECODER, **WINDOW, head_dim=8, query_pre_attn_scalar=8)
    ),
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
    "gpt_neox_parallel": lambda: tf.GPTNeoXForCausalLM(
        tf.GPTNeoXConfig(**NEOX, use_parallel_residual=True)
    ),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(
        tf.GPTNeoXConfig(**NEOX, use_parallel_residual=False)
    ),
    "phi": lambda: tf.PhiForCausalLM(tf.PhiConfig(**{**DECODER, "hidden_size": 32})),
    "cohere": lambda: tf.CohereForCausalLM(tf.CohereConfig(**DECODER)),
    "t5": lambda: _t5("T5ForConditionalGeneration"),
    "t5_gated": lambda: _t5(
        "T5ForConditionalGeneration",
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        initializer_factor=0.5,
    ),
    "umt5": _umt5,
    "bart": _bart,
}
PARALLEL = ("gpt_neox_parallel", "phi", "cohere")
"""Those whose attention and feed-forward read the same residual."""
SEQ2SEQ = ("t5", "t5_gated", "umt5", "bart")
"""Those that have an encoder beside their decoder."""
ENCODERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: tf.BertForMaskedLM(tf.BertConfig(**ENCODER)),
    "roberta": lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**{**ENCODER, "pad_token_id": 1})),
    "esm": lambda: tf.EsmForMaskedLM(
        tf.EsmConfig(
            **{**ENCODER, "pad_token_id": 1},
            mask_token_id=3,
            position_embedding_type="rotary",
            token_dropout=False,
        )
    ),
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    "t5_encoder": lambda: _t5("T5ForTokenClassification", num_labels=61),
}
VISION: dict[str, Callable[[], Any]] = {
    "vit": lambda: tf.ViTForImageClassification(tf.ViTConfig(**IMAGE, num_labels=5)),
    "deit": lambda: tf.DeiTForImageClassification(tf.DeiTConfig(**IMAGE, num_labels=5)),
    "dinov2": lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**IMAGE, num_labels=5)),
    "siglip": lambda: tf.SiglipForImageClassification(
        tf.SiglipConfig(vision_config=IMAGE, num_labels=5)
    ),
    "beit_unscaled": lambda: tf.BeitForImageClassification(
        tf.BeitConfig(
            **IMAGE, num_labels=5, use_relative_position_bias=True, layer_scale_init_value=0.0
        )
    ),
}
REFUSED: dict[str, Callable[[], Any]] = {
    "falcon": lambda: tf.FalconForCausalLM(
        tf.FalconConfig(vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=4)
    ),
    "gptj": lambda: tf.GPTJForCausalLM(
        tf.GPTJConfig(vocab_size=61, n_embd=24, n_layer=2, n_head=4, rotary_dim=4, n_positions=64)
    ),
    "gpt_neo": lambda: tf.GPTNeoForCausalLM(
        tf.GPTNeoConfig(
            vocab_size=61,
            hidden_size=24,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
        )
    ),
    "bloom": lambda: tf.BloomForCausalLM(
        tf.BloomConfig(vocab_size=61, hidden_size=24, n_layer=2, n_head=4)
    ),
    "deberta-v2": lambda: tf.DebertaV2ForMaskedLM(tf.DebertaV2Config(**ENCODER)),
    "beit": lambda: tf.BeitForImageClassification(tf.BeitConfig(**IMAGE, num_labels=5)),
    "swin": lambda: tf.SwinForImageClassification(
        tf.SwinConfig(
            image_size=16,
            patch_size=2,
            embed_dim=24,
            depths=[1, 1],
            num_heads=[2, 4],
            window_size=4,
        )
    ),
    "wav2vec2": lambda: tf.Wav2Vec2Model(
        tf.Wav2Vec2Config(
            **SIZES,
            conv_dim=(8,),
            conv_stride=(2,),
            conv_kernel=(3,),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
    ),
}


QUERY_KEY = (
    "q_proj",
    "k_proj",
    "query",
    "key",
    "q_lin",
    "k_lin",
    "qkv",
    "Wqkv",
    "c_attn",
    "relative_position_bias",
)


def make(name: str) -> Any:
    """A model in evaluation mode whose attention differs enough between keys for edges to be
    dropped.
    """
    torch.manual_seed(0)
    model = {**DECODERS, **ENCODERS, **VISION, **REFUSED}[name]().eval()
    if name in ("mixtral", "gpt_oss"):
        # the grouped product of matrices knows no float64
        model.set_experts_implementation("eager")
    # its own softmax is in float32, where float64's lowest number, the mask, is -inf: rows of
    # padding are NaN
    if name in ("gemma2", "bloom"):
        model.float()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6 if any(part in key for part in QUERY_KEY) else 3)
            if key.endswith("sinks"):
                parameter.normal_()
    return model


def assert_rows_close(got: Tensor, want: Tensor) -> None:
    """Equal up to rounding, relative to the row; in float32 a model of these conditions loses a
    hundred units.
    """
    # angles of rotary positions are float32 in any case
    bound = 1e-7 if want.dtype == torch.float64 else 1e-4
    worst = ((got - want).abs().amax(-1) / want.abs().amax(-1).clamp(min=1e-9)).max()
    assert float(worst) <= bound, f"off by {float(worst):.3g} of the row, more than {bound}"


def feed(name: str, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """What a model is called with so that ``ids [B, N]`` are its tokens: the decoder's of two
    stacks; nine as patches of an image.
    """
    if name in VISION:
        # [B, 9, 3, PATCH, PATCH]
        patches = torch.randn(61, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0))[
            ids[:, :9]
        ]
        return {
            "pixel_values": patches.unflatten(1, (3, 3))
            .permute(0, 3, 1, 4, 2, 5)
            .reshape(len(ids), 3, 3 * PATCH, 3 * PATCH)
        }
    if name not in SEQ2SEQ:
        return {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
    source = (torch.arange(7) * 5 + torch.arange(len(ids))[:, None]) % 57 + 4
    known = torch.ones_like(source)
    known[0, 5:] = 0
    inputs = {"input_ids": source, "attention_mask": known, "decoder_input_ids": ids}
    return inputs if mask is None else {**inputs, "decoder_attention_mask": mask}
