"""Two machines of a Ray cluster, on one: the second can neither read nor write the folder that the driver works in.

The folder belongs to another user, and only the first one's processes may ignore that (they are root's, with all capabilities).
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray

NOBODY = 65534
STRANGER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
START_S = 120.0


@contextmanager
def two_machines(folder: Path, keys: dict[str, str]) -> Iterator[dict[str, str]]:
    """Start a cluster of two machines with a core each while the body runs; give the environment of a driver in `folder`.

    All have the `keys` of what they share in their environment.
    """
    if os.getuid() or not shutil.which("setpriv"):
        pytest.skip("a second machine that cannot read the folders of the first needs root and setpriv")
    shutil.chown(folder, NOBODY)
    folder.chmod(0o700)
    if subprocess.run([*STRANGER, "ls", str(folder)], capture_output=True).returncode == 0:
        pytest.skip("this machine's root reads every folder, whatever its capabilities")
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | keys
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # nobody else's cluster
    env |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        address = f"{host}:{probe.getsockname()[1]}"
    session = tempfile.mkdtemp(prefix="ray-")  # its sockets' paths may not be long; others join what /tmp/ray names
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str, prefix: tuple[str, ...] = ()) -> None:
        command = [*prefix, sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={host}", *options]
        command += ["--num-cpus=1", "--object-store-memory=100000000", "--block"]
        started.append(
            subprocess.Popen(command, env=env, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    try:
        start("--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={session}")
        _wait_for(address, 1, env)
        start(f"--address={address}", prefix=tuple(STRANGER))
        _wait_for(address, 2, env)
        yield env | {"RAY_ADDRESS": address}
    finally:
        children = [child for process in started for child in _family(process.pid)]
        for child in children:
            child.kill()
        psutil.wait_procs(children, timeout=START_S)
        shutil.rmtree(session, ignore_errors=True)


def _family(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _wait_for(address: str, machines: int, env: dict[str, str]) -> None:
    """Wait until so many machines are in the cluster."""
    code = (
        "import sys; from ray._raylet import GcsClient; "
        "print(sum(1 for node in GcsClient(address=sys.argv[1]).get_all_node_info().values() if node.state == 0))"
    )
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        shown = subprocess.run([sys.executable, "-c", code, address], env=env, capture_output=True, text=True)
        if shown.stdout.strip().endswith(str(machines)):
            return
        time.sleep(0.5)
    raise TimeoutError(f"{address} has not {machines} machines: {shown.stdout} {shown.stderr}")
