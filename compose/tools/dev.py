"""The mesh in containers: `scripts/dev up | call | kill-owner | roll | logs | trace | status | down`."""

import argparse
import secrets
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "faults" / "dev"))

import daemon
import demo
import docker as engine
import images
import stack
from say import Trouble, say
from stack import Stack

ADDITION = ["calculator", "--arg", "operation=add", "--arg", "a=2", "--arg", "b=40"]
LAST = stack.HOME / "last-trace"


def up(args: argparse.Namespace) -> None:
    if (stack.HOME / "state.json").is_file():
        raise Trouble("a mesh is up as processes: scripts/dev down ends it")
    profiles = ["demo", *(["dashboards"] if args.dashboards else []), *(["team"] if args.team else [])]
    mesh = Stack.load() if stack.STATE.is_file() else Stack.new(profiles)
    mesh.settings["COMPOSE_PROFILES"] = ",".join(profiles)
    extra = [word for scale in args.scale for word in ("--scale", scale)]
    stack.bring_up(mesh, args.stand_ins, extra)
    print(f"clients:     {mesh.url()}")
    print(f"traces:      {mesh.page()}")
    print(f"metrics:     {mesh.prometheus()}   alerts: {mesh.prometheus()}/alerts")
    if args.dashboards:
        print(f"dashboard:   http://127.0.0.1:{mesh.settings.get('GRAFANA_PORT', '3000')}")
    print("containers:  scripts/dev status; what they say: scripts/dev logs [SERVICE]")
    for image, what in sorted(mesh.stand_ins.items()):
        print(f"stand-in:    {image} is {what}: the real image could not be pulled")
    if mesh.stand_ins and not args.dashboards:
        print("left out:    Grafana, which has no stand-in; its dashboard is compose/grafana/dashboards/trunkline.json")
    print("try:         scripts/dev call, scripts/dev kill-owner, scripts/dev roll, scripts/dev down")


def call(args: argparse.Namespace) -> None:
    mesh = Stack.load()
    trace = secrets.token_hex(16)
    LAST.write_text(trace, encoding="utf-8")
    command = [str(images.built("trunkline")), "call", "--header", f"traceparent: 00-{trace}-{trace[:16]}-01", mesh.url()]
    done = subprocess.run([*command, *(args.rest or ADDITION)], check=False)
    print(f"trace: {mesh.page()}/trace/{trace}   or: scripts/dev trace")
    sys.exit(done.returncode)


def kill_owner(_args: argparse.Namespace) -> None:
    demo.kill_owner(Stack.load())


def roll(_args: argparse.Namespace) -> None:
    mesh = Stack.load()
    took = mesh.roll()
    print(f"every container of the mesh was restarted in {took:.0f} s; clients see a pause: scripts/dev call")


def logs(args: argparse.Namespace) -> None:
    Stack.load().compose("logs", *(["--follow"] if args.follow else []), "--tail", str(args.tail), *args.service, show=True)
    print(f"the last {args.tail} lines of each; more of them: scripts/dev logs --tail COUNT, as they come: --follow")


def trace(args: argparse.Namespace) -> None:
    if not args.id and not LAST.is_file():
        raise Trouble("no call was made yet: scripts/dev call")
    demo.show_trace(Stack.load(), args.id or LAST.read_text(encoding="utf-8"))


def status(_args: argparse.Namespace) -> None:
    mesh = Stack.load()
    mesh.compose("ps", "--all", show=True)
    print(f"what they say: scripts/dev logs [SERVICE]   clients: {mesh.url()}   traces: {mesh.page()}   metrics: {mesh.prometheus()}")


def down(_args: argparse.Namespace) -> None:
    mesh = Stack.load()
    say("containers are told to end; what is under way is finished first")
    count = mesh.down()
    stack.forget()
    print(f"{count} containers ended, their volumes are removed; images stay: docker image ls")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/dev", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, run, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what)
        added.set_defaults(run=run)
        return added

    starting = command("up", up, "starts it, or what is missing of it")
    starting.add_argument("--dashboards", action="store_true", help="with Grafana")
    starting.add_argument("--team", action="store_true", help="with a second team's registry")
    starting.add_argument("--scale", action="append", default=[], metavar="SERVICE=COUNT", help="how many of a service, for example session=5")
    starting.add_argument("--stand-ins", action="store_true", help="pulls nothing: programs of this machine under the images' names")
    command("call", call, "calls a tool: call [TOOL [--arg NAME=VALUE ..]]").add_argument("rest", nargs=argparse.REMAINDER)
    command("kill-owner", kill_owner, "kills the owner of a session in the middle of a call")
    command("roll", roll, "restarts every container of the mesh, one after the other")
    said = command("logs", logs, "what containers say: logs [SERVICE ..]")
    said.add_argument("service", nargs="*")
    said.add_argument("--follow", action="store_true")
    said.add_argument("--tail", type=int, default=100)
    command("trace", trace, "the spans of the last call, or of the trace that is named").add_argument("id", nargs="?")
    command("status", status, "which containers there are")
    command("down", down, "ends it and removes what it stored")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        if args.run is not up:
            engine.need_engine()
            engine.need_plugins()
        args.run(args)
    except (Trouble, daemon.Trouble) as trouble:
        print(f"scripts/dev: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
