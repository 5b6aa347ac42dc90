"""Device codes: the two calls of a device, and the page on which its person answers."""

from __future__ import annotations

from quart import Blueprint, Response, request

from adapters.http.contract import Auth, Envelope, Meter, Rate, Repeat, Tag, operation
from adapters.http.identity import Ways, given_json, private_json
from adapters.http.page_contract import page
from adapters.http.parsing import client, json_object, text_field
from adapters.http.visitor import Visitor, asked
from kyma.errors import Code, Refusal
from kyma.identity import with_query

PATH = "/device"


def routes(ways: Ways) -> Blueprint:
    """POST /v1/auth/device/code and /v1/auth/device/token."""
    blueprint = Blueprint("devices", __name__, url_prefix="/v1/auth/device")

    @blueprint.post("/code")
    @operation(
        id="createDeviceCode",
        tag=Tag.AUTH,
        summary="Ask for a device code",
        description="For a program whose user signs in elsewhere: open `verification_url` with "
        "`?code=` and the user code, then poll. Good for 15 minutes.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.TICKET,
        errors=(Code.TOO_MANY_ATTEMPTS, Code.RATE_LIMITED, Code.STORAGE_UNAVAILABLE),
        body="DeviceWish",
        body_required=False,
        answers={200: "DeviceCode"},
    )
    async def code() -> Response:
        body = await json_object() if await request.get_data() else {}
        named = body.get("client_name") is not None
        name = text_field(body, "client_name") if named else ""
        begun = await ways.devices.begin(name, client())
        address = f"{ways.base_url}{PATH}"
        return private_json(
            {
                "device_code": begun.device_code,
                "user_code": begun.user_code,
                "verification_url": address,
                "verification_uri": address,
                "verification_uri_complete": with_query(address, code=begun.user_code),
                "interval": begun.interval_s,
                "expires_in": begun.expires_in_s,
            }
        )

    @blueprint.post("/token")
    @operation(
        id="pollDeviceToken",
        tag=Tag.AUTH,
        summary="Poll for a device's key",
        description="428 `authorization_pending` until the person has answered; then the key, "
        "once. `interval` seconds apart: 428 `slow_down` for whoever asks more often.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.SHOWN_ONCE,
        errors=(
            Code.AUTHORIZATION_PENDING,
            Code.SLOW_DOWN,
            Code.EXPIRED_TOKEN,
            Code.ACCESS_DENIED,
            Code.STORAGE_UNAVAILABLE,
        ),
        body="DevicePoll",
        answers={200: "GivenKey"},
        envelope=Envelope.OAUTH,
    )
    async def token() -> Response:
        body = await json_object()
        return given_json(await ways.devices.poll(text_field(body, "device_code")))

    return blueprint


def pages(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    """GET and POST /device."""

    @blueprint.get(PATH)
    @page("devicePage", "Approve a device", Code.NOT_FOUND, Code.TOO_MANY_ATTEMPTS)
    async def device() -> Response:
        typed = asked().get("code", "").strip()
        principal = await visitor.person()
        if principal is None:
            return visitor.to(with_query("/signin", next=with_query(PATH, code=typed)))
        if not typed:
            return await visitor.page("device_code.html", typed="", message="")
        try:
            found = await ways.devices.find(typed, principal.account_id, client())
        except Refusal as refusal:
            return await _again(visitor, typed, refusal)
        return await visitor.page("device.html", device=found, email=principal.email)

    @blueprint.post(PATH)
    @page("answerDevice", "Approve or deny a device", Code.NOT_FOUND, Code.TOO_MANY_ATTEMPTS)
    async def answer_device() -> Response:
        told = await visitor.form()
        typed, principal = told.get("code", ""), await visitor.person()
        if principal is None:
            return visitor.to(with_query("/signin", next=with_query(PATH, code=typed)))
        approved = told.get("answer") == "approve"
        try:
            found = await ways.devices.decide(typed, principal, client(), approved=approved)
        except Refusal as refusal:
            return await _again(visitor, typed, refusal)
        return await visitor.page("device_done.html", device=found, approved=approved)


async def _again(visitor: Visitor, typed: str, refusal: Refusal) -> Response:
    """The form once more, if another code may help."""
    if refusal.code is not Code.NOT_FOUND:
        raise refusal
    return await visitor.page("device_code.html", 404, typed=typed, message=refusal.message)
