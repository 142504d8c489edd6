#!/bin/sh
# Put promtool and prometheus, with which the alerts are tested, into a directory, unless the machine
# has them already. Taken out of Debian's package: installing that would start a Prometheus.
#
#     requirements/promtool.sh DIRECTORY      (make promtool runs it)
set -eu
into=$1

if { command -v promtool && command -v prometheus; } >/dev/null || [ -x "$into/promtool" ]; then exit; fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 777 "$folder" # apt-get drops its privileges

download() {
    (cd "$folder" && apt-get download -qq prometheus) >"$folder/log" 2>&1
}

if { download || { apt-get update -qq && download; }; } >/dev/null 2>&1 \
    && dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb \
        | tar -x -C "$folder" ./usr/bin/prometheus ./usr/bin/promtool; then
    cp "$folder/usr/bin/prometheus" "$folder/usr/bin/promtool" "$into"
else
    cat "$folder/log" >&2
    echo "The tests need Prometheus and its promtool. On Debian and Ubuntu, as root:" >&2
    echo "    apt-get install prometheus" >&2
    exit 1
fi
