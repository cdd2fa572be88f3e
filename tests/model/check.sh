#!/bin/sh
# Look at every history of the lease's model with spin. Arguments: -DNAME options (see lease.pml). Fails on an error, or if it could not finish.
set -eu
model="$(cd "$(dirname "$0")" && pwd)/lease.pml"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
spin "$@" -a "$model" >spin.txt 2>&1 || { cat spin.txt; exit 2; }
cc -O2 -w -DSAFETY -DNOREDUCE -DCOLLAPSE -DMEMLIM="${MEGABYTES:-6000}" -o pan pan.c
# -E: a model that has used up its requests and crashes may stop anywhere.
./pan -E -m100000 >out.txt || true
grep -E "assertion violated|errors:|states, stored|elapsed" out.txt || cat out.txt
grep -q "errors: 0" out.txt && ! grep -qE "max search depth too small|out of memory|reached -DMEMLIM|interrupted" out.txt
