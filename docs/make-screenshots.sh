#!/usr/bin/env bash
# Makes the pictures of the README: runs the window on a virtual display. Needs Xvfb, xdotool, ImageMagick and Python 3.
# Usage: docs/make-screenshots.sh [path to the lapidary program]
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "${1:-target/release/lapidary}")
export DISPLAY=:93 LIBGL_ALWAYS_SOFTWARE=1 LAPIDARY_HOME
LAPIDARY_HOME=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$LAPIDARY_HOME"' EXIT
Xvfb "$DISPLAY" -screen 0 1440x860x24 >/dev/null 2>&1 &
sleep 1

click() { xdotool mousemove "$1" "$2" click 1; sleep 1; }
keys() { xdotool key "$@"; sleep 1; }

# picture NAME MODEL COLOURS ACTIONS...: opens a model, waits for the measurements, does what is asked, takes the picture.
picture() {
    local name=$1 model=$2
    echo "(colours: $3)" > "$LAPIDARY_HOME/settings.ron"
    shift 3
    # The windows are killed, and the next one would offer to recover their work.
    rm -rf "$LAPIDARY_HOME/recovery"
    "$program" "$model" &
    window=$!
    sleep 6
    xdotool windowfocus "$(xdotool search --name Lapidary | tail -1)"
    for action in "$@"; do eval "$action"; done
    sleep 2
    import -window root -define png:compression-level=9 "docs/images/$name.png"
    kill "$window"
    wait "$window" 2>/dev/null || true
}

mkdir -p docs/images
away="xdotool mousemove 760 640"
mixture=$LAPIDARY_HOME/mixture
docs/make-mixture.py "$mixture"
lapidary_dense=$LAPIDARY_HOME/four-bit
"$program" compress projects/sample-4-bit.ron --out "$lapidary_dense" >/dev/null 2>&1

picture window projects/sample-4-bit.ron Dark "$away"
picture light projects/sample-mixed.ron Light "click 1178 103" "$away"
picture outliers projects/sample-4-bit.ron Dark "click 1110 103" "xdotool mousemove 1150 200" "xdotool click --repeat 12 4"
picture spectrum projects/sample-4-bit.ron Dark "click 1178 103" "keys shift+Up shift+Up shift+Up" "$away"
picture bits projects/sample-4-bit.ron Light "click 1233 103" "click 700 43" "$away"
picture experts "$mixture" Dark "xdotool mousemove 700 420"
picture compare projects/sample-4-bit.ron Dark "click 1284 103" "click 1043 160" \
    "xdotool type $lapidary_dense" "keys Return" "sleep 3" "$away"
picture damage projects/sample-4-bit.ron Dark "click 1350 103" "$away"
picture rules projects/sample-mixed.ron Dark "keys alt+2" "$away"
picture problems projects/sample-4-bit.ron Dark "click 150 120" "keys ctrl+k" "xdotool type 'target llama'" "keys Return" "keys alt+3" "$away"
picture palette projects/sample-4-bit.ron Light "keys ctrl+k" "xdotool type sel" "$away"

"$program" calibrate assets/sample-books-6m --text assets/sample-books-6m/heldout_oz.txt --tokens 8192 >/dev/null 2>&1
picture activations projects/sample-4-bit.ron Dark "click 1055 127" "sleep 2" "$away"
# Two plans scored: the project's, and 8 bits.
picture evaluate projects/sample-4-bit.ron Dark "keys ctrl+r" "sleep 2" "click 809 231" "sleep 12" "keys Escape" "click 200 650" "keys ctrl+a" \
    "keys 8" "keys ctrl+r" "sleep 2" "click 809 231" "sleep 12" "xdotool mousemove 760 120"
