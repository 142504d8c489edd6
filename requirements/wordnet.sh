#!/bin/sh
# Put WordNet 3.0 at DIR for METEOR, without root: from this machine, else from Debian's packages.
# Never fails: every other grader works without it.
#
#     requirements/wordnet.sh DIR     (its parent also gets a link where NLTK looks by itself)
set -u
dir=$1
system=/usr/share/wordnet
packages="wordnet-base wordnet-sense-index"

# NLTK's reader, which the tests compare with, also wants this index, which no package holds.
lexnames="adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute
    noun.body noun.cognition noun.communication noun.event noun.feeling noun.food noun.group
    noun.location noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession
    noun.process noun.quantity noun.relation noun.shape noun.state noun.substance noun.time
    verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption
    verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession
    verb.social verb.stative verb.weather adj.ppl"

is_complete() {
    [ -s "$1/index.sense" ] && [ -s "$1/index.noun" ] && [ -s "$1/data.noun" ]
}

write_lexnames() {
    number=0
    for name in $lexnames; do
        case $name in noun.*) category=1 ;; verb.*) category=2 ;; adj.*) category=3 ;; *) category=4 ;; esac
        printf '%02d\t%s\t%d\n' "$number" "$name" "$category"
        number=$((number + 1))
    done
}

# Both packages into the current directory. The second way reads fresh package lists into this
# directory, because an image often ships without lists and only root may write the system's.
download() {
    apt-get $apt_options download $packages && return
    mkdir -p lists/partial cache/archives/partial
    apt_options="$apt_options -o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD/cache"
    apt-get $apt_options update && apt-get $apt_options download $packages
}

fetch() {
    command -v apt-get && command -v dpkg-deb || return
    apt_options="-q -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20"
    # As root, apt would change to a user who cannot write here, and warn.
    [ "$(id -u)" -ne 0 ] || apt_options="$apt_options -o APT::Sandbox::User=root"
    download || return
    for package in ./*.deb; do dpkg-deb -x "$package" . || return; done
}

[ -z "${GRADEKEEPER_WORDNET_DIR:-}" ] || exit 0
is_complete "$dir" && exit 0

parent=$(dirname "$dir")
mkdir -p "$parent"
work=$(mktemp -d "$(cd "$parent" && pwd)/wordnet.XXXXXX") || exit 0
trap 'rm -rf "$work"' EXIT
mkdir "$work/new"
if is_complete "$system"; then
    ln -s "$system"/*.* "$work/new/"
elif (cd "$work" && fetch) >"$work/log" 2>&1; then
    mv "$work"/usr/share/wordnet/* "$work/new/"
fi
if is_complete "$work/new"; then
    [ -e "$work/new/lexnames" ] || write_lexnames >"$work/new/lexnames"
    rm -rf "$dir" && mv "$work/new" "$dir"
    mkdir -p "$parent/nltk_data/corpora"
    ln -sfn "../../$(basename "$dir")" "$parent/nltk_data/corpora/wordnet"
else
    tail -n 3 "$work/log" >&2
    cat >&2 <<END
WordNet is not here and could not be fetched, so METEOR graders are unavailable; all else works.
To get it: install Debian's packages $packages, or set
GRADEKEEPER_WORDNET_DIR to a directory with WordNet 3.0's dict files; then run: make wordnet
END
fi
