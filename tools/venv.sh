#!/bin/sh
# Make the virtual environment, and say in one sentence what is missing when it cannot be made.
#   venv.sh <python> <folder>
python=$1 folder=$2
if [ -z "$python" ]; then
    echo "No Python 3.11 or newer was found: install one, or name it with make PYTHON=/path/to/python3" >&2
    exit 1
fi
mkdir -p build
works() { "$folder/bin/python" -m pip --version >/dev/null 2>&1; }
make_venv() { "$python" -m venv "$folder" >build/venv.log 2>&1 && works; }

works && exit 0
printf '  virtual environment in %s with %s\n' "$folder" "$("$python" --version)"
make_venv && exit 0
# Debian's python3 comes without ensurepip; python3-venv brings it.
if ! "$python" -c 'import ensurepip' 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    tools/apt.sh python3-venv && rm -rf "$folder" && make_venv && exit 0
fi
tail -n 10 build/venv.log >&2
echo "$python cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv; then again" >&2
rm -rf "$folder"
exit 1
