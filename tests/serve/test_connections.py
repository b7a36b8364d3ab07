"""Connections between the requests."""

import http.client
import time
from urllib.parse import urlsplit

from httpx import Limits
from live import LiveServer


def test_an_idle_connection_outlives_what_clients_keep(server: LiveServer) -> None:
    """A client uses a connection again until its own limit; one that the server closes then is a lost request."""
    kept = Limits().keepalive_expiry
    assert kept is not None
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.auto_open = 0
    connection.connect()
    try:
        for wait in (kept + 1, 0.0):
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            time.sleep(wait)
    finally:
        connection.close()
