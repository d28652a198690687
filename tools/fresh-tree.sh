#!/bin/sh
# Proves that `make demo` works on a new machine: a Debian tree with python3 and make and nothing else (debootstrap),
# the committed files, a chroot. As root; takes some minutes and about 2 GB.
#   tools/fresh-tree.sh /some/folder
# On a machine behind a certificate authority of its own, PIP_CERT names that authority's file.
set -eu
tree=$1
[ -e "$tree/etc" ] || debootstrap --variant=minbase --include=python3,make "${SUITE:-stable}" "$tree"

rm -rf "$tree/src" && mkdir -p "$tree/src" "$tree/tmp"
git archive HEAD | tar -xf - -C "$tree/src"
cp /etc/resolv.conf "$tree/etc/resolv.conf"
authority=
if [ -n "${PIP_CERT:-}" ]; then
    cp "$PIP_CERT" "$tree/etc/host-authority.pem"
    authority='PIP_CERT=/etc/host-authority.pem NODE_EXTRA_CA_CERTS=/etc/host-authority.pem'
fi
mount -t proc proc "$tree/proc"
mount --bind /dev "$tree/dev"
trap 'umount "$tree/proc" "$tree/dev"' EXIT

# READY is what we came for; then make is told to end, and takes the demo along.
log=$tree/demo.log
: >"$log"
# shellcheck disable=SC2086 # NAME=value words without spaces
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root $authority \
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
