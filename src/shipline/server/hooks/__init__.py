"""Webhooks: what happened is told to others, from a queue that survives everything."""

from shipline.server.hooks.queue import Queue
from shipline.server.hooks.routes import hook_routes
from shipline.server.hooks.section import WebhookSection
from shipline.server.hooks.sender import Webhooks

__all__ = ["Queue", "WebhookSection", "Webhooks", "hook_routes"]
