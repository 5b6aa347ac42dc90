"""A small stateful Stripe: see README.md beside this file."""

from tests.stripe_server.app import Fault
from tests.stripe_server.server import StripeServer, stripe_server

__all__ = ["Fault", "StripeServer", "stripe_server"]
