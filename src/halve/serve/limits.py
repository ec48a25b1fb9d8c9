"""What a server takes on, so that no client can take it all."""

from dataclasses import dataclass, fields

from halve.errors import UnsupportedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one server. Raises UnsupportedError for one that is not above zero.

    ``running`` sequences share a step, ``queued`` ones wait; ``kv_tokens`` are the positions of all caches together,
    reserved when a sequence joins. ``max_tokens`` bounds one answer, ``body`` (bytes) one request, ``receive_seconds``
    and ``send_seconds`` how long a slow client may hold one up, ``request_seconds`` a request from arrival to end.
    """

    running: int = 64
    queued: int = 256
    kv_tokens: int = 65536
    max_tokens: int = 2048
    prompts: int = 64  # of one request
    body: int = 8 << 20
    receive_seconds: float = 30.0
    send_seconds: float = 30.0
    request_seconds: float = 600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UnsupportedError(
                    f"{field.name} = {getattr(self, field.name)}: nothing could be served", hint="say 1 or more"
                )
