"""Turns published tensor names into ours. Every published name must match a rule here; anything else is an error.

A rule is a pattern, with ``{}`` for a layer number or any other single part, and what it becomes; ``None`` drops
the tensor on purpose. A pattern that ends in ``.*`` matches any ending. The first rule that matches wins.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

_DROPPED = None

PUBLISHED_RULES: list[tuple[str, str | None]] = [
    # It feeds nothing in the published code either.
    ("no_mem_pos_enc", _DROPPED),
    # A buffer of older versions of the text tower: 0, 1, 2, ...
    ("language_model.embeddings.position_ids", _DROPPED),
    ("maskmem_tpos_enc", "slot_position"),
    ("no_mem_embed", "no_memory"),
    ("no_obj_ptr", "no_object_pointer"),
    ("no_obj_embed_spatial", "no_object_memory"),
    ("obj_ptr_proj.*", "pointer_mlp.*"),
    ("obj_ptr_tpos_proj.*", "pointer_position.*"),
    # Image encoder
    ("image_encoder.trunk.pos_embed", "image_encoder.trunk.position_grid"),
    ("image_encoder.trunk.pos_embed_window", "image_encoder.trunk.position_window"),
    ("image_encoder.trunk.patch_embed.proj.*", "image_encoder.trunk.patch_embed.*"),
    ("image_encoder.trunk.blocks.{}.mlp.layers.0.*", "image_encoder.trunk.blocks.{}.mlp_in.*"),
    ("image_encoder.trunk.blocks.{}.mlp.layers.1.*", "image_encoder.trunk.blocks.{}.mlp_out.*"),
    ("image_encoder.trunk.blocks.*", "image_encoder.trunk.blocks.*"),
    # The published list begins with the coarsest level, ours with the finest.
    ("image_encoder.neck.convs.0.conv.*", "image_encoder.lateral.3.*"),
    ("image_encoder.neck.convs.1.conv.*", "image_encoder.lateral.2.*"),
    ("image_encoder.neck.convs.2.conv.*", "image_encoder.lateral.1.*"),
    ("image_encoder.neck.convs.3.conv.*", "image_encoder.lateral.0.*"),
    ("sam_mask_decoder.conv_s0.*", "image_encoder.fine4.*"),
    ("sam_mask_decoder.conv_s1.*", "image_encoder.fine8.*"),
    # Text encoder: the tower itself is renamed by clip_tower()
    ("token_projection.*", "text_encoder.projection.*"),
    # CSTMamba
    ("cross_modal_fusion.temporal_pos_embed", "fusion.temporal_position"),
    ("cross_modal_fusion.cls_token.weight", "fusion.class_token"),
    *(
        (
            f"cross_modal_fusion.transformer.layers.{{}}.mamba_layers.{{}}.mamba.{theirs}",
            f"fusion.blocks.{{}}.mamba_layers.{{}}.mixer.{scan}_scan.{ours}",
        )
        for scan, suffix in (("forward", ""), ("backward", "_b"), ("interleaved", "_s"))
        for theirs, ours in (
            (f"A{suffix}_log", "A_log"),
            (f"D{suffix}", "D"),
            (f"conv1d{suffix}.*", "conv.*"),
            (f"x_proj{suffix}.*", "x_proj.*"),
            (f"dt_proj{suffix}.*", "dt_proj.*"),
        )
    ),
    (
        "cross_modal_fusion.transformer.layers.{}.mamba_layers.{}.mamba.*",
        "fusion.blocks.{}.mamba_layers.{}.mixer.*",
    ),
    (
        "cross_modal_fusion.transformer.layers.{}.mamba_layers.{}.mlp.dwconv.dwconv.*",
        "fusion.blocks.{}.mamba_layers.{}.mlp.conv.*",
    ),
    (
        "cross_modal_fusion.transformer.layers.{}.mamba_layers.{}.mlp.grn.{}",
        "fusion.blocks.{}.mamba_layers.{}.mlp.grn_{}",
    ),
    ("cross_modal_fusion.transformer.layers.*", "fusion.blocks.*"),
    ("cross_modal_fusion.transformer.*", "fusion.*"),
    # Prompt tokens
    ("sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "prompt_tokens.position_matrix"),
    ("sam_prompt_encoder.not_a_point_embed.weight", "prompt_tokens.not_a_point"),
    ("sam_prompt_encoder.no_mask_embed.weight", "prompt_tokens.no_mask"),
    ("sam_prompt_encoder.language_fusion_mlp.*", "prompt_tokens.text_mlp.*"),
    ("sam_prompt_encoder.point_embeddings.{}.weight", "prompt_tokens.point_embeddings.{}"),
    ("sam_prompt_encoder.mask_downscaling.*", "prompt_tokens.mask_encoder.*"),
    ("mask_downsample.*", "mask_downsample.*"),
    # Mask decoder
    ("sam_mask_decoder.obj_score_token.weight", "mask_decoder.object_score_token"),
    ("sam_mask_decoder.iou_token.weight", "mask_decoder.iou_token"),
    ("sam_mask_decoder.mask_tokens.weight", "mask_decoder.mask_tokens"),
    ("sam_mask_decoder.transformer.layers.*", "mask_decoder.blocks.*"),
    ("sam_mask_decoder.transformer.*", "mask_decoder.*"),
    ("sam_mask_decoder.output_upscaling.0.*", "mask_decoder.upscale8.*"),
    ("sam_mask_decoder.output_upscaling.1.*", "mask_decoder.upscale_norm.*"),
    ("sam_mask_decoder.output_upscaling.3.*", "mask_decoder.upscale4.*"),
    ("sam_mask_decoder.output_hypernetworks_mlps.0.*", "mask_decoder.first_mask_mlp.*"),
    ("sam_mask_decoder.output_hypernetworks_mlps.1.*", "mask_decoder.mask_mlps.0.*"),
    ("sam_mask_decoder.output_hypernetworks_mlps.2.*", "mask_decoder.mask_mlps.1.*"),
    ("sam_mask_decoder.output_hypernetworks_mlps.3.*", "mask_decoder.mask_mlps.2.*"),
    ("sam_mask_decoder.iou_prediction_head.*", "mask_decoder.iou_head.*"),
    ("sam_mask_decoder.pred_obj_score_head.*", "mask_decoder.object_score_head.*"),
    # Memory
    ("memory_encoder.mask_downsampler.encoder.*", "memory_encoder.mask_encoder.*"),
    ("memory_encoder.pix_feat_proj.*", "memory_encoder.image_proj.*"),
    ("memory_encoder.fuser.layers.{}.gamma", "memory_encoder.fuser.{}.scale"),
    ("memory_encoder.fuser.layers.{}.dwconv.*", "memory_encoder.fuser.{}.conv.*"),
    ("memory_encoder.fuser.layers.{}.pwconv1.*", "memory_encoder.fuser.{}.fc1.*"),
    ("memory_encoder.fuser.layers.{}.pwconv2.*", "memory_encoder.fuser.{}.fc2.*"),
    ("memory_encoder.fuser.layers.*", "memory_encoder.fuser.*"),
    ("memory_encoder.out_proj.*", "memory_encoder.out_proj.*"),
    ("memory_attention.layers.{}.cross_attn_image.*", "memory_attention.layers.{}.cross_attn.*"),
    ("memory_attention.*", "memory_attention.*"),
]

TOWER = "text_encoder.tower."

_OPEN_CLIP_RULES: list[tuple[str, str | None]] = [
    ("positional_embedding", TOWER + "positional_embedding"),
    ("token_embedding.weight", TOWER + "token_embedding.weight"),
    ("transformer.resblocks.*", TOWER + "transformer.resblocks.*"),
    ("ln_final.*", TOWER + "ln_final.*"),
    # A whole CLIP has these beside the tower's states.
    ("text_projection", _DROPPED),
    ("attn_mask", _DROPPED),
    ("logit_scale", _DROPPED),
    ("visual.*", _DROPPED),
    ("input_resolution", _DROPPED),
    ("context_length", _DROPPED),
    ("vocab_size", _DROPPED),
]

_HF_RULES: list[tuple[str, str | None]] = [
    ("embeddings.token_embedding.weight", TOWER + "token_embedding.weight"),
    ("embeddings.position_embedding.weight", TOWER + "positional_embedding"),
    ("embeddings.position_ids", _DROPPED),
    # q, k and v are joined before renaming.
    ("encoder.layers.{}.self_attn.qkv_weight", TOWER + "transformer.resblocks.{}.attn.in_proj_weight"),
    ("encoder.layers.{}.self_attn.qkv_bias", TOWER + "transformer.resblocks.{}.attn.in_proj_bias"),
    ("encoder.layers.{}.self_attn.out_proj.*", TOWER + "transformer.resblocks.{}.attn.out_proj.*"),
    ("encoder.layers.{}.layer_norm1.*", TOWER + "transformer.resblocks.{}.ln_1.*"),
    ("encoder.layers.{}.layer_norm2.*", TOWER + "transformer.resblocks.{}.ln_2.*"),
    ("encoder.layers.{}.mlp.fc1.*", TOWER + "transformer.resblocks.{}.mlp.c_fc.*"),
    ("encoder.layers.{}.mlp.fc2.*", TOWER + "transformer.resblocks.{}.mlp.c_proj.*"),
    ("final_layer_norm.*", TOWER + "ln_final.*"),
]

_HF_WHOLE_CLIP_RULES: list[tuple[str, str | None]] = [
    ("vision_model.*", _DROPPED),
    ("visual_projection.weight", _DROPPED),
    ("text_projection.weight", _DROPPED),
    ("logit_scale", _DROPPED),
    ("text_model.*", "*"),
]


class UnknownKeys(ValueError):
    """Tensors that no rule names; ``keys`` are all of them, sorted."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__(f"no rule for {', '.join(keys[:10])}")
        self.keys = keys


