"""A gateway whose one key is in a TPM: OpenSSL reaches it through the provider tpm2 for TLS, the agent through
tpm2-pkcs11 for what it signs. `make test-tpm` runs this; the file has no name that pytest looks for by itself, since it
needs packages that no other test does (docs/hardware-keys.md names them).

The TPM is swtpm's, in a process. A TPM has room for three objects at a time, and a handshake needs more, so tpm2-abrmd
stands before it, as the kernel's /dev/tpmrm0 does on a gateway.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from narrowboat_protocol.limits import MIB
from tests.bridge.cli_kit import run
from tests.broker.lab import BASE_SEQUENCE, Lab, running_lab
from tests.support.images import small_image
from tests.support.live_fleet import NARROWBOAT_DEVICE
from tests.support.processes import Children, wait_for
from tests.support.tools import require_tool

MODULES = Path("/usr/lib")
PIN = "pin 73e1"
START_S = 10.0
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
"""
OPENSSL = """openssl_conf = init
[init]
providers = providers
alg_section = algorithms
[providers]
default = in_software
tpm2 = in_the_tpm
[in_software]
activate = 1
[in_the_tpm]
activate = 1
[algorithms]
default_properties = ?tpm2.signature=yes
"""


def command(*words: object) -> str:
    program, *arguments = map(str, words)
    done = subprocess.run([require_tool(program), *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def tpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a TPM that was made for this test, and reaches everybody by the environment."""
    folder = tmp_path / "tpm"
    (folder / "state").mkdir(parents=True)
    (folder / "store").mkdir()
    bus, socket = folder / "bus", folder / "swtpm"
    (folder / "bus.conf").write_text(BUS.format(path=bus))
    with Children(folder / "logs") as children:
        state = f"dir={folder / 'state'}"
        server, control = (f"type=unixio,path={socket}{end}" for end in ("", ".ctrl"))
        flags = "not-need-init,startup-clear"
        swtpm = [require_tool("swtpm"), "socket", "--tpm2", "--tpmstate", state, "--server", server]
        children.start("swtpm", [*swtpm, "--ctrl", control, "--flags", flags])
        children.start("bus", [require_tool("dbus-daemon"), f"--config-file={folder / 'bus.conf'}", "--nofork"])
        wait_for(lambda: bus.exists() and socket.exists(), START_S, "a TPM and a bus")
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={bus}")
        manager = [require_tool("tpm2-abrmd"), "--session", "--allow-root", "--tcti", f"swtpm:path={socket}"]
        abrmd = children.start("abrmd", manager)
        for name in ("TPM2OPENSSL_TCTI", "TPM2_PKCS11_TCTI", "TPM2TOOLS_TCTI"):
            monkeypatch.setenv(name, "tabrmd:bus_type=session")
        monkeypatch.setenv("TPM2_PKCS11_STORE", str(folder / "store"))
        wait_for(lambda: not abrmd.running or _answers(), START_S, "the resource manager")
        yield folder


def _answers() -> bool:
    return subprocess.run(["tpm2_getcap", "handles-persistent"], check=False, capture_output=True).returncode == 0


def make_key(folder: Path, file: Path) -> str:
    """A key of the TPM: `file` is what OpenSSL finds it by, the URI what the agent does."""
    pin_file = folder / "pin"
    pin_file.touch(0o600)
    pin_file.write_text(PIN)
    command("tpm2_ptool", "init")
    command("tpm2_ptool", "addtoken", "--pid=1", "--label=gateway", f"--userpin={PIN}", "--sopin=officer 1")
    (parent,) = (line.removeprefix("- ") for line in command("tpm2_getcap", "handles-persistent").splitlines())
    options = ("-pkeyopt", "group:P-256", "-pkeyopt", f"parent:{parent}", "-out", file)
    command("openssl", "genpkey", "-provider", "tpm2", "-provider", "default", "-algorithm", "EC", *options)
    command("tpm2_ptool", "link", "--label=gateway", f"--userpin={PIN}", "--key-label=identity", "--id=01", file)
    (module,) = MODULES.glob("*/libtpm2_pkcs11.so.1")
    return f"pkcs11:token=gateway;object=identity?module-path={module}&pin-source={pin_file}"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running_lab(tmp_path) as lab:
        yield lab


def test_a_gateway_updates_with_its_one_key_in_a_tpm(tpm: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = lab.make_gateway("gw-tpm")
    key, certificate = gateway.folder / "key.pem", gateway.folder / "certificate.pem"
    key.unlink()
    uri = make_key(tpm, key)
    assert b"BEGIN TSS2 PRIVATE KEY" in key.read_bytes()
    with gateway.config.open("a") as config:
        config.write(f'\n[identity]\nkey = "{uri}"\n')
    csr = gateway.folder / "request.pem"
    command(NARROWBOAT_DEVICE, "provision", "--config", gateway.config, "--csr-out", csr)
    issued = run("pki", "issue", "device", gateway.name, "--fleet", lab.fleet.path, "--csr", csr)
    assert issued.status == 0, issued.err
    certificate.write_bytes((lab.fleet.path / "devices" / gateway.name / "certificate.pem").read_bytes())
    (tpm / "openssl.cnf").write_text(OPENSSL)
    with monkeypatch.context() as environment:
        environment.setenv("OPENSSL_CONF", str(tpm / "openssl.cnf"))
        lab.fleet.switch_on(gateway)
    pushed = lab.push(small_image(91, MIB), "9.1.0", sequence=BASE_SEQUENCE + 1)
    lab.start(pushed, "tpm", gateway.name)
    assert lab.wait_for_end("tpm", gateway.name)["state"] == "succeeded"
