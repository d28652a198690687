#!/bin/sh
# One step of the preparation: a line that says what, the noise into build/<log>.log, its end when it fails.
#   step.sh "what it is" <log> <command> …
what=$1 log=build/$2.log
shift 2
mkdir -p build
printf '  %s\n' "$what"
if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    printf 'Failed: %s. The whole output is in %s\n' "$what" "$log" >&2
    exit 1
fi
