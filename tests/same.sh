#!/usr/bin/env bash
# Shows that this build of fewstep does what the one of an older commit does: committed reports render to the same bytes, models train to the
# same bytes, and a run directory of the older one is resumed, evaluated, exported and reported.
#
#   bash tests/same.sh COMMIT [OLD_BINARY [NEW_BINARY]]
#
# Without binaries both are built, which takes some minutes. Needs git, and about 1 GB below TMPDIR.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
commit=${1:?a commit to compare with}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/fewstep-same-XXXXXX")
trap 'rm -rf "$scratch"; git -C "$root" worktree prune' EXIT
old=${2:-} new=${3:-}
if [ -z "$old" ]; then
  git -C "$root" worktree add -q --detach "$scratch/tree" "$commit"
  (cd "$scratch/tree" && cargo build --release --bin fewstep --target-dir "$scratch/target")
  cp "$scratch/target/release/fewstep" "$scratch/old" && old=$scratch/old
fi
if [ -z "$new" ]; then
  (cd "$root" && cargo build --release --bin fewstep)
  new=$root/target/release/fewstep
fi
failed=0
verdict() { if [ "$2" = 0 ]; then echo "same       $1"; else echo "DIFFERENT  $1"; failed=1; fi; }

# Reports, from the results as that commit has them.
for results in $(git -C "$root" ls-tree -r --name-only "$commit" reports | grep '/results\.json'); do
  name=$(basename "$(dirname "$results")")
  mkdir -p "$scratch/reports/$name"
  git -C "$root" show "$commit:$results" > "$scratch/reports/$name/$(basename "$results")"
  for side in old new; do
    "${!side}" report "$scratch/reports/$name/$(basename "$results")" --out "$scratch/$side/$name" >/dev/null 2>"$scratch/err" ||
      { cat "$scratch/err"; echo "$side does not render $name"; }
  done
  diff -r "$scratch/old/$name" "$scratch/new/$name" > "$scratch/diff" 2>&1 && rc=0 || rc=1
  verdict "report of $name" $rc
  [ $rc = 0 ] || grep -a '^Only in\|^diff\|^Binary' "$scratch/diff" | sed "s|$scratch/||g" | head -5
done

# Trainings of the recipe that has every command: whole by each, and begun by the old one and gone on with by the new one.
cd "$scratch"
threads="--threads 1"
"$old" recipe copy tiny tiny.toml >/dev/null
"$old" $threads run tiny.toml --out whole-old >/dev/null 2>&1
"$new" $threads run tiny.toml --out whole-new >/dev/null 2>&1
weights() { (cd "$1" && find models export -name '*.safetensors' | sort | xargs sha256sum); }
diff <(weights whole-old) <(weights whole-new) >/dev/null && rc=0 || rc=1
verdict "weights of every model of tiny" $rc
"$old" $threads run tiny.toml --out begun --only teacher >/dev/null 2>&1
"$new" $threads run tiny.toml --out begun >/dev/null 2>&1
diff <(weights whole-old) <(weights begun) >/dev/null && rc=0 || rc=1
verdict "a run begun by the old build and finished by the new one" $rc
for verb in "eval whole-old" "report whole-old --out again" "export whole-old --model student --out exported" "sample whole-old -n 2" "inspect whole-old --model student"; do
  "$new" $threads $verb >/dev/null 2>"$scratch/err" && rc=0 || { rc=1; cat "$scratch/err"; }
  verdict "fewstep $verb on a run of the old build" $rc
done
diff <(cd whole-old/export/student && sha256sum model.safetensors) <(cd exported && sha256sum model.safetensors) >/dev/null && rc=0 || rc=1
verdict "an export by either" $rc
for side in old new; do "${!side}" $threads sample whole-old -n 4 --seed 3 > "texts-$side" 2>/dev/null || echo "$side failed" > "texts-$side"; done
[ -s texts-old ] && diff texts-old texts-new >/dev/null && rc=0 || rc=1
verdict "texts by either" $rc
exit $failed
