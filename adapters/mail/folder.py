"""Letters into a folder, while no mail server is set: a developer opens them there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from adapters.mail.message import Message, Sender, mark_of, message_of
from kyma.ports.mail import NotTaken, Printed


class FolderCarrier:
    """The `Carrier` port over files that only their owner may read: they hold live links."""

    def __init__(self, folder: Path, sender: Sender) -> None:
        self._folder = folder
        self._sender = sender

    async def carry(self, letter: Printed) -> None:
        """One file, whose name is the same for every copy of the letter."""
        message = message_of(letter, self._sender)
        name = f"{letter.posted_at:%Y%m%d-%H%M%S}-{mark_of(letter.id)[:12]}.eml"
        try:
            await asyncio.to_thread(self._write, name, message)
        except OSError as error:
            raise NotTaken(f"{type(error).__name__}: {error}") from error

    def _write(self, name: str, message: Message) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        begun = self._folder / f".{name}"
        begun.touch(mode=0o600)
        begun.write_bytes(message.raw)
        begun.replace(self._folder / name)
