"""The code blocks of the guides run, line by line, in a folder with a small trained shop.

What does not run here stands in `NOT_RUN` with its reason; `test_commands.py` parses those lines as well.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import polars as pl
import pytest

from features.data.dataset import Dataset, load_dataset
from recsys.registry import bundle_folder
from tests.command_line import free_port, run
from tests.conftest import Shop
from tests.docs.pages import PAGES, ROOT, Page, words
from training import tracking

pytestmark = pytest.mark.slow

READ = (
    "README.md",
    "docs/own-data.md",
    "docs/data.md",
    "docs/analysts.md",
    "docs/evaluation.md",
    "docs/batch.md",
    "docs/serving.md",
    "docs/python.md",
)
NOTEBOOK = ROOT / "docs/notebook.ipynb"
GUIDES = [page for page in PAGES if str(page) in READ]

NOT_RUN = {
    r"pip install ": "`.ci/wheel` runs these lines in an environment of their own",
    r"make demo$": "takes minutes; its steps are those of tests/test_end_to_end.py",
    r"make test$": "is what runs this",
    r"recsys tune ": "takes minutes; tests/training/search runs it",
    r"recsys train ": "takes minutes; the shop of these tests is trained by the same function",
    r"recsys evaluate shop --(split test|baselines) ": "the README's line, which runs, is the same but for the model and the file",
    r"recsys evaluate shop-2 --off-policy ": "needs many clicks; tests/training/evaluation/test_explored.py runs the command",
    r"recsys monitor ": "tests/serving/test_monitor.py runs it, on lists of today",
    r"recsys serve --ray ": "tests/serving/api/test_replicas.py starts replicas",
    r"recsys runs ui$": "goes on until Ctrl-C; tests/training/test_tracking.py has its address",
    r"mlflow models serve ": "tests/training/test_tracking.py starts it",
    r"curl localhost:5001/": "asks that server",
    r"openapi-python-client ": "tests/serving/api/test_generated_client.py runs it, and the program below it",
}
"""Lines that are left out, by a pattern, and why."""

STARTED_WITHIN_S = 120


class Terminal:
    """A working folder with the shop, in which commands run as a reader would run them."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.server: subprocess.Popen[bytes] | None = None
        self.port, self.key, self.outs = 0, "rk_none", 0
        self.done: set[str] = set()

    def type(self, line: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Run one line; what is repeated on another page runs once."""
        if line in self.done:
            return
        self.done.add(line)
        program, *arguments = words(self._here(line))
        if program == "curl":
            subprocess.run(["curl", "--fail-with-body", *arguments], check=True, capture_output=True)
        elif arguments[0] == "serve":
            self._serve(arguments)
        else:
            assert program == "recsys", line
            code, printed, problem = run(capsys, *arguments)
            assert code == 0, f"{line}\n{printed}\n{problem}"
            made = re.search(r"rk_[0-9a-f]+_\S+", printed)
            self.key = made[0] if made else self.key

    def run_python(self, block: str) -> None:
        """Run a block of Python in a process of its own."""
        subprocess.run([sys.executable, "-c", block], cwd=self.folder, check=True)

    def _here(self, line: str) -> str:
        """Return `line` with what is different here: port, version, key, and folders that must not exist."""
        line = line.replace("localhost:8000", f"localhost:{self.port}").replace("models:/recsys/2", self.model)
        line = line.replace("rk_…", self.key).replace("1a2b3c4d", self.key.split("_")[1])
        self.outs += 1
        return re.sub(r"--out shop(?= |$)", f"--out shop-of-{self.outs}", line)

    def _serve(self, arguments: list[str]) -> None:
        """Start the server, once for all pages, and wait until it is ready."""
        if self.server:
            return
        self.port = free_port()
        arguments = [str(self.port) if argument == "8000" else argument for argument in arguments]
        self.server = subprocess.Popen([sys.executable, "-c", "from recsys.cli import main; main()", *arguments])
        end = monotonic() + STARTED_WITHIN_S
        while monotonic() < end and self.server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://localhost:{self.port}/readyz"):
                return
            sleep(0.2)
        raise AssertionError(f"the server did not answer within {STARTED_WITHIN_S} s")

    def close(self) -> None:
        """Stop the server."""
        if self.server:
            self.server.terminate()
            self.server.wait(30)


@pytest.fixture(scope="module")
def terminal(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """Return a folder with the shop, its registered model and, in `export` and `my-shop`, files of other systems."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(shop.dataset, folder / "shop")
    shutil.copy(shop.folder / "mlflow.db", folder)
    (folder / "export").mkdir()
    dataset = load_dataset(shop.dataset)
    dataset.items.select("item_id", "title").write_csv(folder / "export/items.csv")
    events = dataset.events.select(pl.col("user_id").alias("visitorid"), "item_id", "event_type", "timestamp").collect()
    events.write_csv(folder / "export/events.csv")
    write_shop_export(dataset, folder / "my-shop")
    write_database(dataset, folder)
    terminal = Terminal(folder, shop.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register_again(shop.trained.run_id)
        yield terminal
        terminal.close()


def register_again(run_id: str) -> None:
    """Register the model a second time, as a second training would."""
    first = tracking.find(run_id)
    tags = {"dataset.fingerprint": first.fingerprint, "fit_on": first.parameters["fit_on"]}
    again = tracking.start_run(None, first.parameters, tags)
    tracking.log_requests(again, tracking.read_requests(first))
    tracking.register(again, bundle_folder(f"models:/recsys/{first.versions[0]}"))
    tracking.end_run(again, finished=True)


def write_shop_export(dataset: Dataset, folder: Path) -> None:
    """Write the files that docs/own-data.md shows: names, event types, prices and times as a shop system has them."""
    folder.mkdir()
    names = {
        "item_id": "id",
        "title": "name",
        "description": "body_html",
        "category": "product_type",
        "brand": "vendor",
    }
    price = pl.format("${}", "price").alias("price")
    dataset.items.select(*(pl.col(ours).alias(theirs) for ours, theirs in names.items()), price).write_csv(
        folder / "products.csv"
    )
    events = dataset.events.filter(pl.col("event_type").is_in(["click", "purchase"])).select(
        visitorid="user_id",
        sku="item_id",
        action=pl.col("event_type").replace("purchase", "transaction"),
        ts=pl.col("timestamp") // 1000,
    )
    events.collect().write_csv(folder / "events.csv")


def write_database(dataset: Dataset, folder: Path) -> None:
    """Write `shop.db` with a table of items and of events, and in `queries` a query for each."""
    (folder / "queries").mkdir()
    tables = {"items": dataset.items.select("item_id", "title", "price"), "events": dataset.events.collect()}
    for name, table in tables.items():
        table.write_database(name, f"sqlite:///{folder}/shop.db", engine="sqlalchemy")
        (folder / "queries" / f"{name}.sql").write_text(f"SELECT * FROM {name}")


def is_left_out(line: str) -> bool:
    """Return whether `line` does not run here."""
    return any(re.match(pattern, line) for pattern in NOT_RUN)


@pytest.mark.parametrize("page", GUIDES, ids=str)
def test_the_code_blocks_of_a_guide_run(page: Page, terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line succeeds after those above it, and so does each block of Python."""
    for line in page.commands:
        if not is_left_out(line):
            terminal.type(line, capsys)
    for block in page.blocks("python"):
        terminal.run_python(block)


def test_the_notebook_runs_and_shows_what_it_did(terminal: Terminal) -> None:
    """Every cell of code, in the folder of the shop; what is kept of its last run has no error and no path of a machine."""
    text = NOTEBOOK.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    terminal.run_python("\n".join("".join(cell["source"]) for cell in cells).replace('os.chdir("../demo")', ""))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]
    assert "site-packages" not in text


def test_nothing_is_left_out_without_need() -> None:
    """Every pattern of `NOT_RUN` is of a line that stands in a guide."""
    lines = [line for page in GUIDES for line in page.commands]
    assert all(any(re.match(pattern, line) for line in lines) for pattern in NOT_RUN)
