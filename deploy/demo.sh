#!/usr/bin/env bash
# Tells the main story on a virtual machine with Secure Boot and a TPM: builds what is missing, then runs it.
#
#   bash deploy/demo.sh          exits 0 only if the story ended as it should
#   bash deploy/demo.sh --keep   leaves everything running, and says how to play with it
#   bash deploy/demo.sh --stop   ends what --keep left running
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} != "" && $1 != --keep && $1 != --stop ]] || (($# > 1)); then
  sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
if [[ ${1:-} != --stop ]]; then
  bash deploy/install-deps.sh
  echo "building (minutes the first time, seconds later; ninja shows how far it is)"
  mkdir -p build
  cmake --preset release -DSEALIFT_TESTS=ON >build/demo-configure.log 2>&1 || {
    cat build/demo-configure.log >&2
    exit 1
  }
  NINJA_STATUS='[%f/%t %es] ' cmake --build build/release --target sealift sealift-controller package-agent
fi
exec /usr/bin/python3 deploy/lab/story.py "$@"
