"""What a provider's error means: whose it is, whether another may be asked, what is told of it.

Statuses alone mislead: Groq says 413 where our tokens of the minute are spent, Google 400 where
our key is wrong, Alibaba 400 where our account is in arrears, Z.AI 429 where it is empty.
Trouble with our accounts is never the caller's; so the provider's own codes come first. They are
matched whole, and sentences from their beginning, since a message may quote the caller.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from kyma.calls import Fault, UpstreamError

DENIED_STATUS = frozenset({401, 402, 403})
BUSY_STATUS = frozenset({429, 503, 529})
TIMEOUT_STATUS = frozenset({408, 504, 524})
CALLERS_STATUS = frozenset({400, 413, 415, 422})

ACCOUNT_WORDS = frozenset(
    {
        *("invalid_api_key", "api_key_invalid", "incorrect_api_key_error", "authentication_error"),
        *("invalid_authentication_error", "authorized_error", "account_deactivated"),
        *("arrearage", "billing_error", "billing_not_active", "insufficient_quota"),
        *("insufficient_balance", "insufficient_balance_error", "exceeded_current_quota_error"),
        *("organization_restricted", "blocked_api_access", "allocationquota.freetieronly"),
        *("1110", "1111", "1112", "1113", "1309"),  # Z.AI: account, arrears, plan
        *("minimax:1004", "minimax:1008", "minimax:2049"),
    }
)
BUSY_WORDS = frozenset(
    {
        *("rate_limit_exceeded", "rate_limit_reached_error", "rate_limit_error"),
        *("too_many_requests", "limit_requests", "limit_burst_rate", "resource_exhausted"),
        *("engine_overloaded_error", "overloaded_error", "429", "503", "529"),
        *("1302", "1303", "1305", "1308", "1310"),  # Z.AI: concurrency, load, limits of use
        *("minimax:1002", "minimax:1039", "minimax:1041"),
    }
)
FILTER_WORDS = frozenset(
    {
        *("data_inspection_failed", "datainspectionfailed", "prohibited_content", "moderation"),
        *("1301", "minimax:1026", "minimax:1027"),
    }
)
FILTER_PARTS = ("content_filter", "content_policy")
GONE_WORDS = frozenset(
    {"model_decommissioned", "model_not_found", "model_not_supported", "1211"},
)
"""The route names a model that its provider has no more: ours to mend."""

_OUR_ACCOUNT = re.compile(
    r"api key (?:not valid|not found|expired)|(?:invalid|incorrect) api key"
    r"|access denied, please make sure your account|access denied due to overdue account"
    r"|insufficient balance|organization has been restricted"
    r"|user location is not supported for the api use"
)
_FILTERED = re.compile(
    r"(?:<\d+> )?internalerror\.algo\.datainspectionfailed"
    r"|(?:input|output) (?:\w+ )?data may contain inappropriate content"
    r"|the request was rejected because it was considered high risk"
)
TOO_LONG = (
    *("maximum context length", "context window", "exceeded model token limit"),
    *("range of input length should be", "input token count", "prompt is too long"),
)
TOO_LONG_WORDS = frozenset({"context_length_exceeded", "string_above_max_length", "1261"})


@dataclass(frozen=True, slots=True)
class _Told:
    """An error's words: its message, its codes in lower case, and the field it names."""

    message: str = ""
    words: frozenset[str] = frozenset()
    param: str | None = None


def failure(status: int, raw: bytes, retry_after: str | None) -> UpstreamError:
    """What another status than 200 means. Messages for callers are `shown` to them."""
    told = _told(_decoded(raw))
    message = told.message or raw[:200].decode("utf-8", "replace") or f"HTTP {status}"
    fault = _fault_of_words(told) or _fault_of_status(status, told)
    if fault is Fault.BUSY:
        return UpstreamError(fault, _keyless(message), retry_after_s=_seconds(retry_after))
    if fault is Fault.BROKEN:
        return UpstreamError(fault, f"HTTP {status}: {_keyless(message)}")
    if fault in (Fault.DENIED, Fault.TIMEOUT):
        return UpstreamError(fault, _keyless(message))
    return UpstreamError(fault, shown(message), param=told.param)


def error_in_body(error: Any) -> UpstreamError:
    """An error object that came under a status of 200, whole or inside a stream."""
    told = _told({"error": error})
    fault = _fault_of_words(told)
    if fault is None and told.words & {"401", "402"}:
        fault = Fault.DENIED
    if fault is None and told.words & {"408", "504", "524"}:
        fault = Fault.TIMEOUT
    if fault is None and _is_filtered(told):
        return UpstreamError(Fault.REFUSED, shown(told.message))
    return UpstreamError(fault or Fault.BROKEN, _keyless(told.message) or repr(error)[:200])


def check_told(error: Any, base: Any) -> None:
    """Raise what a whole answer under a status of 200 tells in `error`; MiniMax in `base_resp`."""
    if error:
        raise error_in_body(error)
    if isinstance(base, dict) and base.get("status_code"):
        raise error_in_body({"base_resp": base})


def _fault_of_words(told: _Told) -> Fault | None:
    """Trouble with our accounts, under whatever status."""
    said = told.message.lower()
    throttled = any(word.startswith("throttling") for word in told.words)
    # Alibaba tells a limit of the minute as `insufficient_quota` (oh-my-pi #8476, 2026-08).
    if throttled or ("insufficient_quota" in told.words and "#token-limit" in said):
        return Fault.BUSY
    if told.words & ACCOUNT_WORDS or _OUR_ACCOUNT.match(said):
        return Fault.DENIED
    return Fault.BUSY if told.words & BUSY_WORDS else None


