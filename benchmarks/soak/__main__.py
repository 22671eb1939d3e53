"""Twenty minutes, or six hours, of steady load with reloads on one server, to see whether its memory grows.

    python -m benchmarks.soak [BUNDLE]                       # make benchmark-leak
    python -m benchmarks.soak --hours 6                      # make benchmark-soak
    python -m benchmarks.soak --plant-leak 2                 # 2 KiB of every request are kept: has to be found

In: the folder of a bundle; without one it is made up. Out: a table, a picture where one is wanted, and the exit code: 0 no leak above the limit,
1 a leak, 2 inconclusive: the interval has the limit in it. A longer run has a narrower one.
"""

import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import click
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load import Caller, at_rate
from benchmarks.server import Server, every, memory_noted
from benchmarks.serving_world import bundle_of
from benchmarks.soak.growth import Growth, after, growth, minima, worst
from benchmarks.soak.traffic import SCENARIO, requests_of

matplotlib.use("Agg")
from matplotlib import pyplot

WINDOW_S = 30.0
"""Seconds of which the least memory counts; a reload lasts shorter."""
IN_USE = "in-use.csv"
SLICE_S = 30.0
"""Seconds of load that are begun at once: what a slow server did not answer by then makes the next slice late, not the run longer."""
ITEMS, USERS = 5000, 2000
"""Of the bundle that is made up."""


@dataclass
class Load:
    """What was sent, and what came of it."""

    ms: list[float] = field(default_factory=list)
    reloads: list[float] = field(default_factory=list)
    """When a model was loaded again."""
    failures: Counter[str] = field(default_factory=Counter)

    def fail(self, error: Exception) -> None:
        """Count a failure."""
        self.failures[str(error)[:160] or type(error).__name__] += 1


def soak(server: Server, bundle: Path, *, seconds: float, per_second: float, reload_s: float) -> Load:
    """Load the server, note its memory, and return what came of the load; the server runs only meanwhile."""
    load, requests = Load(), requests_of(bundle)

    def reload() -> None:
        try:
            Caller(server.port).json("POST", "/v1/model/reload")
            load.reloads.append(time.time())
        except Exception as error:
            load.fail(error)

    server.start()
    try:
        call = Caller(server.port)
        call.json("PUT", "/v1/scenarios/soak", SCENARIO)
        call.json("POST", "/v1/scenarios/soak/switch", {"on": True})
        with memory_noted([server]), every(reload_s, reload):
            end, upcoming = time.monotonic() + seconds, cycle(requests)
            while (left := min(end - time.monotonic(), SLICE_S)) > 1:
                some = list(islice(upcoming, round(per_second * left)))
                load.ms += at_rate(server.port, some, per_second, left, on_failure=load.fail).tolist()
    finally:
        server.stop()
    return load


def server_of(bundle: Path, folder: Path, leak_kib: float) -> Server:
    """Return a server of a bundle with a store in `folder`, which keeps so much of every request."""
    serve = ("serve", "--model", str(bundle), "--store", f"sqlite:///{folder / 'store.db'}")
    return Server(
        "soak",
        folder,
        ("benchmarks.soak.watched", *serve),
        {"SOAK_LEAK_KIB": str(leak_kib), "SOAK_IN_USE": str(folder / IN_USE)},
    )


Series = dict[str, list[tuple[float, float]]]
"""Times and MiB, by what they are of."""


