"""The files for those who run the service: linted, parsed, and about what the server really has."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from fastapi import FastAPI

from recsys.cli import cli
from serving.api.metrics import Metrics
from serving.api.routes import ROUTERS
from serving.monitor.report import write_metrics
from serving.monitor.watch import Watch
from tests.docs.pages import ROOT

FOLDER = ROOT / "docs" / "operations"


def tool(name: str) -> str:
    """Return the path of a program, and skip the test where it is missing."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/sbin:{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed")


def run(*command: str | Path) -> None:
    """Run a program that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> list[str]:
    """Return the queries of the rules and of the board."""
    rules = [
        rule["expr"]
        for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    board = json.loads((FOLDER / "dashboard.json").read_text())
    return rules + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_the_image_is_built_as_a_linter_likes_it() -> None:
    """From the packages that the wheel has, with the release of torchrec that the program asks for."""
    run(tool("hadolint"), ROOT / "Dockerfile")
    image, project = (ROOT / "Dockerfile").read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())
    [torchrec] = {
        name
        for extra in ("gpu", "dev")
        for name in project["project"]["optional-dependencies"][extra]
        if "torchrec" in name
    }
    assert f"--no-deps {torchrec}" in image
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages == set(re.findall(r"^COPY (\w+) \1$", image, re.M))
    assert packages <= {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}


def commands_of(text: str) -> list[list[str]]:
    """Return the arguments of `recsys` in the image, the compose file and the unit."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    entry = json.loads(re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.M)[-1])
    unit = re.findall(r"^ExecStart=\S+ (.*)$", (FOLDER / "recsys.service").read_text(), re.M)[0].split()
    return {"image": [entry], "compose": [compose["services"]["recsys"]["command"]], "unit": [unit]}[text]


@pytest.mark.parametrize("where", ["image", "compose", "unit"])
def test_the_command_line_takes_what_is_started(where: str) -> None:
    """Its options are those of this release."""
    for arguments in commands_of(where):
        with click.Context(cli) as context:
            name, command, rest = cli.resolve_command(context, list(arguments))
            assert command is not None
            command.make_context(name, rest, parent=context)


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """With a program that is here in place of the installed one."""
    unit = tmp_path / "recsys.service"
    unit.write_text((FOLDER / "recsys.service").read_text().replace("/opt/recsys/bin/recsys", sys.executable))
    run(tool("systemd-analyze"), "verify", unit)


def test_the_proxy_takes_its_configuration(tmp_path: Path) -> None:
    """With a certificate that is made here."""
    nginx, openssl = tool("nginx"), tool("openssl")
    pair = tmp_path / "key.pem", tmp_path / "certificate.pem"
    run(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", pair[0], "-out", pair[1])
    site = (FOLDER / "nginx.conf").read_text()
    site = re.sub(r"(ssl_certificate_key) \S+;", rf"\1 {pair[0]};", site)
    site = re.sub(r"(ssl_certificate) \S+;", rf"\1 {pair[1]};", site)
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {site} }}")
    run(nginx, "-t", "-c", whole)


def test_rules_and_board_are_about_metrics_and_routes_that_there_are(tmp_path: Path) -> None:
    """Those of the server and of `recsys monitor`. Counters end in `_total`, histograms have buckets and a count."""
    write_metrics(Watch("m", 7, 1, 0, {}, {}, [], [], []), tmp_path / "recsys.prom")
    text = Metrics(lambda: "m", lambda: ["n"]).text().decode() + (tmp_path / "recsys.prom").read_text()
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    known |= {f"recsys_request_seconds_{part}" for part in ("bucket", "count", "sum")}
    named = {name for text in expressions() for name in re.findall(r"\brecsys_\w+", text)}
    assert named <= known
    assert {"recsys_model_failed", "recsys_lists_dropped_total", "recsys_request_seconds_bucket"} <= named
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    routes = {route for text in expressions() for route in re.findall(r'route!?="([^"]+)"', text)}
    assert routes and routes <= set(app.openapi()["paths"])


def test_promtool_takes_the_rules_and_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    """The queries of the board are valid, too."""
    promtool = tool("promtool")
    run(promtool, "check", "rules", FOLDER / "alerts.yml")
    run(promtool, "test", "rules", FOLDER / "alerts_test.yml")
    board: dict[str, Any] = {
        "groups": [
            {
                "name": "board",
                "rules": [
                    {"record": f"board_{number}", "expr": text.replace("$__rate_interval", "5m")}
                    for number, text in enumerate(expressions())
                ],
            }
        ]
    }
    (tmp_path / "board.yml").write_text(yaml.safe_dump(board))
    run(promtool, "check", "rules", tmp_path / "board.yml")
    tested = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
    for one in tested:
        assert [test["alertname"] for test in one["alert_rule_test"]] == [rule["alert"] for rule in rules]


def test_every_alert_is_explained() -> None:
    """With what to do about it."""
    page = (ROOT / "docs" / "operations.md").read_text()
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules] == re.findall(r"^\| (Recsys\w+) \|", page, re.M)
