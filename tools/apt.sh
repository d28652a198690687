#!/bin/sh
# Install Debian packages as root, without questions and without starting their services.
#   apt.sh <package> …
export DEBIAN_FRONTEND=noninteractive
mkdir -p build
# Packages ask this program whether a service may start; 101 is "no". Ours stands only while we install, and
# never in place of one that the machine already has.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT INT TERM
fi
printf '  Debian packages: %s\n' "$*"
install() { apt-get install -y --no-install-recommends "$@" >build/apt.log 2>&1; }
install "$@" || { apt-get update >build/apt-update.log 2>&1 && install "$@"; } || {
    tail -n 15 build/apt.log >&2
    echo "apt-get could not install $*. The whole output is in build/apt.log" >&2
    exit 1
}
