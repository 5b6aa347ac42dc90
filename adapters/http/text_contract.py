"""What the routes served in front of Quart declare: they are no views, so here is their table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from adapters.http.contract import (
    Answer,
    Auth,
    Envelope,
    Meter,
    Operation,
    Rate,
    Repeat,
    Schema,
    Tag,
)
from adapters.http.schemas.shapes import boolean, integer, number, text
from kyma.budget import MAX_USD
from kyma.errors import Code
from kyma.keys import Scope

REQUEST_HEADERS: Mapping[str, Schema] = {
    "X-Kyma-Max-Fallback-Layer": integer(
        "How far from first choice may serve: 1 refuses a substitute model.", minimum=0, maximum=3
    ),
    "X-Kyma-Max-Cost": number(
        "What the request may cost at most, in USD; the lower of this and `max_cost` counts.",
        minimum=0,
        maximum=float(MAX_USD),
    ),
}
ANTHROPIC_HEADERS: Mapping[str, Schema] = {
    "anthropic-version": text(
        "Sent by Anthropic's clients; whatever it says, or without it, this is `2023-06-01`."
    ),
    "anthropic-beta": text(
        "Names of beta features, with commas between. They go to Anthropic alone; those that "
        "change what a token costs go to nobody."
    ),
}
SERVED_BY: Mapping[str, Schema] = {
    "X-Kyma-Model": text("Actual model used for this request"),
    "X-Kyma-Alias": text("Alias that was resolved (if alias was used)"),
    "X-Kyma-Fallback": boolean("Whether a fallback provider was used"),
    "X-Kyma-Fallback-Layer": integer(
        "Fallback layer used (1=same model different provider, 2=same family another version, "
        "3=different model)",
        enum=[1, 2, 3],
    ),
    "X-Kyma-Overhead-Ms": number("Milliseconds that this gateway added.", minimum=0),
    "X-Kyma-Sandbox": boolean("Whether a sandbox answered instead of a model."),
    "X-Kyma-Idempotent-Replay": boolean("Whether this is the outcome of an earlier request."),
}


def _served(
    id: str,
    summary: str,
    body: str,
    answer: str,
    *,
    description: str = "",
    streamed: bool = True,
    envelope: Envelope = Envelope.OPENAI,
    errors: tuple[Code, ...] = (),
    headers: Mapping[str, Schema] = MappingProxyType({}),
) -> Operation:
    """A route that asks a model; `headers` are those of its own dialect."""
    return Operation(
        id=id,
        tag=Tag.CHAT,
        summary=summary,
        auth=Auth.KEY,
        scope=Scope.INFERENCE,
        limiter=Rate.TIER,
        meter=Meter.TOKENS,
        errors=frozenset({Code.MODEL_NOT_FOUND, *errors}),
        answers={200: Answer(answer, summary, streamed=streamed, headers=SERVED_BY)},
        headers={**REQUEST_HEADERS, **headers},
        body=body,
        description=description,
        envelope=envelope,
        repeat=Repeat.RECEIPT,
    )


CHAT = _served(
    "createChatCompletion",
    "Create chat completion",
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    description="Generate a chat response from a model. OpenAI-compatible format. Supports "
    "streaming, tool calling, structured outputs, and prompt caching.",
)
MESSAGES = _served(
    "createMessage",
    "Create message (Anthropic format)",
    "AnthropicMessageRequest",
    "AnthropicMessage",
    description="Generate a response using the Anthropic Messages API format. Same models and "
    "pricing as /chat/completions.",
    envelope=Envelope.ANTHROPIC,
    headers=ANTHROPIC_HEADERS,
)
RESPONSES = _served(
    "createResponse",
    "Create response (OpenAI Responses format)",
    "ResponseRequest",
    "Response",
    description="Stateless: send the whole conversation; `store` is taken and ignored.",
    errors=(Code.INVALID_REQUEST,),
)
COMPLETIONS = _served(
    "createCompletion", "Create completion (legacy)", "CompletionRequest", "Completion"
)
EMBEDDINGS = _served(
    "createEmbedding", "Create embeddings", "EmbeddingRequest", "EmbeddingList", streamed=False
)
COUNT_TOKENS = Operation(
    id="countTokens",
    tag=Tag.CHAT,
    summary="Count the tokens of a message (Anthropic format)",
    auth=Auth.KEY,
    scope=Scope.INFERENCE,
    limiter=Rate.NONE,
    meter=Meter.FREE,
    errors=frozenset({Code.MODEL_NOT_FOUND}),
    answers={200: Answer("TokenCount")},
    headers=ANTHROPIC_HEADERS,
    body="CountTokensRequest",
    envelope=Envelope.ANTHROPIC,
    repeat=Repeat.READING,
)

OPERATIONS: Mapping[str, Operation] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT_TOKENS,
    "/v1/responses": RESPONSES,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
}
"""POST routes by path. A route that Quart serves itself declares itself, and is not here."""
