"""Tokenize a text with llama.cpp's own tokenizer; runs in the peer `xllamacpp`.

    llamacpp_tokenize.py GGUF TEXTFILE OUT

The wheel binds no tokenizer, but its server (on a free port of the loopback interface) answers POST /tokenize. OUT
gets the ids as a JSON list: no special token is added, and text that spells one is text.
"""

import argparse
import json
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from xllamacpp import CommonParams, Server


def tokenize(gguf: Path, text: str) -> list[int]:
    """The ids of ``text`` in the vocabulary of ``gguf``."""
    parameters = CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_ctx = 256  # nothing is generated
    parameters.warmup = False
    server = Server(parameters)
    connection = HTTPConnection(urlsplit(server.listening_address).netloc)
    body = json.dumps({"content": text, "add_special": False, "parse_special": False})
    connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.load(response)
    if response.status != 200:
        raise SystemExit(f"llama.cpp refused to tokenize: {answer}")
    return answer["tokens"]


def main() -> None:
    """Tokenize a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("gguf", type=Path, metavar="GGUF")
    parser.add_argument("text", type=Path, metavar="TEXTFILE", help="UTF-8")
    parser.add_argument("out", type=Path, metavar="OUT", help="JSON file to write")
    args = parser.parse_args()
    ids = tokenize(args.gguf, args.text.read_bytes().decode())
    args.out.write_text(json.dumps(ids) + "\n")


if __name__ == "__main__":
    main()
