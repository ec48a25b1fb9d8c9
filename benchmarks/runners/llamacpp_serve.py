"""llama.cpp's own server with a GGUF file; runs in the peer `xllamacpp`.

    llamacpp_serve.py GGUF CLIENTS THREADS CONTEXT

Prints the address, and ends when its input does.
"""

import argparse
import sys

from xllamacpp import CommonParams, Server


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("gguf", metavar="GGUF")
    for name in ("clients", "threads", "context"):
        parser.add_argument(name, type=int, metavar=name.upper())
    args = parser.parse_args()
    parameters = CommonParams()
    parameters.model.path = args.gguf
    parameters.n_parallel = args.clients
    parameters.n_ctx = args.clients * args.context
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = args.threads
    server = Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
