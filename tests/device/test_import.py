"""`narrowboat-device import`: newer roots by hand, from files and from web servers that nobody needs to trust."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from narrowboat_device.assembly import lock_folder
from narrowboat_device.cli import main
from narrowboat_device.known import trusted_root
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.device.kit import DISK, GatewayFolder, make_gateway
from tests.support.fleet import FleetKit
from tests.support.web import serving, serving_folder


@pytest.fixture
def gateway(tmp_path: Path) -> GatewayFolder:
    folder = tmp_path / "gateway"
    folder.mkdir()
    return make_gateway(folder, FleetKit.create())


def shelf(folder: Path, roots: list[bytes]) -> Path:
    folder.mkdir()
    for version, root in enumerate(roots, 2):
        (folder / f"{version}.root").write_bytes(root)
    return folder


def version_of(gateway: GatewayFolder) -> int:
    return trusted_root(DISK, gateway.config, DEFAULT_LIMITS).root.version


class Endless(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(bytes(DEFAULT_LIMITS.root_bytes_max + 1))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Broken(Endless):
    def do_GET(self) -> None:
        self.send_error(500)


def test_a_folder_is_walked_as_far_as_there_are_roots(gateway: GatewayFolder, tmp_path: Path) -> None:
    roots = shelf(tmp_path / "roots", gateway.fleet.root_chain(12))
    assert main(gateway.arguments("import", str(roots))) == 0
    assert version_of(gateway) == 12
    assert main(gateway.arguments("import", str(roots))) == 0


def test_a_file_is_one_step_and_no_longer_one(gateway: GatewayFolder, tmp_path: Path) -> None:
    roots = shelf(tmp_path / "roots", gateway.fleet.root_chain(3))
    assert main(gateway.arguments("import", str(roots / "3.root"))) == 1
    assert main(gateway.arguments("import", str(roots / "2.root"))) == 0
    assert version_of(gateway) == 2


def test_a_plain_web_server_is_as_good_as_a_folder(gateway: GatewayFolder, tmp_path: Path) -> None:
    roots = shelf(tmp_path / "roots", gateway.fleet.root_chain(6))
    with serving_folder(roots) as url:
        assert main(gateway.arguments("import", f"{url}2.root")) == 0
        assert version_of(gateway) == 2
        assert main(gateway.arguments("import", url)) == 0
    assert version_of(gateway) == 6
    assert main(gateway.arguments("import", url)) == 1


@pytest.mark.parametrize("handler", [Endless, Broken])
def test_a_web_server_that_answers_with_something_else_changes_nothing(
    gateway: GatewayFolder, handler: Callable[..., BaseHTTPRequestHandler]
) -> None:
    with serving(handler) as url:
        assert main(gateway.arguments("import", url)) == 1
    assert version_of(gateway) == 1


def test_roots_that_are_not_believed_end_the_walk_where_they_stand(gateway: GatewayFolder, tmp_path: Path) -> None:
    stranger = FleetKit.create().root_chain(4)
    roots = shelf(tmp_path / "roots", [*gateway.fleet.root_chain(3), stranger[-1]])
    assert main(gateway.arguments("import", str(roots))) == 1
    assert version_of(gateway) == 3


def test_an_agent_at_work_is_not_disturbed(gateway: GatewayFolder, tmp_path: Path) -> None:
    roots = shelf(tmp_path / "roots", gateway.fleet.root_chain(2))
    with lock_folder(gateway.data):
        assert main(gateway.arguments("import", str(roots))) == 2
    assert main(gateway.arguments("import", str(tmp_path / "nothing"))) == 2
    assert version_of(gateway) == 1
