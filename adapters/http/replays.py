"""What a repeated request with an idempotency key gets instead of work."""

from __future__ import annotations

import orjson

from adapters.http.receipts_view import replay_json
from kyma.catalog.model import Catalogue
from kyma.flows.once import Replay
from kyma.idempotency import StoredAnswer


def replayed(replay: Replay, catalogue: Catalogue, status: int = 200) -> StoredAnswer:
    """The kept answer as it was sent, else the receipt of the first request, as a `status`."""
    if replay.answer is not None:
        return replay.answer
    body = replay_json(replay.request_id, replay.generation, catalogue)
    return StoredAnswer(status, "application/json", orjson.dumps(body))
