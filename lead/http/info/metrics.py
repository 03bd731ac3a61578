"""Figures for Prometheus: answers are counted as they end, the state of the lead is read at each scrape.

Backs name themselves, and Prometheus keeps a series for every name for ever. So the number of names is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lead.api import Answerer, CacheView, Observer, Summary

MAX_BACKS = 32
"""Only the first backs have series of their own."""
OTHERS = "other"
"""Label of all other backs together."""
_MAX_NAME = 64

_LONG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SHORT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class Metrics(Observer):
    """All figures of one lead, for the event loop."""

    def __init__(self, answerer: Answerer) -> None:
        self.registry = CollectorRegistry()
        self._backs: set[str] = set()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"duo_{name}", what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"duo_{name}", what, buckets=buckets, registry=self.registry)

        self._begun = counter("answers_begun", "Answers that were queued.")
        self._requests = counter("requests", "Answers, refused and broken off ones too, by HTTP status.", "status")
        self._finished = counter("answers_finished", "Answers that came to their end.", "reason")
        self._prompt = counter("prompt_tokens", "Prompt tokens computed, cached ones left out.")
        self._cached = counter("prompt_tokens_cached", "Prompt tokens that a slot held already.")
        self._prompt_seconds = counter("prompt_seconds", "Seconds spent on prompts.")
        self._predicted = counter("tokens_predicted", "Tokens generated.")
        self._predicted_seconds = counter("tokens_predicted_seconds", "Seconds from a prompt's end to its answer's.")
        self._steps = counter("decode_steps", "Steps of answers: one forward pass is one step for each of its answers.")
        self._drafted = counter("drafted_tokens", "Guesses that the target verified.")
        self._accepted = counter("accepted_tokens", "Guesses that the target picked.")
        self._back_drafted = counter("back_drafted_tokens", "Guesses of a back that the target verified.", "back")
        self._back_accepted = counter("back_accepted_tokens", "Guesses of a back that the target picked.", "back")
        self._first_token = histogram(
            "time_to_first_token_seconds", "From a request to its first token.", _LONG_BUCKETS
        )
        self._per_token = histogram("time_per_output_token_seconds", "Mean over each answer's tokens.", _SHORT_BUCKETS)
        self._duration = histogram("request_duration_seconds", "From a request to its answer's end.", _LONG_BUCKETS)
        self._queued = histogram("queue_seconds", "From a request to its slot.", _LONG_BUCKETS)
        self.registry.register(_Now(answerer, self))

    def began(self, answer: int) -> None:
        self._begun.inc()

    def first_text(self, answer: int, seconds: float) -> None:
        self._first_token.observe(seconds)

    def finished(self, answer: int, summary: Summary) -> None:
        self._requests.labels("200").inc()
        self._finished.labels(summary.finish_reason).inc()
        self._prompt.inc(summary.prompt_tokens - summary.cached_tokens)
        self._cached.inc(summary.cached_tokens)
        self._prompt_seconds.inc(summary.prompt_seconds)
        self._predicted.inc(summary.completion_tokens)
        self._predicted_seconds.inc(summary.decode_seconds)
        self._steps.inc(summary.steps)
        self._drafted.inc(summary.drafted)
        self._accepted.inc(summary.accepted)
        for name, count in summary.backs.items():
            label = self.label(name)
            self._back_drafted.labels(label).inc(count.drafted)
            self._back_accepted.labels(label).inc(count.accepted)
        if summary.completion_tokens:
            self._per_token.observe(summary.decode_seconds / summary.completion_tokens)
        self._duration.observe(summary.queued_seconds + summary.prompt_seconds + summary.decode_seconds)
        self._queued.observe(summary.queued_seconds)

    def failed(self, answer: int, status: int) -> None:
        self.refused(status)

    def refused(self, status: int) -> None:
        self._requests.labels(str(status)).inc()

    def label(self, back: str) -> str:
        """The name of a back in the series."""
        name = back[:_MAX_NAME]
        if name not in self._backs:
            if len(self._backs) == MAX_BACKS:
                return OTHERS
            self._backs.add(name)
        return name

    def exposition(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class _Now(Collector):
    """The state of the lead at each scrape. While the model loads there is none."""

    def __init__(self, answerer: Answerer, metrics: Metrics) -> None:
        self._answerer = answerer
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        """Describes nothing, so that the registry does not ask the answerer before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        answerer = self._answerer
        ready = answerer.ready
        slots = answerer.slots() if ready else []
        backs = answerer.backs() if ready else []
        busy = sum(slot.state != "idle" for slot in slots)

        def gauge(name: str, what: str, value: float) -> Metric:
            return GaugeMetricFamily(f"duo_{name}", what, value)

        def counter(name: str, what: str, value: float) -> Metric:
            return CounterMetricFamily(f"duo_{name}", what, value)

        yield gauge("model_loaded", "1 once the model is loaded.", float(ready))
        yield gauge("slots", "Answers that can be generated at once.", len(slots))
        yield gauge("slots_busy", "Slots that read a prompt or answer.", busy)
        yield gauge("requests_processing", "Questions that have a slot.", busy)
        yield gauge("requests_deferred", "Questions that wait for a slot.", answerer.waiting if ready else 0)
        speed = sum(slot.tokens_per_second for slot in slots)
        yield gauge("predicted_tokens_per_second", "Of all answers under way together.", speed)
        cache = answerer.cache if ready else CacheView()
        yield gauge("prompt_cache_prompts", "Prompts that left their slots and are kept.", cache.prompts)
        yield gauge("prompt_cache_bytes", "Bytes of these prompts.", cache.bytes)
        yield counter("prompt_cache_hits", "Prompts that got tokens from one of these.", cache.hits)
        yield counter("prompt_cache_tokens", "Prompt tokens that came from there.", cache.tokens)
        yield gauge("backs_connected", "Backs that are connected.", len(backs))
        if (benefit := answerer.benefit if ready else None) is not None:
            yield gauge("speedup", "How many times as fast answers are with backs as without.", benefit.times)
            yield gauge("speedup_error", "Standard error of duo_speedup.", benefit.error)
            yield gauge("tokens_per_second_with_backs", "Of one answer, lately.", benefit.with_backs)
            yield gauge("tokens_per_second_alone", "Of one answer without backs, lately.", benefit.alone)
            yield gauge("backs_resting", "1 while backs rest.", float(benefit.state == "resting"))
        trips = GaugeMetricFamily("duo_back_round_trip_seconds", "Network round trip to a back.", labels=["back"])
        longest: dict[str, float] = {}  # seconds by label, which backs may share
        for back in backs:
            if back.round_trip_ms is not None:
                label = self._metrics.label(back.name)
                longest[label] = max(longest.get(label, 0.0), back.round_trip_ms / 1e3)
        for label, seconds in longest.items():
            trips.add_metric([label], seconds)
        yield trips
