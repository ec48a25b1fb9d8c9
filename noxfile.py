"""Sessions that are too slow, too heavy or too particular for `.ci/run`. `nox -l` lists them."""

import nox

nox.options.default_venv_backend = "venv"
NATIVE = {"HALVE_REQUIRE_NATIVE": "1"}


@nox.session
def clients(session: nox.Session) -> None:
    """Other people's programs, each in an environment of its own, load what halve writes."""
    session.install(".[demo,test]", env=NATIVE)
    session.run("python", "benchmarks/peers.py", "transformers", "--prepare")
    session.run("pytest", "-q", "tests/clients", env=NATIVE)


@nox.session
def browser(session: nox.Session) -> None:
    """The report in a real browser. Needs Debian's chromium."""
    session.install(".[demo,test]", env=NATIVE)
    session.run("pytest", "-q", "tests/browser", env=NATIVE)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Random and mutated headers, many more than in the default tests."""
    session.install(".[test]", env=NATIVE)
    session.run("pytest", "-q", "tests/property", env=NATIVE | {"HALVE_FUZZ": "50"})


@nox.session
def slow(session: nox.Session) -> None:
    """What takes minutes: the demo from an empty cache, an install without a compiler."""
    session.install(".[demo,test]", env=NATIVE)
    session.run("pytest", "-q", "tests/slow", env=NATIVE)


@nox.session
def asan(session: nox.Session) -> None:
    """The native tests under AddressSanitizer and UndefinedBehaviorSanitizer."""
    session.install(".[test]", "--config-settings=cmake.define.HALVE_SANITIZE=ON", env=NATIVE)
    session.run("bash", "tests/native/asan.sh", external=True, env=NATIVE)


@nox.session
def aarch64(session: nox.Session) -> None:
    """Cross-compile the kernels for arm64 and compare what they compute, under qemu-user."""
    session.install("cmake", "numpy", "ml_dtypes")
    session.run("bash", "tests/native/aarch64.sh", external=True)
