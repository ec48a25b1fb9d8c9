"""Write corpus.json.xz: the text that tokenizers are compared on. Needs Python 3.11 on Debian; see README.md."""

import json
import lzma
import pydoc_data.topics
import random
import sysconfig
import unicodedata
from pathlib import Path

HERE = Path(__file__).parent
LICENCES = Path("/usr/share/common-licenses")
LICENCE_NAMES = ("Apache-2.0", "Artistic", "GFDL-1.3", "GPL-2", "GPL-3", "LGPL-2.1", "MPL-2.0")
MODULES = ("argparse.py", "ast.py", "html/entities.py", "statistics.py", "typing.py")
SCRIPTS = {  # inclusive ranges; only assigned characters are drawn
    "latin": (0x41, 0x24F),
    "greek": (0x370, 0x3FF),
    "cyrillic": (0x400, 0x52F),
    "hebrew": (0x591, 0x5F4),
    "arabic": (0x600, 0x6FF),
    "devanagari": (0x900, 0x97F),
    "thai": (0xE01, 0xE5B),
    "georgian": (0x10A0, 0x10FF),
    "kana": (0x3041, 0x30FF),
    "han": (0x4E00, 0x9FA5),
    "hangul": (0xAC00, 0xD7A3),
    "math": (0x1D400, 0x1D7FF),
    "symbols": (0x2010, 0x2BFF),
    "wide": (0xFF01, 0xFFEE),
    "emoji": (0x1F300, 0x1FAF0),
}
SPACES = (" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n ", "\u00a0", "\u2003", "\u3000", "\u2028", "\u200b")
SEQUENCES = (
    "\U0001f469\u200d\U0001f4bb",  # woman, joiner, laptop
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f44d\U0001f3fd",  # thumb, skin tone
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",  # two flags
    "\u2708\ufe0f",
    "e\u0301a\u0308o\u0302",  # combining accents
    "\u0e01\u0e33\u0e49",
    "\u2167\u00bd\u00b2\u3007\u0663\u096a",  # numbers that are no decimal digits, and foreign digits
    "1234567890123",
    "3.14159, 2,718,281.8 and 0x1F",
    "I'm you're they'll WE'VE he'd it's IT'S don't 'tis \u2019s",
    "camelCaseHTTPServer snake_case_name SCREAMING_CASE kebab-case",
    "https://example.org/a/b?c=d&e=%20#f ~/.config C:\\temp\\x",
    "a\u0300\u0301\u0302\u0303 \u0b95\u0bcd\u0bb7 \u1100\u1161\u11a8",
    "!!!???...---===***###@@@$$$%%%^^^&&&((()))[[[]]]{{{}}}",
    "<b>bold</b> `code` **strong** __dunder__ $x^2$ |table|",
    "\x00\x01\x1b[0m\x7f",
    "            indented\n\t\t\ttabs\n    \n\n\n\nend   ",
)


def unicode_text(lines: int, seed: int) -> str:
    """Lines of words from one script or several, odd spaces and sequences that tokenizers get wrong."""
    draw = random.Random(seed)
    assigned = {
        name: [chr(code) for code in range(first, last + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
        for name, (first, last) in SCRIPTS.items()
    }
    out: list[str] = []
    for _ in range(lines):
        scripts = draw.sample(sorted(assigned), draw.choice((1, 1, 2, 3)))
        for _ in range(draw.randint(3, 12)):
            if draw.random() < 0.15:
                out.append(draw.choice(SEQUENCES))
            else:
                out.append("".join(draw.choices(assigned[draw.choice(scripts)], k=draw.randint(1, 7))))
            out.append(draw.choice(SPACES) if draw.random() < 0.2 else " ")
        out.append("\n")
    return "".join(out)


def main() -> None:
    standard_library = Path(sysconfig.get_paths()["stdlib"])
    corpus = {
        "licences": "\n".join((LICENCES / name).read_text(encoding="utf-8") for name in LICENCE_NAMES),
        "topics": "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)),
        "code": "\n".join((standard_library / name).read_text(encoding="utf-8") for name in MODULES),
        "unicode": unicode_text(lines=600, seed=2),
        "chat": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n What is 2+2 ?<|im_end|>\n" * 20,
    }
    content = json.dumps(corpus, ensure_ascii=False).encode()
    (HERE / "corpus.json.xz").write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
