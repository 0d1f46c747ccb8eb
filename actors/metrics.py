"""The figures of a run on Ray's Prometheus endpoint, where their names begin with ``ray_noisesmith_``."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from noisesmith.pipeline.telemetry.events import ActorReplaced, Event, RowFailed, RowRetried, RowWritten, Snapshot

ROW_SECONDS = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]  # upper bounds of the histogram's buckets


class RayMetrics:
    """The metrics of one run; the label ``run`` is its name."""

    def __init__(self, run: str) -> None:
        self._rows = Counter("noisesmith_rows", "rows written or failed for good", ("run", "outcome"))
        self._rounds = Counter("noisesmith_rounds", "search rounds of the rows written", ("run",))
        self._failures = Counter("noisesmith_failures", "failed calls by row and class of error", ("run", "error"))
        self._deaths = Counter("noisesmith_actor_deaths", "workers that died and were replaced", ("run", "side"))
        self._seconds = Histogram(
            "noisesmith_row_seconds", "from the admission of a row until it is durable", ROW_SECONDS, ("run",)
        )
        self._in_flight = Gauge("noisesmith_rows_in_flight", "rows admitted and not yet written", ("run",))
        self._queues = Gauge("noisesmith_queue_length", "rows that wait for a stage", ("run", "step"))
        self._busy = Gauge("noisesmith_busy_share", "share of their time that workers have worked", ("run", "side"))
        counters = (self._rows, self._rounds, self._failures, self._deaths)
        gauges = (self._in_flight, self._queues, self._busy)
        for metric in (*counters, *gauges, self._seconds):
            metric.set_default_tags({"run": run})

    def emit(self, event: Event) -> None:
        """Add one event."""
        match event:
            case RowWritten():
                self._rows.inc(tags={"outcome": "written"})
                self._seconds.observe(event.seconds)
                if event.rounds:
                    self._rounds.inc(event.rounds)
            case RowFailed():
                self._rows.inc(tags={"outcome": "failed"})
                self._failures.inc(tags={"error": event.error})
            case RowRetried():
                self._failures.inc(tags={"error": event.error})
            case ActorReplaced():
                self._deaths.inc(tags={"side": event.side})
            case Snapshot():
                self._in_flight.set(event.in_flight)
                for stage, length in event.queues.items():
                    self._queues.set(length, tags={"step": stage})
                self._busy.set(event.busy_generators, tags={"side": "generators"})
                self._busy.set(event.busy_scorers, tags={"side": "scorers"})
