"""Webhooks: events delivered to receivers from a durable queue."""

from shipline.server.hooks.queue import Queue
from shipline.server.hooks.section import WebhookSection
from shipline.server.hooks.sender import Webhooks, hook_routes
