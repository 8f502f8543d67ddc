#!/bin/sh
# Waits until Temporal serves, then makes the namespace TEMPORAL_NAMESPACE if it isn't there. Safe to run again. The temporal
# CLI reads TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE itself.
set -eu

: "${TEMPORAL_ADDRESS:?must be the host:port of the Temporal server}"
: "${TEMPORAL_NAMESPACE:?must name the namespace to make}"
retention=${NAMESPACE_RETENTION:-30d}
attempts=${NAMESPACE_ATTEMPTS:-60}

# until_done WHAT COMMAND...: runs the command each 2 s until it succeeds; shows why it failed when it is given up.
until_done() {
    what=$1
    shift
    left=$attempts
    until said=$("$@" 2>&1); do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then
            echo "gave up on: $what: $said" >&2
            exit 1
        fi
        sleep 2
    done
    echo "done: $what"
}

namespace_exists() {
    temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" && return
    temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$retention"
}

until_done "Temporal serves at $TEMPORAL_ADDRESS" temporal operator cluster health
until_done "namespace $TEMPORAL_NAMESPACE exists" namespace_exists
# A new namespace reaches the server's own cache some seconds later; a worker that polls before that is refused.
until_done "namespace $TEMPORAL_NAMESPACE answers" temporal workflow list --limit 1
