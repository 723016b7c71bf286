"""Under the default network a step reaches others, and never the loopback of the host."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors import NAMES, connector_path
from sandboxes import SHELL, in_build, run_in_build
from shipline.sandbox import bundle, kernel
from shipline.sandbox.network import Connector, find_connector
from shipline.values import replace

pytestmark = pytest.mark.root
each_program = pytest.mark.parametrize("program", NAMES)


@pytest.fixture(autouse=True)
def on_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and "program" in callspec.params:
        monkeypatch.setenv("PATH", connector_path(callspec.params["program"]))


@contextmanager
def listening(address: str) -> Iterator[tuple[int, list[bytes]]]:
    """A port for TCP and UDP at `address`, and what came in there."""
    seen: list[bytes] = []
    stream, packets = socket.create_server((address, 0)), socket.socket(type=socket.SOCK_DGRAM)
    port = stream.getsockname()[1]
    packets.bind((address, port))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = stream.accept()
                seen.append(b"connection")
                connection.recv(1000)  # what is not read would reset the connection
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello\n")
                connection.close()

    def receive() -> None:
        while (packet := packets.recv(100)) != b"end":
            seen.append(packet)

    threads = [threading.Thread(target=accept), threading.Thread(target=receive)]
    for thread in threads:
        thread.start()
    try:
        yield port, seen
    finally:
        stream.shutdown(socket.SHUT_RDWR)
        stream.close()
        with socket.socket(type=socket.SOCK_DGRAM) as last:
            last.sendto(b"end", (address, port))
        for thread in threads:
            thread.join()
        packets.close()


@each_program
def test_a_step_reaches_the_host_but_not_its_loopback(tmp_path: Path, program: str) -> None:
    spec = replace(SHELL, extra_hosts=(("gate", "host-gateway"),))
    with listening("127.0.0.1") as (hidden, seen), listening("0.0.0.0") as (open_, reached):
        script = f"""
            for name in localhost 127.0.0.1 10.0.2.2 10.0.2.3 169.254.1.1 169.254.1.2 gate; do
                wget -q -T 2 -O- http://$name:{hidden} && echo $name is the host
            done
            wget -q -T 5 -O- http://gate:{open_}
        """
        outcome, told = run_in_build(tmp_path, replace(spec, args=("/bin/sh", "-c", script)))
        assert outcome.out == "hello\n", outcome.err
        assert seen == [] and b"connection" in reached
        assert told == [f"isolated by {program}"]
        shared = replace(SHELL, args=("/bin/sh", "-c", f"wget -q -O- http://127.0.0.1:{hidden}"))
        outcome, told = run_in_build(tmp_path, replace(shared, network="host"))
        assert (outcome.out, told) == ("hello\n", [])


FORGED = """
import contextlib, socket, struct, sys, time
port = int(sys.argv[1])
interface = [name for _, name in socket.if_nameindex() if name != "lo"][0]
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    with contextlib.suppress(OSError), socket.socket(type=kind) as client:
        client.settimeout(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        client.connect(("127.0.0.1", port))
        client.send(b"bound")

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff

routes = [line.split() for line in open("/proc/net/route")][1:]
gateway = next(struct.pack("=I", int(one[2], 16)) for one in routes if one[1] == "00000000")
with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as client:
    client.connect((socket.inet_ntoa(gateway), 9))
    own = socket.inet_aton(client.getsockname()[0])
    client.send(b"ask for its hardware address")
time.sleep(0.3)
known = [line.split() for line in open("/proc/net/arp")][1:]
hardware = [bytes.fromhex(one[3].replace(":", "")) for one in known if int(one[2], 16)]
try:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
except PermissionError:
    print("no raw sockets")
    sys.exit()
raw.bind((interface, 0x800))
for target in ("127.0.0.1", "0.0.0.0"):
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        if protocol == socket.IPPROTO_TCP:
            inner = struct.pack("!HHLLBBHHH", 4000, port, 1, 0, 0x50, 2, 65535, 0, 0)
            pseudo = own + socket.inet_aton(target) + struct.pack("!HH", protocol, len(inner))
            inner = inner[:16] + struct.pack("!H", checksum(pseudo + inner)) + inner[18:]
        else:
            inner = struct.pack("!HHHH", 4000, port, 14, 0) + b"forged"
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(inner), 1, 0, 64, protocol, 0)
        header += own + socket.inet_aton(target)
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        for address in hardware:
            raw.send(address + raw.getsockname()[4] + b"\\x08\\0" + header + inner)
