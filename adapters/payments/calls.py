"""How Stripe is called: the client, its deadlines, and its errors in the port's two words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import stripe
import structlog

from kyma.ports.payments import ProcessorRefused, ProcessorUnavailable

log = structlog.get_logger("kyma.payments")

API_VERSION = "2026-10-28.endive"
"""The version whose fields are read here, whatever the account's own default is."""

RETRIES = 2
"""Of one call, with its idempotency key, after a reset, a 409 or a 5xx."""

WEBHOOK_TOLERANCE_S = 300


def make_http(timeout_s: float = 30.0) -> stripe.AIOHTTPClient:
    """The library's own client on aiohttp; `timeout_s` is for one attempt."""
    return stripe.AIOHTTPClient(
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(5.0, timeout_s))
    )


def make_client(secret_key: str, api_base: str, http: stripe.AIOHTTPClient) -> stripe.StripeClient:
    """A client of this API version; `api_base` replaces Stripe's address, if it is not empty."""
    # Process-wide, and it would keep an id in a file of the user's home.
    stripe.enable_telemetry = False
    return stripe.StripeClient(
        secret_key,
        stripe_version=API_VERSION,
        base_addresses={"api": api_base.rstrip("/")} if api_base else None,
        max_network_retries=RETRIES,
        http_client=http,
    )


@contextmanager
def answered() -> Iterator[None]:
    """Turn what goes wrong in a call into the port's errors.

    Whatever leaves it open whether Stripe acted is `ProcessorUnavailable`: no connection, a
    broken body, 409 (the same key is under way), 429, 5xx. A clear no to what was asked is
    `ProcessorRefused`. Anything else is about us, such as a key that was rolled or may not do
    this: no customer can help it, so it is unavailable too, and the operator hears of it.
    """
    try:
        yield
    except stripe.CardError as error:
        raise ProcessorRefused(str(error), error.user_message or "") from error
    except stripe.InvalidRequestError as error:
        raise ProcessorRefused(str(error)) from error
    except (stripe.APIConnectionError, stripe.APIError, stripe.RateLimitError) as error:
        raise ProcessorUnavailable(str(error)) from error
    except stripe.StripeError as error:
        _report(error)
        raise ProcessorUnavailable(str(error)) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # The library reads the body outside of its own net (16.1.0, AIOHTTPClient).
        raise ProcessorUnavailable(f"no whole answer: {type(error).__name__}") from error


def _report(error: stripe.StripeError) -> None:
    """Without its words, which may show a part of the key."""
    log.error(
        "processor_misconfigured",
        error=type(error).__name__,
        status=error.http_status,
        code=error.code,
        request=error.request_id,
    )


def is_missing(error: stripe.InvalidRequestError) -> bool:
    """Whether it says that there is no such object."""
    return error.code == "resource_missing"
