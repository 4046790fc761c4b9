# shellcheck shell=bash
# What scripts/test and scripts/demo share. Sourced, from the root of the checkout.

heading() { printf '\n==> %s\n' "$*" >&2; }

# use_engine: brings an engine up, points this shell at it, and takes it down again when the script ends,
# however it ends. An engine that was up before stays up, and so does any with MOAT_KEEP_ENGINE=1.
use_engine() {
    if ! scripts/engine status >/dev/null 2>&1; then
        # Set first: an interrupted start has something to take down as well.
        trap release_engine EXIT
    fi
    scripts/engine up
    local environment
    environment=$(scripts/engine env)
    eval "$environment"
}

release_engine() {
    local status=$?
    trap - EXIT
    if [ "${MOAT_KEEP_ENGINE:-}" = 1 ]; then
        heading 'The engine stays up (MOAT_KEEP_ENGINE=1). Use it: eval "$(scripts/engine env)"  Stop it: scripts/engine down'
    else
        scripts/engine down --private || true
    fi
    exit $status
}
