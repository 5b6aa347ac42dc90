"""The embedding models: one row each, priced like every other, by their input alone.

No published document of the original names one (facts, section 24), so this is ours: the model
most asked for where embeddings are sold by many (OpenRouter's list, read 2026-11), $0.01 per
million tokens there and at DeepInfra, × 1.35.
"""

from __future__ import annotations

from kyma.catalog.model import EMBEDDING, Model
from kyma.catalog.text import cost_of
from kyma.pricing import per_token
from kyma.routing import Route

_QWEN_PRICE = per_token("0.0135", "0", cached="0.0135")
_QWEN = "qwen-3-embedding-8b"

EMBEDDING_MODELS: tuple[Model, ...] = (
    Model(
        id=_QWEN,
        name="Qwen 3 Embedding 8B",
        description="Vectors for search and clustering in a hundred languages, and in code.",
        owned_by="Alibaba",
        family="qwen",
        price=_QWEN_PRICE,
        context_window=32_768,
        max_output_tokens=0,
        routes=(
            Route("deepinfra", "Qwen/Qwen3-Embedding-8B", _QWEN, cost_of(_QWEN_PRICE)),
            Route("openrouter", "qwen/qwen3-embedding-8b", _QWEN, cost_of(_QWEN_PRICE), layer=1),
        ),
        best_for="Search and retrieval",
        output_modalities=("embedding",),
        capability=EMBEDDING,
        embeds=True,
        created=1_795_219_200,
        sampling=False,
        tools=False,
        structured_outputs=False,
        caching=False,
        speed_grade="fast",
        cost_grade="cheap",
    ),
)
