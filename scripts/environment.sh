# Sourced by demo and test: makes .venv where there is none and puts it on PATH.
# install ARGUMENTS... then installs into it.

python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
  echo "expected Python 3.10 or newer as '$python', got none; set PYTHON to one" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "expected Python 3.10 or newer, got $("$python" --version); set PYTHON to one" >&2
  exit 1
fi
if [ ! -x .venv/bin/pip ]; then
  "$python" -m venv .venv
fi
export PATH="$PWD/.venv/bin:$PATH"

install() {
  pip install --quiet --disable-pip-version-check "$@"
}
