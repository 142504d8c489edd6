#!/bin/sh
# Write the locks from pyproject.toml: hashes for every platform and Python, and no address.
# The test lock comes first and binds the others, so that it holds all that serve.txt holds.
#
#     requirements/compile.sh [--upgrade]      (make lock runs it with the pinned uv)
set -eu
cd "$(dirname "$0")/.."

lock() {
    output=$1
    shift
    .venv/bin/uv pip compile "$@" --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-annotate \
        --custom-compile-command "make lock" --output-file "requirements/$output"
}

lock test.txt pyproject.toml --group dev --all-extras "$@"
lock serve.txt pyproject.toml --constraint requirements/test.txt "$@"
lock runner.txt --group runner --constraint requirements/test.txt "$@"
lock build.txt --group build --constraint requirements/test.txt "$@"
lock lock.txt --group lock "$@"
