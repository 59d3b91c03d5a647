"""How far a long loop is."""

import sys
import time


class Progress:
    """Shows how far a long loop is, how fast it goes and how long it will take, on the standard error stream.

    On a terminal one line is rewritten; elsewhere (a log file) a line appears every `seconds`.
    """

    def __init__(self, label: str, total: int, unit: str = "images", done: int = 0, seconds: float = 10.0):
        """Starts the clock; `done` is what an earlier, interrupted run had already finished."""
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._start, self._begun = done, time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._seconds = 0.2 if self._terminal else seconds
        self._shown_at, self._shown = self._begun, None

    def __enter__(self):
        """Begins."""
        return self

    def __exit__(self, *_):
        """Shows the last state, unless nothing was worth showing."""
        if self._terminal or (self._shown != self.done and time.monotonic() - self._begun >= self._seconds):
            self._show("\n" if self._terminal else None)

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        if now - self._shown_at >= self._seconds:
            self._shown_at = now
            self._show()

    def _show(self, end: str | None = None) -> None:
        self._shown = self.done
        rate = (self.done - self._start) / max(time.monotonic() - self._begun, 1e-9)
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        number = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        text = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {number} {self.unit}/s{left}"
        if self._terminal:
            print(f"\r\x1b[K{text}", end=end or "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def duration(seconds: float | int) -> str:
    """Seconds as a person reads them: 0:07, 12:30, 3:04:05."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
