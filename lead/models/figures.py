"""Figures of several models for Prometheus: those of each, with the label `model`, and their state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from lead.models.registry import Entry


class _Merged(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def merged(entries: Mapping[str, Entry], texts: Mapping[str, str]) -> bytes:
    """Prometheus' text format. `texts`: that of each loaded model."""
    families: dict[str, Metric] = {}
    for model, text in texts.items():
        for family in text_string_to_metric_families(text):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, "model": model}, sample.value)
    loaded = GaugeMetricFamily("duo_model_loaded", "1 while the model is loaded.", labels=["model"])
    processing = GaugeMetricFamily("duo_model_requests", "Requests that the model answers now.", labels=["model"])
    for name, entry in entries.items():
        loaded.add_metric([name], float(entry.status == "loaded"))
        processing.add_metric([name], entry.active)
    families["duo_model_loaded"], families["duo_model_requests"] = loaded, processing
    registry = CollectorRegistry()
    registry.register(_Merged(list(families.values())))
    return generate_latest(registry)
