"""The web page of a run, its live pictures, and its figures for Prometheus."""

from __future__ import annotations

from stream_ann.sinks.web.access import Access
from stream_ann.sinks.web.view import MetricsServer, WebView

__all__ = ["Access", "MetricsServer", "WebView"]
