"""A call whose owner is killed in the middle of it: its trace, with the spans of both owners, and of the next one's way to the registry."""

from __future__ import annotations

import json
from collections import Counter
from time import monotonic, sleep

import demo
import dev
from traces import Page, Trace

SLOT, OWNER, EPOCH = "trunkline.slot", "trunkline.owner", "trunkline.epoch"
SESSION = "trunkline.session tools/call"
ATTEMPTS = 3
# A mesh that has just begun shares its slots out; when nothing has moved for so long, it has.
STILL_S, SETTLED_S = 3, 60


def settled(mesh) -> None:
    """Waits until nothing moves by itself any more."""
    seen, since, end = None, monotonic(), monotonic() + SETTLED_S
    while monotonic() - since < STILL_S:
        now = mesh.etcd("get", "--prefix", "--print-value-only", f"{dev.PREFIX}/slots/")
        if now != seen:
            seen, since = now, monotonic()
        shares = Counter(json.loads(line)["node"] for line in now.split("\n") if line)
        assert monotonic() < end, f"slots still move after {SETTLED_S} s: {shares}"
        sleep(0.2)
    print(f"slots: {dict(sorted(shares.items()))}")


def crossed(mesh) -> tuple[Trace, list[str]]:
    """Makes the call; returns its trace and its owners in their order."""
    for _ in range(ATTEMPTS):
        settled(mesh)
        id = demo.kill_owner(mesh)
        page = Page(mesh.page())
        (trace,) = page.trace(id)
        owners = [span.tags.get(OWNER) for span in hops(trace)]
        if len(owners) == 2 and owners[0] == mesh.killed[-1]:
            break
        # Where others want the processors, too, spans are sent late, and owners that are not killed are taken for dead.
        print(f"the call had the owners {owners}, and {mesh.killed[-1]} was killed: once more")
    assert {span.trace for span in trace.spans} == {id}, trace
    assert len(hops(trace)) == 2, f"not two owners in {trace}"
    first, second = hops(trace)
    for tag in (SLOT, OWNER, EPOCH):
        assert tag in first.tags and tag in second.tags, f"no {tag} in {trace}"
    assert first.tags[SLOT] == second.tags[SLOT], f"{first.tags} {second.tags}"
    assert first.tags[OWNER] != second.tags[OWNER], f"{first.tags} {second.tags}"
    assert first.tags[EPOCH] < second.tags[EPOCH], f"{first.tags} {second.tags}"
    assert second.links == [first.id], f"{second.links} instead of {first.id} in {trace}"
    (reattached,) = [span for span in trace.of("trunkline-session") if span.parent == second.id]
    assert reattached.name.startswith("tools/call "), f"{reattached} in {trace}"
    assert reattached.links == [first.id], f"{reattached.links} instead of {first.id} in {trace}"
    assert trace.of("trunkline-gateway"), f"the gateway's spans are missing: {trace}"
    return trace, [first.tags[OWNER], second.tags[OWNER]]


def hops(trace: Trace) -> list:
    """The spans of the session nodes that had the call, in the order of their epochs."""
    found = [span for span in trace.of("trunkline-session") if span.name == SESSION]
    return sorted(found, key=lambda span: span.tags.get(EPOCH, 0))
