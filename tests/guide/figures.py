"""Measures what docs/sizing.md says of Redis, etcd and file descriptors, in the mesh of docs/runbooks.md: scripts/guide figures."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import wire
from runbooks import SUM, URL, Troubles

SESSIONS, STREAMS, CALLS, WATCHED_S = 1_600, 200, 20, 20
# Sessions before those that are counted.
WARMING = 50
ETCD = "ETCDCTL_API=3 etcdctl --endpoints http://127.0.0.1:2379"
NODES = ("session-1", "session-2")


class Figures(Troubles):
    """One figure after the other; each is printed as it stands in the page."""

    def redis(self, field: str) -> int:
        said = self.guide.type(f"redis-cli info | tr -d '\\r' | grep '^{field}:'")
        return int(said.split(":")[1])

    def files(self, name: str) -> int:
        return len(os.listdir(f"/proc/{self.processes[name].pid}/fd"))

    def memory(self, *names: str, part: str = "Pss") -> int:
        """What processes have of the machine's memory, in bytes; those that share pages, each its part of them. `Pss_Anon` is what they
        have made themselves, without the program, of which more is read with each thing that is done for the first time."""
        rollups = [Path(f"/proc/{self.processes[name].pid}/smaps_rollup").read_text(encoding="ascii") for name in names]
        return sum(int(line.split()[1]) * 1024 for text in rollups for line in text.splitlines() if line.startswith(f"{part}:"))

    def proposals(self) -> int:
        said = self.guide.type("curl -s http://127.0.0.1:2379/metrics | grep '^etcd_server_proposals_committed_total'")
        return int(float(said.split()[1]))

    def stored(self) -> int:
        status = self.guide.type(f"{ETCD} endpoint status --write-out=json")
        return json.loads(status)[0]["Status"]["dbSize"]

    def say(self, what: str, figure: str) -> None:
        print(f"       {what}: {figure}", flush=True)

    def etcd(self) -> None:
        keys = int(self.guide.type(f"{ETCD} get --prefix --keys-only /trunkline/ | grep -c trunkline"))
        self.say("etcd, with 4,096 slots", f"{keys} keys, {self.stored() / 1e6:.1f} MB on disk")
        before = self.proposals()
        time.sleep(WATCHED_S)
        self.say(f"etcd, writes in {WATCHED_S} s in which nothing happens", str(self.proposals() - before))
        before = self.proposals()
        self.processes["session-2"].kill()
        self.until(lambda: self.all_at("session-1"))
        self.say("etcd, writes until 2,048 slots of a killed node have another owner", str(self.proposals() - before))
        self.role(self.command("session-2"))
        self.until(self.owned)

    def all_at(self, node: str) -> None:
        said = self.guide.type(f"{ETCD} get --prefix --print-value-only /trunkline/slots/")
        owners = [json.loads(line)["node"] for line in said.splitlines() if line]
        assert owners == [node] * 4096, len(owners)

    def connections(self) -> None:
        count = self.redis("connected_clients") - 1
        threads = len(os.sched_getaffinity(0))
        self.say("Redis, connections of each session node", f"{count / len(NODES):.1f} with {threads} threads a node")

    def sessions(self) -> None:
        used, files = self.redis("used_memory"), {name: self.files(name) for name in (*NODES, "gateway-1")}
        self.say("open files of a process without clients", ", ".join(f"{name} {count}" for name, count in files.items()))
        self.say("memory of a process without clients", ", ".join(f"{name} {self.memory(name) / 1e6:.0f} MB" for name in files))
        # Once for what is made with the first of all.
        for _ in range(WARMING):
            wire.Session(URL).open().result("tools/call", SUM)
        begun = [wire.Session(URL).open() for _ in range(SESSIONS)]
        idle, kept = self.redis("used_memory"), self.memory(*NODES, part="Pss_Anon")
        self.say("Redis, an idle session", f"{(idle - used) / SESSIONS:.0f} B of {SESSIONS}")
        for session in begun:
            session.result("tools/call", SUM)
        self.say("session nodes, what its first call adds to a session", f"{(self.memory(*NODES, part='Pss_Anon') - kept) / SESSIONS:.0f} B")
        called = self.redis("used_memory")
        self.say("Redis, what its first call adds to a session", f"{(called - idle) / SESSIONS:.0f} B")
        for _ in range(CALLS):
            for session in begun[:100]:
                session.result("tools/call", SUM)
        self.say("Redis, what each further call adds", f"{(self.redis('used_memory') - called) / 100 / CALLS:.0f} B")
        streams = [session.get() for session in begun[:STREAMS]]
        assert all(stream.status == 200 for stream in streams)
        after = {name: self.files(name) for name in files}
        for name, count in after.items():
            self.say(f"open files of {name} for each open stream", f"{(count - files[name]) / STREAMS:.2f}")
        for stream in streams:
            stream.close()


def follow(guide, _containers: bool) -> None:
    figures = Figures(guide)
    guide.step("start the mesh", figures.begin)
    for name, body in (("Redis: connections", figures.connections), ("sessions", figures.sessions), ("etcd", figures.etcd)):
        guide.step(name, body)
