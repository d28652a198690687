#!/bin/sh
# The real peers that tests talk to: installed from Debian's packages where we may, named where we may not.
PATH=$PATH:/usr/sbin:/sbin
missing=
command -v dcmdump >/dev/null || missing="$missing dcmtk" # pynetdicom brings a storescu of its own
command -v mosquitto >/dev/null || missing="$missing mosquitto"
command -v chromium >/dev/null || missing="$missing chromium"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$missing orthanc orthanc-dicomweb"
[ -e /usr/lib/"$(uname -m)"-linux-gnu/rsyslog/lmnsd_ossl.so ] || missing="$missing rsyslog rsyslog-openssl"
{ command -v swtpm && command -v swtpm_setup; } >/dev/null || missing="$missing swtpm swtpm-tools"
command -v tpm2_create >/dev/null || missing="$missing tpm2-tools"
[ -e /usr/lib/"$(uname -m)"-linux-gnu/ossl-modules/tpm2.so ] || missing="$missing tpm2-openssl"
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086 # a list of words
    tools/apt.sh $missing && exit 0
    [ -n "$CI" ] && exit 1
fi
echo "Not installed:$missing. Tests that need them are skipped; with root: apt install$missing"
[ -z "$CI" ] || { echo "CI is set: here a missing peer is a failure." >&2; exit 1; }
