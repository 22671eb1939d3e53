"""What a trace of a request tells, and that nothing is traced where no collector is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.api.app import create_app
from serving.store.store import Store
from tests.docs.pages import ROOT
from tests.worlds import client_of, holder_of

PROGRAM = """
import json, sys, threading
from pathlib import Path
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import serving.api.traces
from serving.api.app import create_app
from serving.store.store import Store
from tests.worlds import client_of, holder_of

bundle, folder = map(Path, sys.argv[1:])
store = Store(f"sqlite:///{folder}/store.db")
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
serving.api.traces.exporting_provider = lambda: provider
with client_of(create_app(holder_of(bundle, store), store)) as client:
    client.get("/readyz")
    for _ in range(20):
        threads = [threading.Thread(target=client.post, args=("/v1/recommend",), kwargs={"json": {"user_id": "u1"}}) for _ in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    client.post("/v1/events", json={"events": [{"event_id": "e", "user_id": "secret-user", "item_id": "i1"}]})
print(json.dumps([
    {"name": span.name, "id": span.context.span_id, "trace": span.context.trace_id, "parent": span.parent and span.parent.span_id,
     "links": len(span.links), "attributes": {name: str(value) for name, value in span.attributes.items()}}
    for span in exporter.get_finished_spans()
]))
"""


@pytest.mark.slow
def test_a_request_is_traced_from_http_to_sources_ranker_and_store(tiny: Path, tmp_path: Path) -> None:
    """Requests that are answered together are linked; no span has a user's id."""
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    command = [sys.executable, "-c", PROGRAM, str(tiny), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    spans = json.loads(done.stdout)
    by_id = {span["id"]: span for span in spans}

    def ancestors(span: dict[str, int]) -> list[str]:
        return [str(span["name"]), *(ancestors(by_id[span["parent"]]) if span["parent"] in by_id else [])]

    ways = {tuple(ancestors(span)) for span in spans}
    for name in ("user vectors", "source interest", "source popular", "features", "ranker"):
        assert (name, "batch", "POST /v1/recommend") in ways
    assert any(way[0].startswith("SELECT") and way[1:] == ("batch", "POST /v1/recommend") for way in ways)
    assert any(way[0].startswith("INSERT") and way[1:] == ("POST /v1/events",) for way in ways)
    assert not any("/readyz" in name for way in ways for name in way)
    batches = [span for span in spans if span["name"] == "batch"]
    assert sum(int(span["attributes"]["recsys.requests"]) for span in batches) == 120
    assert all(span["links"] == int(span["attributes"]["recsys.requests"]) - 1 for span in batches)
    assert any(span["links"] for span in batches)
    assert "secret-user" not in done.stdout


def test_without_a_collector_nothing_of_it_is_imported() -> None:
    """A server that is not traced has no code for it."""
    program = (
        "import sys, serving.api.app; print([name for name in sys.modules if 'opentelemetry.instrumentation' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_server_without_the_packages_goes_on_untraced_and_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The variable may be meant for other programs on the machine."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "serving.api.traces", None)
    store = Store(f"sqlite:///{tmp_path}/store.db")
    with client_of(create_app(holder_of(tiny, store), store)) as client:
        assert client.get("/v1/model").status_code == 200
    assert "requests are not traced" in caplog.text and "recsys-text[traces]" in caplog.text
