#!/usr/bin/env bash
# Run the native tests under AddressSanitizer and UndefinedBehaviorSanitizer. The halve that Python imports must have been
# installed with --config-settings=cmake.define.HALVE_SANITIZE=ON. Leaks are not looked for: Python keeps what it likes.
set -euo pipefail
cd "$(dirname "$0")/../.."

preload="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 LD_PRELOAD="$preload" \
    "${PYTHON:-python3}" -m pytest -q -p no:cacheprovider tests/native "$@"