def _fault_of_status(status: int, told: _Told) -> Fault:
    if status in BUSY_STATUS:
        return Fault.BUSY
    if status in DENIED_STATUS:
        # 2026-11: OpenRouter answers 403 when its moderation flags the input.
        moderated = _is_filtered(told) or "flagged" in told.message.lower()
        return Fault.REFUSED if status == 403 and moderated else Fault.DENIED
    if status in TIMEOUT_STATUS:
        return Fault.TIMEOUT
    if status not in CALLERS_STATUS or told.words & GONE_WORDS:
        return Fault.BROKEN
    if _is_filtered(told):
        return Fault.REFUSED
    said = told.message.lower()
    is_long = told.words & TOO_LONG_WORDS or any(words in said for words in TOO_LONG)
    return Fault.TOO_LONG if status == 413 or is_long else Fault.BAD_REQUEST


def _is_filtered(told: _Told) -> bool:
    return bool(
        told.words & FILTER_WORDS
        or any(part in word for word in told.words for part in FILTER_PARTS)
        or _FILTERED.match(told.message.lower())
    )


def _decoded(raw: bytes | str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _told(body: Any, depth: int = 0) -> _Told:
    """An error in any of the forms seen: alone, in `error`, in an array, one inside another.

    Google sends an array; MiniMax a `base_resp`, whose numbers are its own; Alibaba's older
    form and vLLM's have no `error` around them; OpenRouter quotes the host's body in `raw`.
    """
    if isinstance(body, list):
        body = body[0] if body else None
    if not isinstance(body, dict):
        return _Told()
    error = body.get("error") or body
    if isinstance(error, str):
        error = {"message": error, "code": body.get("code")}
    if not isinstance(error, dict):
        return _Told()
    details = error.get("details")
    details = details if isinstance(details, list) else []
    codes = [error.get(name) for name in ("code", "type", "status")]
    codes += [detail.get("reason") for detail in details if isinstance(detail, dict)]
    words = {str(code).lower() for code in codes if isinstance(code, (str, int)) and code}
    message = _text(error.get("message")) or _text(error.get("detail"))
    base = body.get("base_resp") or error.get("base_resp")
    if isinstance(base, dict):
        words.add(f"minimax:{base.get('status_code')}")
        message = message or _text(base.get("status_msg"))
    metadata = error.get("metadata")
    quoted = metadata.get("raw") if isinstance(metadata, dict) else None
    inner = _told(_inner(quoted) or _inner(message), depth + 1) if depth < MAX_NESTED else _Told()
    param = error.get("param") if isinstance(error.get("param"), str) else None
    return _Told(inner.message or message, frozenset(words) | inner.words, param or inner.param)


MAX_NESTED = 3


def _inner(quoted: Any) -> Any:
    """The body that a message quotes, if it is one."""
    if isinstance(quoted, str) and quoted.lstrip()[:1] in ("{", "["):
        return _decoded(quoted)
    return quoted if isinstance(quoted, dict) else None


def _text(said: Any) -> str:
    """A message; validators of FastAPI give a list of them."""
    if isinstance(said, list):
        return "; ".join(str(item.get("msg")) for item in said if isinstance(item, dict))
    return said if isinstance(said, str) else ""


_KEYS = re.compile(r"\b(?:sk-|gsk_|ak-|fw_|tgp_v1_|AIza)[\w*.-]{8,}|<ak-[^>]*>")
_OURS = re.compile(
    r"(?:\s*in organization)?\s*`?\b(?:org|proj|acct|team)[-_](?=[A-Za-z]*\d)[A-Za-z0-9]{12,}`?"
    r"|\bprojects/[\w-]+"
)
_HOSTS = (
    *("groq.com", "openai.com", "openrouter.ai", "anthropic.com", "claude.com", "deepseek.com"),
    *("aliyun.com", "aliyuncs.com", "alibabacloud.com", "google.com", "google.dev", "goo.gle"),
    *("googleapis.com", "moonshot.ai", "moonshot.cn", "kimi.com", "z.ai", "bigmodel.cn"),
    *("minimax.io", "minimaxi.com", "together.ai", "together.xyz", "fireworks.ai"),
    "deepinfra.com",
)
_CONSOLES = re.compile(
    r"[^.!?\n]*https?://(?:[\w-]+\.)*(?:"
    + "|".join(map(re.escape, _HOSTS))
    + r")\b\S*[^.!?\n]*[.!?]?",
    re.IGNORECASE,
)
MAX_SHOWN = 2_000
"""Characters of a provider's message that are worth reading."""


def shown(message: str) -> str:
    """A provider's words as a caller may read them: without our names there, keys and consoles."""
    kept = _OURS.sub("", _keyless(_CONSOLES.sub("", message[:MAX_SHOWN])))
    return " ".join(kept.split()) or "The provider rejected the request."


def _keyless(message: str) -> str:
    return _KEYS.sub("(key)", message[:MAX_SHOWN])


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; the HTTP-date form is not used by any provider here."""
    try:
        seconds = float(retry_after) if retry_after else math.nan
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
