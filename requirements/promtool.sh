#!/bin/sh
# Put promtool, which tests the alerts, into a directory, unless the machine has it already. Taken
# out of Debian's package: installing that would start a Prometheus.
#
#     requirements/promtool.sh DIRECTORY      (make promtool runs it)
set -eu
into=$1

if command -v promtool >/dev/null || [ -x "$into/promtool" ]; then exit; fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 777 "$folder" # apt-get drops its privileges

download() {
    (cd "$folder" && apt-get download -qq prometheus) >"$folder/log" 2>&1
}

if { download || { apt-get update -qq && download; }; } >/dev/null 2>&1 \
    && dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$folder" ./usr/bin/promtool; then
    cp "$folder/usr/bin/promtool" "$into/promtool"
else
    cat "$folder/log" >&2
    echo "The tests need promtool, which comes with Prometheus. On Debian and Ubuntu, as root:" >&2
    echo "    apt-get install prometheus" >&2
    exit 1
fi
