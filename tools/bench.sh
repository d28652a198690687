#!/bin/sh
# The benches of `make bench`, one after the other. One that fails keeps none of the others from running.
#   bench.sh PYTHON "NAME …" [option …]     no name: all of them; options are of one bench, which is named
python=$1 names=$2
shift 2
all="ingest size visible wan archive search qidoscale"
count=0
for name in $names; do
    count=$((count + 1))
    case " $all " in
    *" $name "*) ;;
    *)
        echo "There is no bench called $name. There are: $all" >&2
        exit 2
        ;;
    esac
done
if [ $# -gt 0 ] && [ "$count" -ne 1 ]; then
    echo "Each bench has options of its own, so name one: make bench BENCH=ingest ARGS=\"$*\"" >&2
    exit 2
fi
# A million studies, which search has by itself, take longer than all the others together.
[ "$count" -gt 0 ] && few= || few="--studies 10000"
failed=
for name in ${names:-$all}; do
    printf '\n== %s\n' "$name"
    options=
    [ "$name" = search ] && options=$few
    # shellcheck disable=SC2086 # a list of words
    "$python" -m "bench.$name" $options "$@" || failed="$failed $name"
done
[ -z "$failed" ] || { echo "Failed:$failed" >&2; exit 1; }
