"""The server's process, spoken to over its socket."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from http.client import HTTPConnection

from mercato.serving import process
from tests.support.served import wait_until


def test_more_connections_than_there_are_places_for_are_refused_as_any_request_is(start, monkeypatch):
    monkeypatch.setattr(process, "CONNECTIONS", 2)
    config = process._config(start().app)
    config.lifespan = "off"  # the client has begun it
    with process.listen(8300) as listening:
        server = process.uvicorn.Server(config)
        serving = threading.Thread(target=server.run, args=[[listening]], daemon=True)
        serving.start()
        address = listening.getsockname()
        try:
            with closing(HTTPConnection(*address)) as first, closing(HTTPConnection(*address)) as second:
                first.request("GET", "/healthz")
                assert first.getresponse().read() == b'{"status":"ok"}'
                second.putrequest("POST", "/v1/search")  # its body never comes
                second.putheader("content-length", "10")
                second.endheaders()
                refused = second.getresponse()
                assert refused.status == 503
                assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
                assert "connections" in json.loads(refused.read())["detail"]
                assert refused.headers["x-content-type-options"] == "nosniff"
            wait_until(lambda: not server.server_state.connections)
            with closing(HTTPConnection(*address)) as third:
                third.request("GET", "/metrics")
                metrics = third.getresponse().read().decode()
                assert 'requests_total{method="POST",route="other",status="503"} 1.0' in metrics
        finally:
            server.should_exit = True
            serving.join()