time.sleep(1)
print("sent to", len(hardware))
"""


@each_program
def test_no_packet_that_a_step_can_make_reaches_the_loopback(tmp_path: Path, program: str) -> None:
    def attack() -> str:
        connector, reason = find_connector(tmp_path)
        assert connector is not None, reason
        with connector.connected(tmp_path) as network:
            kept = [one for one in bundle.CAPABILITIES if one not in network.withheld]
            allowed = ",".join(["-all", *(f"+{one[4:].lower()}" for one in kept)])
            assert network.namespace is not None
            python = (sys.executable, "-c", FORGED, str(port))
            words = ("setpriv", f"--bounding-set={allowed}", "--inh-caps=-all")
            return subprocess.run(
                [*("nsenter", f"--net={network.namespace}", *words), *python],
                check=True,
                capture_output=True,
                text=True,
            ).stdout

    with listening("127.0.0.1") as (port, seen):
        said = in_build(attack)
        time.sleep(0.2)
        assert seen == []
    assert said == {"pasta": "sent to 1\n", "slirp4netns": "no raw sockets\n"}[program]


@each_program
def test_names_are_resolved_by_a_server_on_the_hosts_loopback(tmp_path: Path, program: str) -> None:
    answer = bytes.fromhex("c00c00010001000000100004") + socket.inet_aton("192.0.2.77")
    server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind(("127.0.0.54", 53))

    def serve() -> None:
        while (asked := server.recvfrom(512))[0] != b"end":
            query, client = asked
            is_a = query.rstrip(b"\\0")[-4:-2] != b"\0\x1c"
            counts = b"\0\1\0\1\0\0\0\0" if is_a else b"\0\1\0\0\0\0\0\0"
            server.sendto(query[:2] + b"\x81\x80" + counts + query[12:] + answer * is_a, client)

    def look_up() -> str:
        file = tmp_path / "resolv.conf"
        file.write_text("search example\nnameserver 127.0.0.54\noptions timeout:1\n")
        kernel.mount(str(file), Path("/etc/resolv.conf"), "", kernel.MS_BIND)
        script = "cat /etc/resolv.conf; nslookup -type=a host.example"
        outcome, _ = run_in_build(
            tmp_path, replace(SHELL, args=("/bin/sh", "-c", script)), inside=True
        )
        return outcome.out

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        said = in_build(look_up)
    finally:
        with socket.socket(type=socket.SOCK_DGRAM) as last:
            last.sendto(b"end", ("127.0.0.54", 53))
        thread.join()
        server.close()
    assert "127.0.0.54" not in said and "search example" in said
    assert "192.0.2.77" in said


@each_program
def test_each_step_has_a_network_of_its_own_that_ends_with_it(tmp_path: Path, program: str) -> None:
    script = "nc -l -p 7777 -e true & sleep 0.1; readlink /proc/self/ns/net; ls /sys/class/net"
    for _ in range(2):
        outcome, _ = run_in_build(tmp_path, replace(SHELL, args=("/bin/sh", "-c", script)))
        namespace, *interfaces = outcome.out.split()
        assert namespace != str(Path("/proc/self/ns/net").readlink()), outcome.err
        assert "lo" in interfaces and len(interfaces) == 2
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert left == "" and str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_without_a_program_that_works_it_is_the_network_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pasta"
    program.write_text("#!/bin/sh\necho no route >&2\nexit 1\n")
    program.chmod(0o755)
    others = connector_path("pasta").split(":")[1:]
    spec = replace(SHELL, args=("/bin/sh", "-c", "readlink /proc/self/ns/net"))
    for path, told in (
        (others, "host (neither pasta nor slirp4netns is installed)"),
        ([str(tmp_path), *others], f"host ({program}: no route)"),
    ):
        monkeypatch.setenv("PATH", ":".join(path))
        outcome, seen = run_in_build(tmp_path, spec)
        assert outcome.out.strip() == str(Path("/proc/self/ns/net").readlink())
        assert seen == [told]


def test_a_program_that_fails_later_is_an_error_of_the_sandbox(tmp_path: Path) -> None:
    connector = Connector(tmp_path / "pasta")
    with pytest.raises(Exception, match=r"pasta"):
        in_build(lambda: connector.connected(tmp_path).__enter__())
