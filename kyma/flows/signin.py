"""Operators of the console: who they are, and whether they are who they say."""

from __future__ import annotations

from kyma.accounts import MAX_PASSWORD_LENGTH, Operator
from kyma.errors import Code, Refusal
from kyma.ports.runtime import Clock, Passwords
from kyma.ports.storage import Operators

MIN_OPERATOR_PASSWORD_LENGTH = 10
"""Longer than a customer's: an operator decides over everybody's limits."""

MAX_NAME_LENGTH = 64


class OperatorSignIn:
    """Sign operators in and add them."""

    def __init__(self, operators: Operators, passwords: Passwords, clock: Clock) -> None:
        self._operators = operators
        self._passwords = passwords
        self._clock = clock

    async def sign_in(self, name: str, password: str) -> Operator | None:
        """The operator, or None; an unknown name takes as long as a wrong password."""
        if len(password) > MAX_PASSWORD_LENGTH:
            return None
        operator = await self._operators.by_name(name.strip().replace("\x00", ""))
        hashed = None if operator is None else operator.password_hash
        return operator if await self._passwords.matches(password, hashed) else None

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
