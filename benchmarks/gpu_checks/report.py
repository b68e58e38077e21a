"""The report: JSON to read again, Markdown to read. Standard library only."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_checks.rows import Place, Row, Skipped


@dataclass
class Report:
    """Checks by name, in the order they were first begun; written anew whenever something is added."""

    path: Path
    """Without ending."""
    head: dict[str, Any]
    place: Place
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def begin(self, name: str, *, date: str, command: str) -> None:
        self.checks[name] = {
            "state": "unfinished",
            "date": date,
            "command": command,
            "reason": "",
            "rows": [],
        }
        self.write()

    def add(self, name: str, told: Row | Skipped | str) -> None:
        check = self.checks[name]
        if isinstance(told, Row):
            check["rows"].append(told.as_json(self.place))
        else:
            check["state"] = "skipped" if isinstance(told, Skipped) else "failed"
            check["reason"] = str(told)
        self.write()

    def end(self, name: str, *, seconds: float) -> None:
        check = self.checks[name]
        check["seconds"] = round(seconds, 1)
        if check["state"] == "unfinished":
            check["state"] = "done"
        self.write()

    def keep_others(self) -> None:
        """Take over what a report of the same machine and sizes has already."""
        file = self.path.with_suffix(".json")
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["head"] == self.head:
                self.checks = found["checks"]

    @property
    def failed(self) -> list[str]:
        return [name for name, check in self.checks.items() if check["state"] == "failed"]

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"head": self.head, "checks": self.checks}
        for ending, text in ((".json", json.dumps(whole, indent=1) + "\n"), (".md", self.markdown())):
            temporary = self.path.with_suffix(ending + ".tmp")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path.with_suffix(ending))

    def markdown(self) -> str:
        lines = [f"# Pretraining on {self.head['device']}", ""]
        lines += [f"- {key}: {value}" for key, value in self.head.items()]
        for name, check in self.checks.items():
            taken = f", {check['seconds']:g} s" if "seconds" in check else ""
            lines += ["", f"## {name}: {check['state']}", ""]
            lines += [f"{check['date']}{taken}, `{check['command']}`", ""]
            if check["reason"]:
                lines += [f"{check['state']}: {check['reason']}", ""]
            if check["rows"]:
                lines += ["| | median (range) | unit | limit | goal | note |", "|---|---|---|---|---|---|"]
                lines += [_line(row) for row in check["rows"]]
        return "\n".join(lines) + "\n"


def slug(device: str) -> str:
    """ "NVIDIA H200" -> "h200": what a file's name can hold."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return re.sub(r"^nvidia-", "", words) or "unknown"


def _line(row: dict[str, Any]) -> str:
    value = "" if row["value"] is None else f"{row['value']:.5g}"
    if value and row["low"] != row["high"]:
        value += f" ({row['low']:.5g} to {row['high']:.5g})"
    goal = f"{row['goal']}: {row['verdict']}" if row["goal"] else ""
    return f"| {row['name']} | {value} | {row['unit']} | {row['limit']} | {goal} | {row['note']} |"
