#!/usr/bin/env bash
# Rehearse a release: build, check, install into clean environments, test what was installed.
#
#     tools/release.sh [lowest | highest | both] [arguments of pytest ...]
#
# "lowest" installs the lowest version that pyproject.toml allows of each thing that it names, torch
# among them; "highest" the newest. Into one environment after the other, each of some five gigabytes
# under TMPDIR, go the sdist and then the wheel, on which the tests are run. Nothing is left there.
# What the whole suite found is written to docs/results/release.json.
set -euo pipefail
cd "$(dirname "$0")/.."
record="$PWD/docs/results/release.json"
commit=$(git describe --always --dirty --exclude '*' 2>/dev/null || true)
case "${1:-both}" in
    lowest | highest) legs=("$1") ;;
    both) legs=(lowest highest) ;;
    *) echo "expected lowest, highest or both, got $1" >&2; exit 2 ;;
esac
shift || true
unset PYTHONPATH
PYTHON="${PYTHON:-python}"
uv() { "$PYTHON" -m uv "$@"; }
say() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }
work=$(realpath "$(mktemp -d)")
trap 'rm -rf "$work"' EXIT
export UV_CACHE_DIR="$work/cache" UV_NO_PROGRESS=1 MPLBACKEND=agg

say "build"
make build PYTHON="$PYTHON"
wheel=$(realpath dist/*.whl)
sdist=$(realpath dist/*.tar.gz)

# The tests, as the sdist brings them, beside no source that could be imported.
tar -xzf "$sdist" -C "$work"
mv "$work"/vaekit-* "$work/tests"
rm -r "$work/tests/src"
cd "$work/tests"

for leg in "${legs[@]}"; do
    resolution="$leg" group=test check=()
    if [ "$leg" = lowest ]; then
        resolution=lowest-direct group=test-lowest check=(--lowest)
    fi
    say "$leg: the sdist"
    uv venv --quiet --clear --python "$(command -v "$PYTHON")" "$work/env"
    uv pip compile --quiet --python "$work/env" --resolution "$resolution" --extra all \
        --group "$group" --output-file "$work/$leg.versions" pyproject.toml
    install() { uv pip install --quiet --python "$work/env" "$@"; }
    install --constraints "$work/$leg.versions" --group "$group" "vaekit[all] @ file://$sdist"
    "$work/env/bin/python" tools/installed.py "${check[@]}"
    say "$leg: the wheel"
    install --reinstall --no-deps "$wheel"
    "$work/env/bin/python" tools/installed.py "${check[@]}"
    say "$leg: the tests"
    code=0
    "$work/env/bin/python" -m pytest --junitxml "$work/$leg.xml" "$@" || code=$?
    if [ "$#" -eq 0 ]; then
        "$work/env/bin/python" tools/rehearsed.py "$leg" "$work/$leg.xml" "$record" "$commit"
    fi
    [ "$code" -eq 0 ] || exit "$code"
    rm -rf "$work/env"
done
say "done"
