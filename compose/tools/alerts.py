"""Every alert has a test in which it fires, and asks for jobs that Prometheus scrapes.

Owns: what can be seen without Prometheus. That the tests hold is promtool's, that series exist is `series.py`'s.
"""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import series
import yaml


@dataclass
class Alerts:
    """The files, read."""

    rules: dict
    tests: dict
    scraped: dict

    @classmethod
    def read(cls, folder: Path) -> "Alerts":
        read = lambda name: yaml.safe_load((folder / name).read_text(encoding="utf-8"))
        return cls(read("rules.yml"), read("rules.test.yml"), read("prometheus.yml"))

    def alerts(self) -> list[dict]:
        return [rule for group in self.rules["groups"] for rule in group["rules"] if "alert" in rule]

    def fired(self) -> set[str]:
        """The alerts that a test expects to fire."""
        found: set[str] = set()
        for test in self.tests["tests"]:
            found |= {case["alertname"] for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
            for case in test.get("promql_expr_test", []):
                if 'ALERTS{alertstate="firing"}' in case["expr"]:
                    found |= {name for sample in case["exp_samples"] for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
        return found

    def problems(self) -> Iterator[str]:
        fired, jobs = self.fired(), {job["job_name"] for job in self.scraped["scrape_configs"]}
        for rule in self.alerts():
            if rule["alert"] not in fired:
                yield f"no test sees {rule['alert']} fire"
            for _name, matchers in series.used(rule["expr"]):
                for label, how, value in matchers:
                    if label == "job" and how == "=" and value not in jobs:
                        yield f"{rule['alert']}: nobody scrapes the job {value}"

    def planted(self, plant: Callable[["Alerts"], object]) -> list[str]:
        """What is said of a copy that was changed."""
        changed = copy.deepcopy(self)
        plant(changed)
        return list(changed.problems())


PLANTED: list[tuple[str, str, Callable[[Alerts], object]]] = [
    ("an alert without a test", "no test sees Silence fire", lambda a: a.rules["groups"][0]["rules"].append({"alert": "Silence", "expr": "up"})),
    ("an alert that is only seen not to fire", "no test sees SlotWithoutOwner fire", lambda a: a.tests.update(tests=a.tests["tests"][:1])),
    ("a job by another name", "nobody scrapes the job etcd", lambda a: a.scraped["scrape_configs"][-1].update(job_name="stores")),
]
