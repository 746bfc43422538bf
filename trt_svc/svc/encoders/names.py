"""One set of weight names for all networks of the HuBERT family.

The same network is found in files of fairseq (and WavLM, which keeps its names), Hugging Face, torchaudio (DPHuBERT)
and bshall's soft HuBERT. The names do not collide, so one table reads them all.
"""

from __future__ import annotations

import re

from torch import Tensor

_LAYER = r"encoder\.layers\.(\d+)\."
_TABLE: tuple[tuple[str, str], ...] = (
    # fairseq, WavLM
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(\w+)", r"extractor.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(\w+)", r"extractor.\1.norm.\2"),
    (r"layer_norm\.(\w+)", r"feature_norm.\1"),
    (r"post_extract_proj\.(\w+)", r"feature_projection.\1"),
    (r"encoder\.pos_conv\.0\.([\w.]+)", r"positions.\1"),
    (_LAYER + r"self_attn\.relative_attention_bias\.weight", r"distances.\1.weight"),
    (_LAYER + r"self_attn\.grep_linear\.(\w+)", r"layers.\1.attention.gate.\2"),
    (_LAYER + r"self_attn\.grep_a", r"layers.\1.attention.gate_scale"),
    (_LAYER + r"self_attn_layer_norm\.(\w+)", r"layers.\1.attention_norm.\2"),
    (_LAYER + r"fc1\.(\w+)", r"layers.\1.widen.\2"),
    (_LAYER + r"fc2\.(\w+)", r"layers.\1.narrow.\2"),
    (r"final_proj\.(\w+)", r"projection.\1"),
    # Hugging Face, torchaudio
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.(\w+)", r"extractor.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.(\w+)", r"extractor.\1.norm.\2"),
    (r"feature_extractor\.dummy_weight", r"extractor_scale"),
    (r"feature_projection\.layer_norm\.(\w+)", r"feature_norm.\1"),
    (r"feature_projection\.projection\.(\w+)", r"feature_projection.\1"),
    (r"encoder\.pos_conv_embed\.conv\.([\w.]+)", r"positions.\1"),
    (_LAYER + r"attention\.rel_attn_embed\.weight", r"distances.\1.weight"),
    (_LAYER + r"attention\.gru_rel_pos_linear\.(\w+)", r"layers.\1.attention.gate.\2"),
    (_LAYER + r"attention\.gru_rel_pos_const", r"layers.\1.attention.gate_scale"),
    (_LAYER + r"layer_norm\.(\w+)", r"layers.\1.attention_norm.\2"),
    (_LAYER + r"feed_forward\.intermediate_dense\.(\w+)", r"layers.\1.widen.\2"),
    (_LAYER + r"feed_forward\.output_dense\.(\w+)", r"layers.\1.narrow.\2"),
    # soft HuBERT
    (r"feature_extractor\.conv(\d+)\.(\w+)", r"extractor.\1.conv.\2"),
    (r"feature_extractor\.norm(\d+)\.(\w+)", r"extractor.\1.norm.\2"),
    (r"feature_projection\.norm\.(\w+)", r"feature_norm.\1"),
    (r"positional_embedding\.conv\.([\w.]+)", r"positions.\1"),
    (r"norm\.(\w+)", r"norm.\1"),
    (_LAYER + r"self_attn\.in_proj_(\w+)", r"layers.\1.attention.joined.\2"),
    (_LAYER + r"linear1\.(\w+)", r"layers.\1.widen.\2"),
    (_LAYER + r"linear2\.(\w+)", r"layers.\1.narrow.\2"),
    (_LAYER + r"norm1\.(\w+)", r"layers.\1.attention_norm.\2"),
    (_LAYER + r"norm2\.(\w+)", r"layers.\1.output_norm.\2"),
    (r"proj\.(\w+)", r"projection.\1"),
    # several
    (r"encoder\.layer_norm\.(\w+)", r"norm.\1"),
    (_LAYER + r"(?:self_attn|attention)\.q_proj\.(\w+)", r"layers.\1.attention.query.\2"),
    (_LAYER + r"(?:self_attn|attention)\.k_proj\.(\w+)", r"layers.\1.attention.key.\2"),
    (_LAYER + r"(?:self_attn|attention)\.v_proj\.(\w+)", r"layers.\1.attention.value.\2"),
    (_LAYER + r"(?:self_attn|attention)\.out_proj\.(\w+)", r"layers.\1.attention.out.\2"),
    (_LAYER + r"final_layer_norm\.(\w+)", r"layers.\1.output_norm.\2"),
)
_PATTERNS = tuple((re.compile(pattern), new) for pattern, new in _TABLE)
_TRAINING_ONLY = re.compile(r"mask_emb|masked_spec_embed|label_embs_concat|label_embedding\.weight")
_TORCHAUDIO_PREFIXES = (("encoder.transformer.", "encoder."), ("encoder.feature_projection.", "feature_projection."))


def is_training_only(name: str) -> bool:
    """Masks and labels, which no encoder needs."""
    return _TRAINING_ONLY.fullmatch(name) is not None


def hubert_name(name: str) -> str | None:
    """Our name of a weight; None where no network of the family has it."""
    for old, new in _TORCHAUDIO_PREFIXES:
        if name.startswith(old):
            name = new + name.removeprefix(old)
    for pattern, ours in _PATTERNS:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(ours)
    return None


def separated(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value apart where the file keeps them in one matrix."""
    out: dict[str, Tensor] = {}
    for name, value in weights.items():
        head, joined, leaf = name.partition(".joined.")
        if joined and value.shape[0] % 3 == 0:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[f"{head}.{part}.{leaf}"] = piece.contiguous()
        else:
            out[name] = value
    return out
