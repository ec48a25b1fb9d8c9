"""What a server tells Prometheus about itself. Tokens a second are the rate of the counters of tokens."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EACH = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        model = ("model",)
        self.requests = Counter(
            "halve_requests", "Sequences that have ended, by how", ("model", "outcome"), registry=registry
        )
        self.prompt_tokens = Counter(
            "halve_prompt_tokens", "Tokens of prompts that have been read", model, registry=registry
        )
        self.new_tokens = Counter("halve_generated_tokens", "Tokens that have been written", model, registry=registry)
        self.first = Histogram(
            "halve_time_to_first_token_seconds", "TTFT, with the queue", model, buckets=_FIRST, registry=registry
        )
        self.each = Histogram(
            "halve_time_per_output_token_seconds", "TPOT of a sequence", model, buckets=_EACH, registry=registry
        )
        self.queued = Gauge("halve_queued_requests", "Sequences that wait", registry=registry)
        self.running = Gauge("halve_running_requests", "Sequences that are computed", registry=registry)
        self.kv_tokens = Gauge("halve_kv_tokens", "Positions of key-value caches that are reserved", registry=registry)
        self.kv_limit = Gauge("halve_kv_tokens_limit", "Positions that can be reserved", registry=registry)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
