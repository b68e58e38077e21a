"""When `report.html` of a run is written, and the alarms on it, which `notes.jsonl` keeps. The page itself is page.py's."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from simclr.artifacts import write_atomically
from simclr.pretrain.curves import Curves
from simclr.pretrain.page import About, page

PAGE_FILE, NOTES_FILE = "report.html", "notes.jsonl"

_SECONDS = 30.0
"""At least between two pages, and..."""
_SHARE = 50
"""...this many times what the last one took: at most 2 % of the run's time."""


class Report:
    """The page of a run. Made anew with each Recorder, whose curves it shows."""

    def __init__(
        self, folder: Path, curves: Curves, about: About, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds."""
        self.folder, self.curves, self.about, self._clock = folder, curves, about, clock
        self.alarms = _notes(folder / NOTES_FILE)
        """(step, words), oldest first; those before a resume, too."""
        self._next = -float("inf")

    def say(self, step: int, words: str) -> None:
        """Keep an alarm. It is on the next page, which comes with the next `maybe`. Repeated at once it is kept once."""
        if self.alarms and self.alarms[-1] == (step, words):
            return
        self.alarms.append((step, words))
        path = self.folder / NOTES_FILE
        torn = path.exists() and not path.read_bytes().endswith(b"\n")
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write("\n" * torn + json.dumps({"step": step, "words": words}, ensure_ascii=False) + "\n")
        self._next = -float("inf")

    def maybe(self) -> None:
        """Write the page if it is due. Call it each step."""
        if self._clock() >= self._next:
            self.write()

    def write(self, *, live: bool = True) -> None:
        """Write the page now. `live=False` for the last one, of a run that ends here: it does not load itself again."""
        began = self._clock()
        text = page(self.about, self.curves, self.alarms, now=datetime.now().astimezone(), live=live)
        write_atomically(
            self.folder / PAGE_FILE, lambda temporary: temporary.write_text(text, encoding="utf-8")
        )
        ended = self._clock()
        self._next = ended + max(_SECONDS, _SHARE * (ended - began))


def _notes(path: Path) -> list[tuple[int, str]]:
    """What was said before. A line that a kill has torn is passed over."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            note = json.loads(line)
            found.append((int(note["step"]), str(note["words"])))
        except (ValueError, TypeError, KeyError):
            continue
    return found
