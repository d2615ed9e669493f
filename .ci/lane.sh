# For `.ci/run`, and for the tests of what is here: run something and note what became of it, so that
# its failure does not keep the rest from running. Needs `set -o pipefail` and a folder, $work.
begun=$SECONDS
failed=
second_tries=()
lanes=0
declare -A running

step() { echo "== $1 (after $((SECONDS - begun)) s)"; }

# Run a command beside what follows; what it prints is kept.
beside() {
    local name=$1
    shift
    mkdir -p "$work"
    "$@" >"$work/beside-$name.log" 2>&1 &
    running[$name]=$!
}

# Wait for what runs beside; print what it printed if it failed, and return its exit status.
finish() {
    local name=$1 code=0
    wait "${running[$name]}" || code=$?
    unset "running[$name]"
    [ "$code" = 0 ] || cat "$work/beside-$name.log"
    return "$code"
}

# End what still runs beside a run that has failed.
stop_all_beside() {
    local pid
    for pid in "${running[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
}

try() {
    local name=$1 code=0
    shift
    step "$name"
    "$@" || code=$?
    [ "$code" = 0 ] || failed+=" $name ($code),"
}

# As `try`, with a command of pytest. Tests that fail have a second try, once, one at a time and
# without those beside them; the lane has passed if each of them passes then, and `tell_the_end`
# names them. A process that crashed has none, nor has anything else that is not a failed test.
lane() {
    local name=$1 code=0 log=$work/lane.log cache n test
    local -a known command
    shift
    lanes=$((lanes + 1))
    cache=$work/pytest-cache/$lanes
    command=("$@" -o "cache_dir=$cache")
    mkdir -p "$work"
    step "$name"
    "${command[@]}" 2>&1 | tee "$log" || code=$?
    if [ "$code" = 1 ] && { grep -q "worker 'gw[0-9]*' crashed" "$log"; [ $? = 1 ]; }; then
        readarray -t known < <(python3 -c 'import json, sys
print(*json.load(open(sys.argv[1])), sep="\n")' "$cache/v/cache/lastfailed")
        n=${#known[@]}
        step "$name: the second try of what failed ($n)"
        if "${command[@]}" --last-failed --last-failed-no-failures none -n 0 2>&1 | tee "$log" \
            && tail -n 1 "$log" | grep -Eq "(^|= )$n passed(, [0-9]+ deselected)? in "; then
            code=0
            for test in "${known[@]}"; do second_tries+=("$name: $test"); done
        fi
    fi
    [ "$code" = 0 ] || failed+=" $name ($code),"
}

# Return whether everything passed, and name what did not, or only at its second try.
tell_the_end() {
    local one
    for one in "${second_tries[@]}"; do echo "PASSED ONLY AT THE SECOND TRY: $one"; done
    [ -z "$failed" ] || { echo "failed:${failed%,}"; return 1; }
}
