import errno
import json
import os
import pty
import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

import halve
from halve.cli.failure import failure
from halve.cli.main import COMMANDS, cli
from halve.cli.parameter import Size
from halve.cli.render import progress, show_table, size
from halve.errors import (
    BusyError,
    CheckpointError,
    ExpiredError,
    FormatError,
    HalveError,
    LimitError,
    OutputError,
    PlanError,
    RecipeError,
    UnknownNameError,
    UnsupportedError,
    VerifyError,
)

HEAVY = ("numpy", "ml_dtypes", "rich", "gguf", "safetensors", "tokenizers")


def halve_run(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "halve", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | env,
    )


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *args, **options: runner.invoke(cli, args, **options)


@pytest.mark.parametrize("args", [["--help"], ["--version"], [], ["formats", "--help"], ["cast", "--help"]])
def test_help_imports_nothing_heavy(args):
    code = (
        "import sys\nfrom halve.cli.main import run\n"
        f"sys.argv = ['halve', *{args}]\n"
        "try: run()\nexcept SystemExit as e: assert e.code == 0, e.code\n"
        f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    )
    # HALVE_REQUIRE_NATIVE makes `import halve` import the native module, which must not import numpy either.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("HEAVY []\n")


def test_completion_imports_nothing_heavy_for_commands(run):
    code = "import sys; from halve.cli.main import run\ntry: run()\nfinally: print([m for m in %r if m in sys.modules])"
    env = {"_HALVE_COMPLETE": "bash_complete", "COMP_WORDS": "halve c", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code % (HEAVY,)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | env,
    )
    names = ["calibrate", "convert", "cast", "cache", "completion"]
    assert done.stdout.splitlines() == [*(f"plain,{name}" for name in names), "[]"]


def test_help_tells_every_command(run):
    result = run("--help")
    assert result.exit_code == 0
    for name, about in COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert about in result.stdout
    assert run().stdout == result.stdout == run("-h").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_explains_itself(name, run):
    command = import_module(f"halve.cli.{name}").command
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: halve {name} ")


def test_version(run):
    assert run("--version").stdout == f"halve {halve.__version__}\n"
    assert halve_run("--version").stdout == f"halve {halve.__version__}\n"


def test_python_m_halve_reports_errors_like_the_program():
    done = halve_run("formats", "fp8_e4m2")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "error: unknown format 'fp8_e4m2'"
    assert done.stderr.splitlines()[1].startswith("hint: did you mean fp8_e")


@pytest.mark.parametrize(
    ("args", "error", "hint"),
    [
        (["cach"], "error: unknown command 'cach'", "hint: did you mean cache"),
        (["zzzzzz"], "error: unknown command 'zzzzzz'", "hint: known: demo, quantize"),
        (["formats", "--jsn"], "error: No such option '--jsn'. ", "hint: `halve formats --help` lists"),
        (["--versio"], "error: No such option '--versio'. ", "hint: `halve --help` lists"),
        (["cast", "1"], "error: Missing option '--to'.", "hint: `halve cast --help` lists"),
        (["schemes", "nvpf4"], "error: unknown scheme 'nvpf4'", "hint: did you mean nvfp4"),
    ],
)
def test_a_wrong_request_ends_with_2_and_a_hint(run, args, error, hint):
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith(error)
    assert second.startswith(hint)


@pytest.mark.parametrize("option", ["--jsn", "--jason"])
def test_near_matches_of_options(run, option):
    assert "--json" in run("formats", option).stderr


def test_exit_codes_of_errors():
    codes = {error: error.exit_code for error in HalveError.__subclasses__()}
    assert codes == {
        FormatError: 1,
        BusyError: 1,
        ExpiredError: 1,
        CheckpointError: 1,
        LimitError: 2,
        PlanError: 2,
        OutputError: 1,
        VerifyError: 1,
        UnsupportedError: 2,
        RecipeError: 2,
        UnknownNameError: 2,
    }


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CheckpointError("x.safetensors: cut short", hint="fetch it again"), 1, "hint: fetch it again"),
        (UnsupportedError("no"), 2, "error: no\n"),
        (MemoryError(), 1, "error: out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "out/model.part"), 1, "error: out/model.part: No space left"),
        (OSError("odd"), 1, "error: odd\n"),
        (ZeroDivisionError("division by zero"), 1, "error: internal error: ZeroDivisionError: division by zero"),
        (RecursionError("too deep"), 1, "HALVE_DEBUG=1"),
    ],
)
def test_whatever_fails_becomes_a_message(run, monkeypatch, error, code, text):
    def fail():
        raise error

    monkeypatch.setattr("halve.pipeline.cache.listing", fail)
    monkeypatch.delenv("HALVE_DEBUG", raising=False)
    result = run("cache")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(run, monkeypatch):
    monkeypatch.setattr("halve.pipeline.cache.listing", lambda: 1 / 0)
    monkeypatch.setenv("HALVE_DEBUG", "1")
    assert "Traceback" in run("cache").stderr


