#!/bin/sh
# Proves that `make demo` works on a new machine: a Debian tree with python3 and make and nothing else (debootstrap),
# the committed files, a chroot. As root; takes some minutes and about 2 GB.
#   tools/fresh-tree.sh /some/folder
# A machine behind its own certificate authority passes PIP_* and NODE_EXTRA_CA_CERTS through.
set -eu
tree=$1
[ -e "$tree/etc" ] || debootstrap --variant=minbase --include=python3,make "${SUITE:-stable}" "$tree"

rm -rf "$tree/src" && mkdir -p "$tree/src" "$tree/tmp"
git archive HEAD | tar -xf - -C "$tree/src"
cp /etc/resolv.conf "$tree/etc/resolv.conf"
for file in "${PIP_CERT:-}" "${NODE_EXTRA_CA_CERTS:-}"; do
    [ -z "$file" ] || { mkdir -p "$tree$(dirname "$file")" && cp "$file" "$tree$file"; }
done
mount -t proc proc "$tree/proc"
mount --bind /dev "$tree/dev"
trap 'umount "$tree/proc" "$tree/dev"' EXIT

# READY is what we came for; then make is told to end, and takes the demo along.
log=$tree/demo.log
: >"$log"
# shellcheck disable=SC2046 # NAME=value words without spaces
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root $(env | grep -E '^(PIP_CERT|PIP_INDEX_URL|NODE_EXTRA_CA_CERTS)=') \
    chroot "$tree" make -C /src demo ARGS="--base-port 17112" >"$log" 2>&1 &
made=$!
tail -n +1 -f --pid "$made" "$log" | while read -r line; do
    printf '%s\n' "$line"
    case $line in
    READY\ *) echo "the fresh tree got READY"; kill -TERM "$made"; break ;;
    esac
done
wait "$made" || true
grep -q '^READY ' "$log"
