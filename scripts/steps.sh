# Sourced by scripts/check and scripts/test: runs steps, keeps their output in files, counts.

logs=target/test-logs
passed=0
failed=0
skipped=0
script=$(basename "$0")

# step NAME COMMAND..: a step that succeeded counts what its output sums up, at least itself. What a line of it says to be SKIPPED, with the
# reason, is shown and not counted as passed.
step() {
    name=$1
    shift
    log="$logs/$script-$name.log"
    mkdir -p "$logs"
    begin=$(date +%s)
    "$@" >"$log" 2>&1
    code=$?
    took=$(($(date +%s) - begin))
    # Lines of cargo's test runner, and the closing line of scripts.
    counts=$(awk '
        /^test result: / { p += $4; f += $6 }
        /^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 }
        END { printf "%d %d", p, f }' "$log" 2>/dev/null)
    counts=${counts:-0 0}
    good=${counts% *}
    bad=${counts#* }
    left=$(grep -c '^SKIPPED' "$log")
    if [ "$code" -ne 0 ]; then
        [ "$bad" -gt 0 ] || bad=1
    elif [ "$good" -eq 0 ] && [ "$bad" -eq 0 ] && [ "$left" -eq 0 ]; then
        good=1
    fi
    # A step that says it is well and counts failures is not well.
    passed=$((passed + good))
    failed=$((failed + bad))
    skipped=$((skipped + left))
    sed -n "s/^SKIPPED:* */SKIPPED $name: /p" "$log"
    if [ "$bad" -eq 0 ] && [ "$good" -eq 0 ]; then
        return
    elif [ "$bad" -eq 0 ]; then
        echo "ok      $name ${took} s ($good passed)"
    else
        echo "FAILED  $name ${took} s ($good passed, $bad failed; exit code $code): $log"
        said "$log" | sed 's/^/        /'
    fi
}

# said LOG: the tests that failed, and what they printed, as far as 60 lines hold it; the end of a log in which no test is said to have failed.
said() {
    words=$(awk '
        /^test .* \.\.\. FAILED$/ { print }
        /^failures:$/ { quoting = 0 }
        /^---- .* stdout ----$/ { quoting = 1 }
        /^stack backtrace:$/ || /^ +[0-9]+: / || /^ +at / { next }
        quoting && NF' "$1" 2>/dev/null | head -n 60)
    if [ -n "$words" ]; then
        printf '%s\n' "$words"
    else
        tail -n 30 "$1" 2>&1
    fi
}

# ahead COMMAND..: begins what later steps need, beside those until `caught_up`, and takes what they leave of the cores while they wait. Its
# session is its own, because the kernel divides the cores among sessions first.
ahead() {
    mkdir -p "$logs"
    setsid sh -c '{ echo 19 >/proc/self/autogroup; } 2>/dev/null; exec nice -n 19 "$@"' "$script" "$@" >"$logs/$script-ahead.log" 2>&1 &
    ahead=$!
    trap 'kill -- "-$ahead" 2>/dev/null || kill "$ahead" 2>/dev/null' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# caught_up: waits for it, and says what it said and how it went.
caught_up() {
    wait "$ahead"
    code=$?
    trap - EXIT INT TERM HUP
    cat "$logs/$script-ahead.log"
    return "$code"
}

# Prints the sum, alone on its line, and before it how much was skipped, if anything was; fails if anything did or nothing ran.
finish() {
    [ "$skipped" -eq 0 ] || echo "$skipped skipped"
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
