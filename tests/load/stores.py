"""etcd and Redis for a chain that is measured with them: started on free ports, stopped with the mesh."""

from __future__ import annotations

import shutil
import socket
from time import monotonic, sleep

from mesh import Died, Mesh, Process

READY_S = 20


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Died(f"{name} is not installed: run ./scripts/stores")
    return found


def wait_for(port: int, process: Process) -> None:
    end = monotonic() + READY_S
    while monotonic() < end and process.running():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            sleep(0.05)
    raise Died(process.report("does not listen"))


def redis(mesh: Mesh, number: int) -> tuple[Process, str]:
    """A Redis without disk, and its address."""
    port = free_port()
    flags = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = mesh.start(f"{number}-redis", program("redis-server"), *flags, "--dir", str(mesh.work))
    wait_for(port, process)
    return process, f"redis://127.0.0.1:{port}"


def etcd(mesh: Mesh, number: int) -> tuple[Process, str]:
    """One etcd, and its address."""
    port, peer = free_port(), free_port()
    client, others = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    flags = ["--name", "e", "--data-dir", str(mesh.work / f"etcd-{number}"), "--log-level", "error"]
    flags += ["--listen-client-urls", client, "--advertise-client-urls", client]
    flags += ["--listen-peer-urls", others, "--initial-advertise-peer-urls", others, "--initial-cluster", f"e={others}"]
    process = mesh.start(f"{number}-etcd", program("etcd"), *flags)
    wait_for(port, process)
    return process, client


def used_bytes(address: str) -> int:
    """What Redis says that its data take."""
    host, _, port = address.removeprefix("redis://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"INFO memory\r\n")
        said = b""
        while b"used_memory_dataset" not in said or not said.endswith(b"\r\n"):
            said += connection.recv(65536)
    for line in said.decode().splitlines():
        if line.startswith("used_memory:"):
            return int(line.partition(":")[2])
    raise Died("Redis does not say how much memory it uses")
