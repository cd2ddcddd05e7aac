"""The handler `webhook`: posts records to an HTTP receiver, many in one request."""

from emitd_handlers.webhook.handler import WebhookHandler

__all__ = ["WebhookHandler"]
