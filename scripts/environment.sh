# Sourced by the other scripts, from the project root: makes .venv from the pinned versions, or reuses it.
# PYTHON chooses the interpreter (3.11 or newer).

make_environment() {
  local python=${PYTHON:-python3} wanted stamp=.venv/.shudun-environment
  wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $python is older than Python 3.11; set PYTHON to a newer interpreter" >&2
    return 1
  }
  echo "Making .venv (some minutes on the first run) ..."
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,train,tune,dev]'
  echo "$wanted" >"$stamp"
}

make_environment
