"""A run's figures on Ray's Prometheus endpoint, beside Ray's own; names begin with ``ray_noisesmith_`` there."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from noisesmith.pipeline.telemetry.events import ActorReplaced, Event, RowFailed, RowRetried, RowWritten, Snapshot

ROW_SECONDS = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class RayMetrics:
    """Metrics of one run, which its name labels."""

    def __init__(self, run: str) -> None:
        def make(kind: type, name: str, description: str, *tags: str, **options: object) -> Counter | Gauge | Histogram:
            metric = kind(f"noisesmith_{name}", description=description, tag_keys=("run", *tags), **options)
            metric.set_default_tags({"run": run})
            return metric

        self._rows = make(Counter, "rows", "rows written or given up", "outcome")
        self._rounds = make(Counter, "rounds", "search rounds of the rows written")
        self._failures = make(Counter, "failures", "failed calls, by row and class of error", "error")
        self._deaths = make(Counter, "actor_deaths", "actors that died and were replaced", "side")
        self._seconds = make(Histogram, "row_seconds", "from admission to durable row", boundaries=ROW_SECONDS)
        self._in_flight = make(Gauge, "rows_in_flight", "rows in flight")
        self._queues = make(Gauge, "queue_length", "rows that wait for a step", "step")
        self._busy = make(Gauge, "busy_share", "share of their time that a side's actors have worked", "side")

    def emit(self, event: Event) -> None:
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
                for step, length in event.queues.items():
                    self._queues.set(length, tags={"step": step})
                self._busy.set(event.busy_generators, tags={"side": "generators"})
                self._busy.set(event.busy_scorers, tags={"side": "scorers"})
