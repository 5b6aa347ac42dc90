"""Operators of the console: who they are, and whether they are who they say."""

from __future__ import annotations

from kyma.accounts import MAX_PASSWORD_LENGTH, Operator
from kyma.errors import Code, Refusal
from kyma.flows.throttle import Throttle
from kyma.ports.runtime import Clock, Passwords
from kyma.ports.storage import Operators
from kyma.throttles import Guarded

MIN_OPERATOR_PASSWORD_LENGTH = 10
"""Longer than a customer's: an operator decides over everybody's limits."""

MAX_NAME_LENGTH = 64


class OperatorSignIn:
    """Sign operators in."""

    def __init__(self, operators: Operators, passwords: Passwords, throttle: Throttle) -> None:
        self._operators = operators
        self._passwords = passwords
        self._throttle = throttle

    async def sign_in(self, name: str, password: str) -> Operator | None:
        """The operator, or None; an unknown name takes as long as a wrong password.

        Guesses at a name are counted in all windows, tabs and processes together, and refused
        with TOO_MANY_ATTEMPTS.
        """
        name = name.strip().replace("\x00", "")
        if len(password) > MAX_PASSWORD_LENGTH or len(name) > MAX_NAME_LENGTH:
            return None
        subject = f"operator:{name}"
        await self._throttle.take(Guarded.LOGIN, "", subject)
        operator = await self._operators.by_name(name)
        hashed = None if operator is None else operator.password_hash
        if not await self._passwords.matches(password, hashed):
            return None
        await self._throttle.succeeded(Guarded.LOGIN, "", subject)
        return operator


class NewOperators:
    """Add operators."""

    def __init__(self, operators: Operators, passwords: Passwords, clock: Clock) -> None:
        self._operators = operators
        self._passwords = passwords
        self._clock = clock

    async def create(self, name: str, password: str) -> Operator:
        """Add an operator; refused if the name is taken or the password is too short."""
        name = name.strip()
        if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise Refusal(
                Code.INVALID_VALUE,
                f"An operator's name has 1 to {MAX_NAME_LENGTH} printable characters.",
                param="name",
            )
        if not MIN_OPERATOR_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
            raise Refusal(
                Code.INVALID_VALUE,
                f"An operator's password has {MIN_OPERATOR_PASSWORD_LENGTH} to "
                f"{MAX_PASSWORD_LENGTH} characters.",
                param="password",
            )
        hashed = await self._passwords.hash(password)
        operator = Operator(name, hashed, self._clock.now())
        if not await self._operators.add(operator):
            raise Refusal(
                Code.INVALID_VALUE, f"There is an operator {name!r} already.", param="name"
            )
        return operator
