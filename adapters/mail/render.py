"""Facts → words: Jinja templates in text and HTML, one layout for all letters.

A template's first line in text is its subject. What a letter does not say is not an error; what
it needs and was not told is.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from jinja2 import (
    Environment,
    FileSystemLoader,
    StrictUndefined,
    TemplateError,
    select_autoescape,
)

from kyma.errors import BILLING_URL
from kyma.mail import FACTS, MAY_KNOW, Mail, is_secret
from kyma.ports.mail import Printed, Unprintable

TEMPLATES = Path(__file__).parent / "templates"
WEB = ("https://", "http://")


class JinjaPrinter:
    """The `Printer` port. `site` is the address of the service, which letters point to."""

    def __init__(self, site: str) -> None:
        self._site = site
        self._templates = _environment()

    def print(self, mail: Mail, posted_at: datetime) -> Printed:
        """Facts that the letter does not know are left out, others must be there."""
        words = {**_told(mail), "site": self._site, "billing": BILLING_URL, "to": mail.to}
        try:
            text = self._templates.get_template(f"{mail.letter.value}.txt").render(words)
            html = self._templates.get_template(f"{mail.letter.value}.html").render(words)
        except TemplateError as error:
            raise Unprintable(f"{mail.letter.value}: {error}") from error
        subject, _, body = text.partition("\n")
        return Printed(
            mail.id, mail.to, posted_at, " ".join(subject.split()), body.strip() + "\n", html
        )


def _told(mail: Mail) -> dict[str, str]:
    """The facts that the letter may say, without characters that no text has."""
    known = FACTS[mail.letter] | MAY_KNOW.get(mail.letter, frozenset())
    told = {name: _printable(fact) for name, fact in mail.facts.items() if name in known}
    for name, fact in told.items():
        if is_secret(name) and not fact.startswith(WEB):
            raise Unprintable(f"{mail.letter.value}: {name} is no web address")
    return told


def _printable(fact: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in fact)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["dollars"] = dollars
    return made


def dollars(amount: str) -> str:
    """`0.5` → `$0.50`; never rounded, never fewer than two places."""
    try:
        value = Decimal(amount.removeprefix("$").replace(",", ""))
    except InvalidOperation as error:
        raise Unprintable(f"{amount!r} is no amount") from error
    if not value.is_finite():
        raise Unprintable(f"{amount!r} is no amount")
    whole, _, fraction = f"{value:f}".partition(".")
    return f"${int(whole):,}.{fraction.rstrip('0'):0<2}"
