"""The progress bar: share of the input read, rate, time left, by position in the file. Live, the rate and what is lost."""
import time

INTERVAL = 0.1      # seconds between two drawings: faster is not read
WIDTH = 20


class Progress:
    """Draws on `stream`, a terminal. `source` tells how much of the input is taken; `clock` gives seconds."""

    def __init__(self, source, stream, clock=time.monotonic):
        self.source, self.stream, self.clock = source, stream, clock
        self.start = clock()
        self.drawn = None

    def show(self, packets):
        """Draw, unless that was just done."""
        now = self.clock()
        if self.drawn is not None and now - self.drawn < INTERVAL:
            return
        self.drawn = now
        lost = getattr(self.source, "lost", 0)
        text = line(packets, now - self.start, *self.source.progress) + (f", {lost} lost" if lost else "")
        self.stream.write("\r\x1b[K" + text)
        self.stream.flush()

    def clear(self):
        """Take the bar away."""
        if self.drawn is not None:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.drawn = None


def line(packets, seconds, done, total):
    """The bar's text. `total` 0: unknown."""
    rate = scaled(packets / seconds) if seconds > 0 else "-"
    if not total:
        return f"{packets} packets, {rate}/s"
    share = min(1.0, done / total)
    filled = int(share * WIDTH)
    left = f", {clock_time(seconds * (1 - share) / share)} left" if share > 0 else ""
    return f"[{'#' * filled}{'.' * (WIDTH - filled)}] {share:4.0%} {rate} packets/s{left}"


def scaled(number):
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


def clock_time(seconds):
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
