"""Tokens per second and the first token of `halve serve`, for many clients, beside llama.cpp's own server.

    python benchmarks/peers.py xllamacpp --prepare    # once
    python benchmarks/serve.py [-t 2] [--tokens 64] [--soak 300] [--json]

SmolLM2 in NVFP4, and for llama.cpp the same weights in a GGUF file of NVFP4. Clients are threads of this process that
stream completions of the same lengths; each server is a process of its own, one after the other. ``--soak`` has clients
come, and go away in the middle, for so many seconds, and compares its memory in the last and the second fifth.
"""

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import halve
import peers
from halve.pipeline import smollm2
from measure import Figure

PEER = "xllamacpp"
CLIENTS = (1, 4, 16, 64)
MANY = 16
PROMPT = "The ship came out of the fog before noon, and the men at the rail said nothing for a long while. Then"
CONTEXT = 512


@dataclass(frozen=True)
class Answered:
    """One request as its client saw it."""

    first: float  # seconds to the first token
    tokens: int


@dataclass(frozen=True)
class Round:
    """Requests of as many clients at once."""

    tokens_per_s: float
    firsts: list[float]
    failed: int

    def quantile(self, part: float) -> float:
        """Seconds to the first token that ``part`` of the requests stay within."""
        return sorted(self.firsts)[min(int(part * len(self.firsts)), len(self.firsts) - 1)] if self.firsts else 0.0


def ask(address: str, seed: int, tokens: int, leave_after: int | None = None) -> Answered | None:
    """Stream a completion; None where it failed. ``leave_after`` so many events the client goes away."""
    connection = http.client.HTTPConnection(address, timeout=600)
    body = {"model": "nvfp4a16", "prompt": f"{seed}. {PROMPT}", "max_tokens": tokens, "stream": True, "seed": seed}
    body |= {"temperature": 1, "stream_options": {"include_usage": True}, "cache_prompt": False}
    began, first, events, counted = perf_counter(), None, 0, 0
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            return None
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            first = first or perf_counter() - began
            event = json.loads(line[6:])
            if "error" in event:
                return None
            counted = (event.get("usage") or {}).get("completion_tokens", counted)
            events += 1
            if events == leave_after:
                break
    except OSError:
        return None
    finally:
        connection.close()
    return Answered(first or 0.0, counted)


def measured(address: str, clients: int, tokens: int) -> Round:
    """``clients`` ask at once, twice each."""
    began = perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda seed: ask(address, seed, tokens), range(2 * clients)))
    seconds = perf_counter() - began
    done = [answered for answered in found if answered]
    return Round(sum(one.tokens for one in done) / seconds, [one.first for one in done], len(found) - len(done))


@contextmanager
def ours(folder: Path, threads: int) -> Iterator[tuple[str, int]]:
    """`halve serve`: its address and process id."""
    port = random.randint(20000, 30000)
    command = [sys.executable, "-m", "halve", "serve", str(folder), "--port", str(port), "-t", str(threads)]
    process = subprocess.Popen([*command, "--act", "int8"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/health")
                connection.getresponse().read()
                break
            except OSError:
                time.sleep(0.1)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def theirs(python: Path, gguf: Path, threads: int) -> Iterator[str]:
    """llama.cpp's server: its address."""
    script = peers.RUNNERS / "llamacpp_serve.py"
    command = [str(python), "-I", str(script), str(gguf), str(MANY), str(threads), str(CONTEXT)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip().removeprefix("http://")
    finally:
        process.stdin.close()
        process.terminate()
        process.wait()


def soak(address: str, process: int, seconds: float, tokens: int) -> tuple[float, bool]:
    """How much the server's memory grew, as a part of it, and whether every position of a cache was given back."""
    began, random_, sizes = perf_counter(), random.Random(0), []
    with ThreadPoolExecutor(MANY) as pool:
        while perf_counter() - began < seconds:
            leave = [random_.choice([None, random_.randint(1, tokens)]) for _ in range(MANY)]
            list(pool.map(lambda pair: ask(address, pair[0], tokens, pair[1]), enumerate(leave)))
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            sizes.append(pages)
    time.sleep(1)
    connection = http.client.HTTPConnection(address)
    connection.request("GET", "/metrics")
    returned = b"\nhalve_kv_tokens 0.0\n" in connection.getresponse().read()
    fifth = max(len(sizes) // 5, 1)
    before = statistics.median(sizes[fifth : 2 * fifth] or sizes)
    return statistics.median(sizes[-fifth:]) / before - 1, returned


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--soak", type=float, default=300, metavar="SECONDS", help="0: none")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "nvfp4a16"
        reference = smollm2.fetch()
        halve.quantize(reference, folder, "nvfp4a16")
        halve.quantize(reference, Path(scratch) / "gguf", "nvfp4a16", layout="gguf")
        figures = []
        with ours(folder, args.threads) as (address, process):
            measured(address, 1, args.tokens)
            rounds = {clients: measured(address, clients, args.tokens) for clients in CLIENTS}
            if args.soak:
                grown, returned = soak(address, process, args.soak, args.tokens)
                good = grown <= 0.05 and returned
                goal = "RSS within .05, every position returned"
                figures.append(Figure(metric="serve_soak", value=grown, unit="", goal=goal, met=good))
        peer = None
        if (python := peers.python(PEER)) is not None:
            with theirs(python, Path(scratch) / "gguf" / "model.gguf", args.threads) as address:
                measured(address, 1, args.tokens)
                peer = measured(address, MANY, args.tokens).tokens_per_s
    many, one = rounds[MANY].tokens_per_s, rounds[1].tokens_per_s
    figures.append(
        Figure(metric="serve_16_clients", value=many / one, unit="x", goal=">= 3 of one client's", met=many >= 3 * one)
    )
    ratio = many / peer if peer else None
    figures.append(
        Figure(
            metric="serve_vs_llamacpp",
            value=many,
            unit="tok/s",
            goal="ratio >= 1.1",
            met=ratio is not None and ratio >= 1.1,
            peer="llama.cpp",
            peer_value=peer,
            ratio=ratio,
        )
    )
    for clients, found in rounds.items():
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            metric = f"serve_ttft_{name}_{clients}"
            goal = f"printed; {found.failed} failed, {found.tokens_per_s:.1f} tok/s"
            figures.append(Figure(metric=metric, value=found.quantile(part), unit="s", goal=goal, met=not found.failed))
    for figure in figures:
        figure.print(as_json=args.json)


if __name__ == "__main__":
    main()
