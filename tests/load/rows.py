"""The rows of the table: what runs against what, and the goals that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from contestants import Bench, Running


@dataclass(frozen=True)
class Row:
    """One line of the table: a chain under one kind of load."""

    name: str
    title: str
    chain: str
    kind: str
    clients: int = 16
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Rows that are measured in turn, round by round, and the chains they need."""

    name: str
    title: str
    chains: dict[str, Callable[[Bench], Running | None]]
    rows: tuple[Row, ...]
    # A chain that has served one round has more to carry in the next one.
    fresh: bool = False


@dataclass(frozen=True)
class Goal:
    """A figure, or a ratio of two within one round, and what it ought to be."""

    title: str
    row: str
    figure: str
    against: str | None
    least: bool
    first: float
    then: float
    unit: str = "x"


TWO_HOPS = "HTTP edge -> gRPC service -> gRPC service"

CALLS = Group(
    "calls",
    "`tools/call` of `echo` with 128 bytes; the floors answer with what they are sent",
    {
        "echo": Bench.echo,
        "echo-single": lambda bench: bench.echo(single=True),
        "floor": Bench.floor,
        "floor-single": lambda bench: bench.floor(single=True),
        "up": Bench.up,
        "split": Bench.split,
        "clustered": Bench.clustered,
        "sdk": Bench.sdk,
    },
    tuple(
        Row(f"{chain}-{kind}-{clients}" if suffix else f"{chain}-{clients}", title, chain, kind, clients)
        for clients in (16, 1)
        for chain, kind, suffix, title in (
            ("echo", "raw", False, "floor: axum echo, 0 hops"),
            ("echo-single", "raw", False, "floor: axum echo, one single-threaded runtime"),
            ("floor", "raw", False, f"**floor: {TWO_HOPS}**"),
            ("floor-single", "raw", False, "floor: the same, single-threaded runtimes"),
            ("up", "modern", True, "`trunkline up`, 2026-07-28"),
            ("up", "older", True, "`trunkline up`, session of 2025-11-25"),
            ("split", "modern", True, "gateway, session, tool-registry, 2026-07-28"),
            ("split", "older", True, "gateway, session, tool-registry, session of 2025-11-25"),
            ("clustered", "modern", True, "the same with etcd and Redis, 2026-07-28"),
            ("clustered", "older", True, "the same with etcd and Redis, session of 2025-11-25, journaled in Redis"),
            ("sdk", "modern", True, "peer: bare Rust SDK server, stateless JSON, 2026-07-28"),
            ("sdk", "stateless", True, "peer: bare Rust SDK server, stateless JSON, 2025-11-25"),
        )
    ),
)

CREATE = Group(
    "create",
    "Sessions created: `initialize` and `notifications/initialized`",
    {"up": Bench.up, "split": Bench.split, "clustered": Bench.clustered},
    (
        Row("create-up", "`trunkline up`", "up", "create"),
        Row("create-split", "gateway, session, tool-registry", "split", "create"),
        Row("create-clustered", "the same with etcd and Redis", "clustered", "create"),
    ),
    fresh=True,
)


def _many(registries: int) -> Callable[[Bench], Running]:
    def start(bench: Bench) -> Running:
        served = bench.catalogues(registries, 1000 // registries)
        return bench.up("session.page_size=2000", "tool-registry.tools=[]", registries=served, tools=1000)

    return start


LISTS = Group(
    "lists",
    "`tools/list` of 1,000 tools in one answer, `trunkline up`, 2026-07-28",
    {"one": _many(1), "ten": _many(10)},
    (
        Row("list-1", "from 1 registry", "one", "list", options=("--tools", "1000")),
        Row("list-10", "from 10 registries", "ten", "list", options=("--tools", "1000")),
    ),
)


TRACING = Group(
    "tracing",
    "Tracing to an OTLP collector, `trunkline up`, 2026-07-28",
    {"off": Bench.up, "1": lambda bench: bench.traced(0.01), "100": lambda bench: bench.traced(1.0)},
    (
        Row("trace-off", "off", "off", "modern"),
        Row("trace-1", "1 % of calls", "1", "modern"),
        Row("trace-100", "every call", "100", "modern"),
    ),
)

# Sessions are made before, as many as the names say; measured by a way of its own.
GROWN = (1_000, 100_000)
GROWTH = Group(
    "growth",
    "Older calls that take turns among all sessions there are, `trunkline up`",
    {},
    tuple(Row(f"grown-{count}", f"{count:,} sessions", "up", "older") for count in GROWN),
)

GROUPS = (CALLS, CREATE, LISTS, TRACING)

GOALS = (
    Goal("separate processes, modern, 16 clients: CPU against the floor", "split-modern-16", "cpu_per_1000", "floor-16", False, 0.6, 0.5),
    Goal("the same: calls/s against the floor", "split-modern-16", "rate", "floor-16", True, 1.4, 2.0),
    Goal("the same, older session: CPU against modern", "split-older-16", "cpu_per_1000", "split-modern-16", False, 1.15, 1.05),
    Goal("the same with etcd and Redis, journaled: CPU against the floor", "clustered-older-16", "cpu_per_1000", "floor-16", False, 0.9, 0.7),
    Goal("separate processes, modern, 1 client: p50 against the floor", "split-modern-1", "p50_ms", "floor-1", False, 0.7, 0.6),
    Goal("`up`, modern, 16 clients: CPU against axum echo", "up-modern-16", "cpu_per_1000", "echo-16", False, 1.7, 1.3),
    Goal("`up`, modern, 16 clients: calls/s against a bare Rust SDK server (the faster era of it)", "up-modern-16", "rate", "sdk-stateless-16", True, 1.3, 2.0),
    Goal("`up`: sessions created per second", "create-up", "rate", None, True, 12_000, 25_000, "/s"),
    Goal("with etcd and Redis: sessions created per second", "create-clustered", "rate", None, True, 4_000, 8_000, "/s"),
    Goal("an idle session in Redis", "idle-redis", "bytes_in_redis", None, False, 2_500, 1_600, "B"),
    Goal("`up`: memory per idle session", "idle-up", "bytes_per_session", None, False, 2048, 1024, "B"),
    Goal("gateway and owner: memory per idle session whose state is in Redis", "idle-redis", "bytes_per_session", None, False, 512, 102, "B"),
    Goal("`up`: memory per open, idle stream", "streams-up", "bytes_per_stream", None, False, 24 * 1024, 8 * 1024, "B"),
    Goal("separate processes: memory per open, idle stream", "streams-split", "bytes_per_stream", None, False, 24 * 1024, 8 * 1024, "B"),
    Goal("`tools/list` of 1,000 tools: 10 registries against 1, lists/s", "list-10", "rate", "list-1", True, 0.8, 1.0),
    Goal("tracing 1 % of calls: CPU against none", "trace-1", "cpu_per_1000", "trace-off", False, 1.05, 1.02),
    Goal("tracing every call: CPU against none", "trace-100", "cpu_per_1000", "trace-off", False, 1.3, 1.15),
    Goal("killed owner: longest time without an answer, p99 of sessions", "failover-killed", "p99_ms", None, False, 2_000, 2_000, "ms"),
    Goal("silent owner: the same", "failover-silent", "p99_ms", None, False, 5_000, 5_000, "ms"),
    Goal("owner that leaves: longest answer, p99 of the sessions that move", "failover-drained", "p99_ms", None, False, 100, 100, "ms"),
    Goal("older calls among 100,000 sessions: CPU against 1,000", "grown-100000", "cpu_per_1000", "grown-1000", False, 1.1, 1.05),
)
