"""Configurations of small models of every architecture that has LoRA targets."""

from __future__ import annotations

from transformers import AutoConfig

from sweeper.models.targets import TARGETS

_SIZES = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OWN = {
    "distilbert": {"dim": 64, "hidden_dim": 160, "n_layers": 4, "n_heads": 4},
    "opt": {"ffn_dim": 160, "word_embed_proj_dim": 64},
    "electra": {"embedding_size": 64},
    "gpt2": {"n_inner": 160},
    "gemma": {"head_dim": 24},
    "gemma2": {"head_dim": 24},
    "gemma3_text": {"head_dim": 24},
    "qwen3": {"head_dim": 24},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2},
}


def small_config(model_type, **changes):
    """Return a configuration of 4 blocks, with keys that are shared by heads where the architecture can do that."""
    shares = "q_proj" in TARGETS[model_type] or model_type == "phi3"
    sizes = {**_SIZES, **_OWN.get(model_type, {}), **({"num_key_value_heads": 2} if shares else {}), **changes}
    return AutoConfig.for_model(model_type, num_labels=3, **sizes)