def test_an_interrupt_ends_with_130(run, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("halve.pipeline.cache.listing", interrupt)
    result = run("cache")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert "Traceback" not in result.stderr


def test_failure_of_a_plain_abort(capsys):
    assert failure(click.Abort()) == 1
    assert "cancelled" in capsys.readouterr().err


@pytest.mark.parametrize("args", ["formats fp8_e4m3", "formats --json", "schemes"])
def test_a_closed_pipe_is_quiet(args):
    done = subprocess.run(
        f"{sys.executable} -m halve {args} | true", shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    "args",
    [["formats"], ["formats", "nf4"], ["schemes"], ["schemes", "nvfp4"], ["cache"], ["cast", "1", "--to", "e8m0"]],
)
def test_json_is_one_value_without_nan(run, args, monkeypatch, tmp_path):
    monkeypatch.setenv("HALVE_CACHE", str(tmp_path))

    def refuse(word):
        raise AssertionError(word)

    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout, parse_constant=refuse)
    assert result.stderr == ""


def _in_terminal(*args, **env):
    """stdout and stderr of halve in a pseudo-terminal of 80 columns."""
    ours, theirs = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "halve", *args],
        stdout=theirs,
        stderr=theirs,
        env=clean | {"TERM": "xterm", "COLUMNS": "80"} | env,
    )
    os.close(theirs)
    read = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # EIO: Linux's way to say that the other end is closed
            break
        if not chunk:
            break
        read += chunk
    process.wait(60)
    os.close(ours)
    return read.decode()


def test_colour_only_in_a_terminal_and_not_with_no_color():
    assert "\x1b[31m" in _in_terminal("nonsense")
    assert "\x1b[" not in _in_terminal("nonsense", NO_COLOR="1")
    assert "\x1b[3" not in _in_terminal("formats", NO_COLOR="1")
    assert "\x1b[" not in halve_run("nonsense").stderr


def test_a_narrow_terminal_gets_whole_words_and_is_told_what_is_missing():
    shown = _in_terminal("schemes", TERM="dumb", NO_COLOR="1").replace("\r", "")
    assert max(map(len, shown.splitlines())) <= 80
    assert "mxfp6_e2m3a16 " in shown
    assert "Too narrow for: " in shown
    assert "calibration" in halve_run("schemes").stdout.splitlines()[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run, shell):
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_HALVE_COMPLETE" in result.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=result.stdout, text=True, check=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("halve sch", ["schemes"]),
        ("halve formats fp6", ["fp6_e2m3", "fp6_e3m2"]),
        ("halve cast 1 --to nf", ["nf4"]),
        ("halve schemes w4", ["w4a16", "w4a16_asym"]),
        ("halve cast 1 --rounding to", ["toward_zero"]),
        ("halve completion z", ["zsh"]),
    ],
)
def test_completion_of_names(words, expected):
    cword = str(len(words.split()) - 1)
    done = halve_run(_HALVE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=cword)
    assert [line.removeprefix("plain,") for line in done.stdout.splitlines()] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1500000", 1_500_000),
        ("8GiB", 8 << 30),
        ("8gib", 8 << 30),
        ("5GB", 5_000_000_000),
        ("1.5 kB", 1500),
        ("2M", 2_000_000),
        ("64Ki", 65536),
        ("1TiB", 1 << 40),
        ("7B", 7),
    ],
)
def test_sizes_that_people_write(text, expected):
    assert Size().convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1", "1.2.3", "8 GG", "1e9", "8iB"])
def test_sizes_that_mean_nothing(text):
    with pytest.raises(click.BadParameter, match="is not a size"):
        Size().convert(text, None, None)


def test_sizes_that_people_read():
    assert [size(n) for n in (0, 999, 1000, 93e6, 1.234e9, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "93.0 MB",
        "1.23 GB",
        "5.00 TB",
    ]


def test_cells_of_a_table(capsys):
    show_table(("name", "n", "x"), [("a [b]", 1, None), ("c", 20, 0.1234567), ("d", True, False)], note="noted")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["a", "[b]", "1", "-"],
        ["c", "20", "0.123457"],
        ["d", "yes", "no"],
        ["noted"],
    ]
    show_table(("name",), [], title="nothing")
    assert capsys.readouterr().out == "nothing\n"


def test_progress_is_silent_where_nobody_watches(capsys):
    with progress("quantize") as callback:
        assert callback is None
    assert capsys.readouterr() == ("", "")


def test_log_goes_to_a_file(run, tmp_path):
    import logging

    log = tmp_path / "log"
    logger = logging.getLogger("halve")
    before = list(logger.handlers), logger.level
    try:
        assert run("--log", str(log), "formats", "nf4").exit_code == 0
        logger.warning("seen")
    finally:
        for handler in set(logger.handlers) - set(before[0]):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(before[1])
    assert log.read_text().endswith(" WARNING seen\n")
