#!/usr/bin/env bash
# Cross-compile the kernels for arm64, run them under qemu-user, and compare with the numpy reference and with this
# machine's scalar build. Needs cmake, a Python that can import numpy and ml_dtypes, and from Debian:
#   apt install g++ g++-aarch64-linux-gnu qemu-user-static
set -euo pipefail
cd "$(dirname "$0")/../.."

for tool in cmake g++ aarch64-linux-gnu-g++ qemu-aarch64-static; do
    if ! command -v "$tool" >/dev/null; then
        echo "aarch64.sh: $tool is missing: apt install cmake g++ g++-aarch64-linux-gnu qemu-user-static" >&2
        exit 2
    fi
done
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# configure DIRECTORY [CMAKE OPTIONS]
configure() {
    cmake -S . -B "$build/$1" -DSKBUILD_PROJECT_NAME=halve -DHALVE_SELFTEST=ON "${@:2}" >"$build/$1.log" 2>&1 &&
        cmake --build "$build/$1" >>"$build/$1.log" 2>&1 || { cat "$build/$1.log" >&2; exit 1; }
}
configure host -DCMAKE_CXX_COMPILER=g++
configure arm64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static

HALVE_REQUIRE_NATIVE=0 PYTHONPATH=src:tests "${PYTHON:-python3}" -m native.cases "$build/cases.bin"
HALVE_ISA=scalar "$build/host/native_selftest" "$build/cases.bin" >"$build/host.txt"
qemu-aarch64-static "$build/arm64/native_selftest" "$build/cases.bin" >"$build/arm64.txt"
diff "$build/host.txt" "$build/arm64.txt"
echo "arm64 equals the reference and this machine's scalar build: $(wc -l <"$build/arm64.txt") cases"
