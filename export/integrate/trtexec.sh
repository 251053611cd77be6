#!/usr/bin/env bash
# Build engines of this bundle with TensorRT's trtexec, load them, and hold them against the golden samples.
#
#   bash trtexec.sh
#
# It needs unzip, od, awk and trtexec (or TRTEXEC=/usr/src/tensorrt/bin/trtexec), and writes to the folder `local`.
# It exits with 0 if every output is within its tolerance, 1 if one is not, 3 if a tool is missing.
set -euo pipefail
cd "$(dirname "$0")"
trtexec=${TRTEXEC:-trtexec}
for tool in "$trtexec" unzip od awk; do
    command -v "$tool" > /dev/null || { echo "error: $tool is missing; install it" >&2; exit 3; }
done
mkdir -p local
failed=0

# An array of golden.npz is not compressed, and ends with its numbers. raw ARRAY BYTES [BYTES OF THE FIRST ROWS]
raw() {
    unzip -p "$golden" "$1.npy" | tail -c "$2" > "local/$1.bin"
    truncate -s "${3:-$2}" "local/$1.bin"
}

# Numbers that trtexec exported, beside the golden ones. compare GRAPH OUTPUT TYPE BYTES TOLERANCE
compare() {
    tr -d ' \n' < "local/$1.json" | sed 's/{/\n{/g' | { grep -F "\"name\":\"$2\"" || true; } |
        sed 's/.*"values":\[//; s/\].*//' | tr ',' '\n' > local/got.txt
    od -An -v "-t$3" "-w$4" "local/output_$2.bin" > local/wanted.txt
    paste local/got.txt local/wanted.txt | awk -v name="$2" -v atol="$5" '
        NF != 2 || $1 !~ /^[-+]?[0-9]*[.]?[0-9]+([eE][-+]?[0-9]+)?$/ { odd = 1; next }
        { off = $1 > $2 ? $1 - $2 : $2 - $1; if (off > most) most = off; count += 1 }
        END {
            if (odd || !count) { print name ": trtexec gave other numbers than there should be"; exit 1 }
            printf "%s: off by %g at most, %g allowed\n", name, most, atol
            exit most > atol
        }' || failed=1
}

# GRAPHS
exit "$failed"