def draw(path: Path, series: Series, load: Load, warm_up: float) -> None:
    """Draw each series, the minima that count with their line, and the reloads."""
    figure, axes = pyplot.subplots(len(series), 1, sharex=True, figsize=(11, 3 * len(series)), squeeze=False)
    for (name, samples), axis in zip(series.items(), axes[:, 0], strict=True):
        times, sizes = np.array(samples).T
        least = minima(samples, WINDOW_S)
        hours, counted = after(least, warm_up)
        found = growth((hours, counted))
        axis.plot((times - times[0]) / 60, sizes, color="tab:grey", linewidth=0.8, label=f"{name}, every 2 s")
        axis.plot(60 * least[0], least[1], ".", color="tab:blue", label=f"least of {WINDOW_S:g} s")
        axis.plot(
            60 * hours, counted.mean() + found.slope * (hours - hours.mean()), color="crimson", label=shown(found)
        )
        for at in load.reloads:
            axis.axvline((at - times[0]) / 60, ymax=0.03, color="black", linewidth=0.8)
        axis.axvspan(0, warm_up, color="grey", alpha=0.15, linewidth=0)
        axis.set(ylabel="MiB", xlim=(0, None))
        axis.legend(loc="lower right", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("minutes; a line below for each reload")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def shown(found: Growth, times: float = 1.0, unit: str = "MiB/hour") -> str:
    """Return a slope with its interval, `times` as much."""
    return f"{found.slope * times:+.2f} {unit} ({found.low * times:+.2f} to {found.high * times:+.2f})"


def table(series: Series, load: Load, found: dict[str, Growth], limit: float, hours: float) -> Table:
    """Return the figures."""
    rows = Table("", "figure", title=f"{60 * hours:g} minutes, memory of one server")
    answered = np.array(load.ms)[np.isfinite(load.ms)]
    p50, p99 = np.percentile(answered, [50, 99])
    rows.add_row("requests answered, median and p99", f"{len(answered):,}, {p50:.0f} and {p99:.0f} ms")
    rows.add_row("requests or reloads that failed", f"{load.failures.total():,}")
    rows.add_row("reloads", f"{len(load.reloads):,}")
    for name, of in found.items():
        rows.add_row(f"{name}, at most", f"{max(size for _, size in series[name]):,.0f} MiB")
        rows.add_row(f"growth after warm-up, {of.windows} minima", f"{shown(of)}, limit {limit:g}")
        rows.add_row("the same per reload", shown(of, hours / max(len(load.reloads), 1), "MiB"))
    return rows


@click.command()
@click.argument("bundle", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--minutes", default=20.0, show_default=True, type=click.FloatRange(1), help="How long the load lasts.")
@click.option("--hours", type=click.FloatRange(0.1), help="The same in hours.")
@click.option("--per-second", default=20.0, show_default=True, type=click.FloatRange(1), help="Requests per second.")
@click.option(
    "--reload-every", default=60.0, show_default=True, type=click.FloatRange(10), help="Seconds between reloads."
)
@click.option("--warm-up", default=8.0, show_default=True, help="Minutes that do not count, in which caches fill.")
@click.option("--limit", default=50.0, show_default=True, help="MiB an hour that are a leak.")
@click.option(
    "--plant-leak",
    default=0.0,
    type=click.FloatRange(0),
    metavar="KIB",
    help="Have the server keep so much of each request.",
)
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False), help="Folder for the store, the log and the samples."
)
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="PNG file for a picture of the memory."
)
def main(
    *,
    bundle: Path | None,
    minutes: float,
    hours: float | None,
    per_second: float,
    reload_every: float,
    warm_up: float,
    limit: float,
    plant_leak: float,
    keep: Path | None,
    picture: Path | None,
) -> None:
    """Load one server for a long time, and say whether its memory grows."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    hours = minutes / 60 if hours is None else hours
    with tempfile.TemporaryDirectory() as scratch:
        folder = (keep or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        bundle = bundle or bundle_of(Path(".recsys/benchmarks"), ITEMS, USERS)
        server = server_of(bundle.absolute(), folder, plant_leak)
        load = soak(server, bundle, seconds=3600 * hours, per_second=per_second, reload_s=reload_every)
        in_use = [(float(at), float(mib)) for at, mib in np.loadtxt(folder / IN_USE, delimiter=",", ndmin=2)]
        np.savetxt(folder / "process.csv", server.mib, "%.3f", ",")
    series = {"allocated": in_use, "the process's own": server.mib}
    found = {name: growth(after(minima(samples, WINDOW_S), warm_up)) for name, samples in series.items()}
    if picture:
        draw(picture, series, load, warm_up)
    Console(width=130).print(table(series, load, found, limit, hours))
    for reason, count in load.failures.most_common(5):
        click.echo(f"{count} times {reason}")
    verdict = worst(one.verdict(limit) for one in found.values())
    click.echo(verdict.name.lower().replace("_", " "))
    sys.exit(verdict.value)


if __name__ == "__main__":
    main()
