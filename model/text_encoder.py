"""Text encoder: CLIP's text tower (open_clip's, used as a library) and the projection to the model's width."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.clip_parts import clip_part
from model.config import NetworkConfig
from model.layers import MLP


class Prompts(NamedTuple):
    """Encoded texts, one row an object."""

    tokens: Tensor
    """(objects, N, dim), padded to the longest text."""
    valid: Tensor
    """(objects, N) bool: False where a token is padding."""
    summary: Tensor
    """(objects, 1, dim): the state at the end mark."""

    def select(self, rows: Tensor | slice) -> Prompts:
        """The prompts of the objects in ``rows``, an integer tensor or a slice."""
        return Prompts(*(x[rows] for x in self))


@lru_cache(maxsize=1)
def _tokenizer():  # type: ignore[no-untyped-def]
    return clip_part("tokenizer").SimpleTokenizer()


def tokenize(text: str) -> list[int]:
    """Lower-cased CLIP byte-pair tokens with the start (49406) and end (49407) mark, neither padded nor cut."""
    tokenizer = _tokenizer()
    return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]


def decode(tokens: list[int]) -> str:
    """The text of tokens that :func:`tokenize` gave."""
    return _tokenizer().decode(tokens).strip()


class TextEncoder(nn.Module):
    """Texts to :class:`Prompts`."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        text = config.text
        parts = clip_part("transformer")
        # open_clip's own causal mask is a buffer of the full context length and would not survive
        # construction on the meta device, so the mask is passed to the transformer instead.
        self.tower = parts.TextTransformer(
            context_length=text.context_length,
            vocab_size=text.vocabulary,
            width=text.width,
            heads=text.heads,
            layers=text.layers,
            proj_type="none",
            no_causal_mask=True,
            act_layer=parts.QuickGELU,
        )
        self.projection = MLP(text.width, text.projection_hidden, config.dim, 3)

    @property
    def context_length(self) -> int:
        """Tokens that a text may have, marks included."""
        return self.tower.context_length

    def tower_states(self, tokens: Tensor) -> Tensor:
        """(texts, N) token ids to the states after the final LayerNorm, (texts, N, width), without projection.

        Attention is causal, so padding behind a text changes nothing before it.
        """
        tower, length = self.tower, tokens.shape[1]
        causal = torch.full((length, length), float("-inf"), dtype=torch.float32, device=tokens.device).triu(1)
        x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        return tower.ln_final(tower.transformer(x, attn_mask=causal))

    def forward(self, texts: list[str]) -> Prompts:
        """Raises ``ValueError`` for a text with more tokens than the tower reads."""
        ids = [tokenize(text) for text in texts]
        for text, row in zip(texts, ids, strict=True):
            if len(row) > self.context_length:
                raise ValueError(f"{text!r} has {len(row)} tokens, the text encoder reads {self.context_length}")
        device = self.tower.positional_embedding.device
        lengths = torch.tensor([len(row) for row in ids], device=device)
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True).to(device)
        states = self.tower_states(tokens)
        valid = torch.arange(tokens.shape[1], device=device) < lengths[:, None]
        end = states[torch.arange(len(ids), device=device), lengths - 1]
        return Prompts(self.projection(states), valid, self.projection(end[:, None]))
