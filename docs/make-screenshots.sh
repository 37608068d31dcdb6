#!/usr/bin/env bash
# Makes the pictures of the README: runs the window on a virtual display. Needs Xvfb, xdotool and ImageMagick.
# Usage: docs/make-screenshots.sh [path to the lapidary program]
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "${1:-target/release/lapidary}")
export DISPLAY=:93 LIBGL_ALWAYS_SOFTWARE=1 LAPIDARY_HOME
LAPIDARY_HOME=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$LAPIDARY_HOME"' EXIT
Xvfb "$DISPLAY" -screen 0 1440x860x24 >/dev/null 2>&1 &
sleep 1

# picture NAME PROJECT COLOURS CLICK_X CLICK_Y: opens a project, clicks somewhere, waits for the measurements, takes the picture.
picture() {
    echo "(colours: $3)" > "$LAPIDARY_HOME/settings.ron"
    "$program" "$2" &
    window=$!
    sleep 5
    xdotool windowfocus "$(xdotool search --name Lapidary | tail -1)"
    xdotool mousemove "$4" "$5" click 1
    sleep 2
    xdotool mousemove 700 620
    sleep 1
    import -window root "docs/images/$1.png"
    kill "$window"
    wait "$window" 2>/dev/null || true
}

mkdir -p docs/images
picture window projects/sample-4-bit.ron Dark 905 260
picture light projects/sample-mixed.ron Light 1117 102