def _compile(rules: list[tuple[str, str | None]]) -> list[tuple[re.Pattern[str], str | None]]:
    def pattern(text: str) -> re.Pattern[str]:
        escaped = re.escape(text).replace(r"\{\}", r"([^.]+)").replace(r"\*", r"(.+)")
        return re.compile(escaped)

    return [(pattern(theirs), ours if ours is None else ours.replace("*", "{}")) for theirs, ours in rules]


def rename(tensors: dict[str, Tensor], rules: list[tuple[str, str | None]]) -> dict[str, Tensor]:
    """Apply rules to all names. Raises :class:`UnknownKeys` for names that no rule matches."""
    compiled = _compile(rules)
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in tensors.items():
        for pattern, ours in compiled:
            match = pattern.fullmatch(key)
            if match:
                if ours is not None:
                    renamed[ours.format(*match.groups())] = tensor
                break
        else:
            unknown.append(key)
    if unknown:
        raise UnknownKeys(sorted(unknown))
    return renamed


def clip_tower(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text tower, under our names, from CLIP weights in any of the three layouts found in the wild.

    OpenAI's and open_clip's (``transformer.resblocks.0...``, fused q, k, v), Hugging Face's
    (``text_model.encoder.layers.0...``), and Hugging Face's under the reference's prefix ``language_model.``. A
    whole CLIP may be given: what is not the text tower is dropped. Raises :class:`UnknownKeys`.
    """
    if any(key.startswith("transformer.resblocks.") for key in tensors):
        return rename(tensors, _OPEN_CLIP_RULES)
    if any(key.startswith("language_model.") for key in tensors):
        tensors = rename(tensors, [("language_model.*", "*")])
    elif any(key.startswith("text_model.") for key in tensors):
        tensors = rename(tensors, _HF_WHOLE_CLIP_RULES)
    return rename(_join_qkv(tensors), _HF_RULES)


def _join_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join q, k and v: Hugging Face keeps them apart, open_clip's tower has one matrix."""
    joined = dict(tensors)
    for key in tensors:
        match = re.fullmatch(r"(.+\.self_attn)\.q_proj\.(weight|bias)", key)
        if match:
            parts = [f"{match[1]}.{part}_proj.{match[2]}" for part in "qkv"]
            shapes = {joined[part].shape if part in joined else None for part in parts}
            if len(shapes) == 1 and shapes != {None} and shapes != {torch.Size()}:
                joined[f"{match[1]}.qkv_{match[2]}"] = torch.cat([joined.pop(part) for part in parts])
    return joined


def published_network(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published checkpoint under our names, with the text tower if it has one. Raises :class:`UnknownKeys`."""
    tower = {key: tensor for key, tensor in tensors.items() if key.startswith("language_model.")}
    rest = {key: tensor for key, tensor in tensors.items() if key not in tower}
    return rename(rest, PUBLISHED_RULES) | (clip_tower(tower) if tower else {})


def is_clip(tensors: dict[str, Tensor]) -> bool:
    """Whether the names are those of CLIP weights, rather than of a network of ours."""
    return not any(key.startswith("image_encoder.") for key in tensors) and any(
        key.split(".")[0] in ("transformer", "text_model", "language_model", "encoder") for key in tensors
    )
