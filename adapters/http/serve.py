"""One HTTP process: `python -m adapters.http.serve`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import socket

import structlog
import uvicorn
import uvloop

from adapters import log
from adapters.container import Container, start, stop
from adapters.http.app import Gateway
from adapters.http.connections import allow_more_files, patient
from adapters.settings import Settings

logger = structlog.get_logger("kyma")


def server_config(app: Gateway, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves. Who a client is, a proxy tells only if it is named in the settings."""
    return uvicorn.Config(
        app,
        loop="none",
        http=patient(settings.head_timeout_s, settings.body_timeout_s),
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies,
        log_config=None,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )


def say_whether_addresses_are_confirmed(settings: Settings) -> None:
    """It follows from the mail server unless it is set, so it is said which of the two it was."""
    logger.info("address_confirmation", on=settings.confirms, because=settings.why_confirms)
    if settings.is_mute:
        logger.warning("confirmations_reach_nobody", because="KYMA_SMTP_HOST is not set")


YOUNG_OBJECTS = 20_000
"""How many objects may come to life between two collections. By default it is 700: fewer than the
requests under way hold among them, so that each collection walks living ones (a tenth of the CPU
at 64 connections)."""


async def serve(settings: Settings, *, reuse_port: bool) -> None:
    """Serve until told to stop, then finish what is under way."""
    say_whether_addresses_are_confirmed(settings)
    container = Container(settings=settings)
    await start(container)
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((settings.host, settings.port))
    server = uvicorn.Server(server_config(container.gateway(), settings))
    # What exists now lives as long as the process: keep the collector from walking it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    # uvicorn raises a signal again when it has finished: by default that is the end of us,
    # before holds that are being resolved were.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        await server.serve(sockets=[listener])
    finally:
        await stop(container)


def main() -> None:
    """Entry point."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--reuse-port", action="store_true", help="share the port with others")
    settings = Settings()
    log.configure(settings.log_level)
    allow_more_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, reuse_port=arguments.parse_args().reuse_port))


if __name__ == "__main__":
    main()
