"""Legacy completions, and embeddings."""

from __future__ import annotations

from adapters.http.complaints import MAX_CHOICES
from adapters.http.dialects.embeddings import MAX_INPUTS
from adapters.http.schemas.chat import MAX_COST, MODEL, STREAM, TEMPERATURE, TOP_P, tokens
from adapters.http.schemas.shapes import array, boolean, integer, maybe, number, record, ref, text

TOKENS = array(integer(minimum=0), minItems=1, maxItems=MAX_INPUTS)
INPUT = {
    "oneOf": [
        text(minLength=1),
        array(text(minLength=1), minItems=1, maxItems=MAX_INPUTS),
        TOKENS,
        array(array(integer(minimum=0), minItems=1), minItems=1, maxItems=MAX_INPUTS),
    ],
    "description": "A text, tokens, or several of either",
}

SCHEMAS = {
    "CompletionRequest": record(
        {
            "model": MODEL,
            "prompt": {"oneOf": [text(), array(text(), minItems=1, maxItems=MAX_CHOICES)]},
            "max_cost": MAX_COST,
            "suffix": maybe(text()),
            "max_tokens": tokens("Most tokens of the answer"),
            "n": maybe(integer(minimum=1, maximum=MAX_CHOICES)),
            "best_of": maybe(integer("At most `n`", minimum=1, maximum=MAX_CHOICES)),
            "echo": maybe(boolean("Begin with the prompt")),
            "temperature": TEMPERATURE,
            "top_p": TOP_P,
            "stream": STREAM,
        },
        required=("model", "prompt"),
        examples=[{"model": "best", "prompt": "Say hello."}],
    ),
    "Completion": record(
        {
            "id": text(),
            "object": text(const="text_completion"),
            "created": integer("Unix seconds."),
            "model": text("Actual model used"),
            "choices": array(
                record(
                    {"index": integer(minimum=0), "text": text(), "finish_reason": maybe(text())}
                )
            ),
            "usage": ref("Usage"),
        }
    ),
    "EmbeddingRequest": record(
        {
            "model": MODEL,
            "input": INPUT,
            "max_cost": MAX_COST,
            "dimensions": maybe(integer(minimum=1)),
            "encoding_format": maybe(text(enum=["float", "base64"])),
        },
        required=("model", "input"),
        examples=[{"model": "qwen-3-embedding-8b", "input": "Say hello."}],
    ),
    "EmbeddingList": record(
        {
            "object": text(const="list"),
            "data": array(
                record(
                    {
                        "object": text(const="embedding"),
                        "index": integer(minimum=0),
                        "embedding": {"oneOf": [array(number()), text("Base64 of floats")]},
                    }
                )
            ),
            "model": text(),
            "usage": ref("Usage"),
        }
    ),
}
