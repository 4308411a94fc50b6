#!/usr/bin/env bash
# Builds and checks everything; the last line is "N passed, N failed" (ctest tests, VM checks and steps).
#
#   bash deploy/check.sh               what every change has to pass
#   bash deploy/check.sh --quick       no sanitizers, no clang-tidy, no VM: under 5 minutes once built
#   bash deploy/check.sh --full        everything, on every file, and a Debian 13 node, other compilers, thread
#                                      sanitizer, fuzzers for a minute each, benchmarks; a skipped test is a failure
#   bash deploy/check.sh --step NAME   one step by itself, output on the terminal
#
# Logs lie in build/check/. SEALIFT_CHECK_BASE: commit to compare with for clang-tidy (default: where this branch
# left main; on main the previous commit).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jobs=$(nproc)
release=build/release
asan=build/asan
logs=build/check
# The folders whose code parses foreign bytes.
byte_parsers='shared/(efi|uki|tpm|tuf|order|escrow|install)'
export SEALIFT_REQUIRE_TOOLS=1 # install-deps put every tool there: a test whose tool is missing fails
export CTEST_OUTPUT_ON_FAILURE=1
export CMAKE_BUILD_PARALLEL_LEVEL=$jobs
export CLICOLOR_FORCE=0

sources() { # the C++ files under version control or about to be
  git ls-files --cached --others --exclude-standard -- '*.h' '*.cc' | while read -r file; do
    if [[ -e $file ]]; then echo "$file"; fi
  done
}
scripts() {
  git ls-files --cached --others --exclude-standard | while read -r file; do
    if [[ -f $file ]] && head -c 64 "$file" | grep -qaE '^#!.*\b(ba|da|)sh\b'; then echo "$file"; fi
  done
}
changed_sources() {
  local base=${SEALIFT_CHECK_BASE:-} main
  if [[ -z $base ]]; then
    for main in origin/main main; do
      if base=$(git merge-base HEAD "$main" 2>/dev/null) && [[ $base != "$(git rev-parse HEAD)" ]]; then break; fi
      base=
    done
  fi
  if [[ -z $base ]]; then base=$(git rev-parse -q --verify HEAD~1 || git hash-object -t tree /dev/null); fi
  { git diff --name-only --diff-filter=d "$base" -- '*.cc' && git ls-files --others --exclude-standard -- '*.cc'; } | sort -u
}
run_ctest() { # name of the step, build folder, ctest options
  local name=$1 folder=$2
  shift 2
  ctest --test-dir "$folder" --no-tests=error -j "$jobs" --output-junit "$PWD/$logs/$name.xml" "$@"
}

step_apt() { bash deploy/install-deps.sh; }
step_build() {
  cmake --preset release
  cmake --build $release --target all package-agent # the guest's image unpacks the package
}
step_format() { sources | xargs -r clang-format --dry-run --Werror; }
step_shellcheck() { scripts | xargs -r shellcheck; }
step_contract() { run_ctest contract $release -L '^contract$'; }
step_unit() { run_ctest unit $release -L '^(unit|sim)$'; }
step_integration() {
  [[ $mode != full ]] || export SEALIFT_KILLS=100 SEALIFT_AGENTS=50
  run_ctest integration $release -L '^integration$'
}
step_fuzz() { run_ctest fuzz $release -L '^fuzz$'; }
step_asan() {
  local targets regex
  cmake --preset asan
  if [[ $mode == full ]]; then
    cmake --build $asan
    regex='.'
  else
    mapfile -t targets < <(ninja -C $asan -t targets all | sed -nE 's/^((unit_shared_(efi|uki|tpm|tuf|order|escrow|install)|fuzz_[a-z0-9_]+)): phony$/\1/p' | grep -v '^fuzz_rpc_requests$')
    cmake --build $asan --target "${targets[@]}"
    # The request fuzzer drags in all of gRPC; it has its sanitizer run in --full.
    regex="^(unit:$byte_parsers:|fuzz:([^r]|r[^p]))"
  fi
  run_ctest asan $asan -L '^(unit|fuzz)$' -R "$regex"
}
step_tidy() {
  local list wanted=changed_sources
  [[ $mode != full ]] || wanted=sources
  # Only files that are compiled here have flags.
  mapfile -t list < <($wanted | grep -Fxf <(jq -r '.[].file' $release/compile_commands.json | sed "s|^$PWD/||"))
  echo "${#list[@]} files"
  ((${#list[@]} == 0)) || printf '%s\n' "${list[@]}" | xargs -P "$jobs" -n 1 clang-tidy -p $release --quiet --extra-arg=-Wno-unknown-warning-option
}
step_clang() { # -Wthread-safety is an error there
  cmake --preset clang
  cmake --build build/clang
}
step_tsan() {
  cmake --preset tsan
  cmake --build build/tsan
  # Debian's libraries are not instrumented; our own races are reported all the same.
  TSAN_OPTIONS="ignore_noninstrumented_modules=1" run_ctest tsan build/tsan -L '^(unit|contract|integration)$'
}
step_fuzzers() { # each for a minute, from its corpus, which is left as it is
  local targets
  cmake --preset fuzz
  mapfile -t targets < <(ninja -C build/fuzz -t targets all | sed -nE 's/^(fuzz_[a-z0-9_]+): phony$/\1/p')
  cmake --build build/fuzz --target "${targets[@]}"
  printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -n 1 bash deploy/check.sh --step fuzzer
}
step_fuzzer() { # name of the program
  local found=build/fuzz/corpus/$1 seconds=${SEALIFT_FUZZ_SECONDS:-60}
  mkdir -p "$found"
  if "build/fuzz/bin/$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$found/" "$found" "tests/fuzz/corpus/${1#fuzz_}" >"$logs/$1.log" 2>&1; then
    echo "$1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$1.log") inputs in $seconds s, no finding"
  else
    tail -n 30 "$logs/$1.log"
    return 1
  fi
}
step_delta() { $release/bin/bench_delta; } # a pair made in seconds: ratios and their bars
step_bench() { run_ctest bench $release -L '^bench$' --verbose; }
step_fleet() { $release/bin/sim_fleet --nodes 10000 --liars-every 100; } # 500 of them are among the unit step's tests
step_vm() {
  [[ $mode != full ]] || export SEALIFT_CHANGED_BOOTS=1
  /usr/bin/python3 tests/e2e/vm_story.py --build $release --results "$logs/vm.json"
}
step_debian13() { /usr/bin/python3 tests/e2e/debian_13.py --build $release --results "$logs/debian13.json"; }
step_powercuts() { /usr/bin/python3 tests/e2e/power_cuts.py --build $release --results "$logs/powercuts.json"; }
step_iso() { /usr/bin/python3 tests/e2e/iso_boot.py --build $release --results "$logs/iso.json"; }

step_install() { # the core path; all of it with --full
  local core=1
  if [[ $mode == full ]]; then core=; fi
  SEALIFT_INSTALL_CORE_ONLY=$core /usr/bin/python3 tests/e2e/install.py --build $release --results "$logs/install.json"
}

# These three on what step_install left.
step_attacks() { /usr/bin/python3 tests/e2e/attacks.py --results "$logs/attacks.json"; }
step_recovery() { /usr/bin/python3 tests/e2e/recovery.py --build $release --results "$logs/recovery.json"; }
step_badinput() { /usr/bin/python3 tests/e2e/bad_input.py --results "$logs/badinput.json"; }

mode=default
only=
arguments=() # of the one step
while (($#)); do
  case $1 in
    --quick | --full) mode=${1#--} ;;
    --step)
      only=${2:?--step needs a name}
      shift
      ;;
    --mode) # how a step learns the mode of the run it belongs to
      mode=${2:?}
      shift
      ;;
    fuzz_*) arguments+=("$1") ;;
    *)
      sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
      exit 2
      ;;
  esac
  shift
done
mkdir -p $logs

if [[ -n $only ]]; then
  "step_$only" "${arguments[@]}"
  exit
fi

# name and its time limit in minutes
steps=("apt 30" "build 55" "format 5" "contract 5" "unit 10" "integration 20" "fuzz 10" "shellcheck 5")
if [[ $mode != quick ]]; then steps+=("asan 40" "tidy 60" "vm 40" "iso 15" "install 40"); fi
if [[ $mode == default ]]; then steps+=("delta 5"); fi # one of the benchmarks
if [[ $mode == full ]]; then steps+=("attacks 30" "recovery 40" "badinput 20" "debian13 20" "powercuts 60" "clang 40" "tsan 60" "fuzzers 40" "bench 15" "fleet 15"); fi

passed=0 failed=0 skipped=0 first_failure="" running=""
trap 'if [[ -n $running ]]; then kill "$running"; fi' EXIT
count_tests() { # JUnit file of a ctest step, or the VM story's result file
  /usr/bin/python3 - "$1" <<'PYTHON'
import json, sys, xml.etree.ElementTree
if sys.argv[1].endswith(".json"):
    cases = [(c["name"], c["outcome"]) for c in json.load(open(sys.argv[1]))["checks"]]
else:
    kinds = {"run": "passed", "fail": "failed"}
    cases = [(c.get("name"), kinds.get(c.get("status"), "skipped")) for c in xml.etree.ElementTree.parse(sys.argv[1]).iter("testcase")]
print(*(sum(1 for _, outcome in cases if outcome == kind) for kind in ("passed", "failed", "skipped")))
for name, outcome in cases:
    if outcome != "passed":
        print(outcome, name)
PYTHON
}
report_tests() {
  local name=$1 file=$2 counts outcome test
  [[ -e $file ]] || return 0
  {
    read -r -a counts
    passed=$((passed + counts[0])) failed=$((failed + counts[1])) skipped=$((skipped + counts[2]))
    echo "      ${counts[0]} tests passed, ${counts[1]} failed, ${counts[2]} skipped"
    while read -r outcome test; do echo "      $outcome: $name: $test"; done
  } < <(count_tests "$file")
}
run_step() {
  local name=$1 limit=$2 started=$SECONDS shown=$SECONDS pid outcome log=$logs/$1.log
  rm -f "$logs/$name.xml" "$logs/$name.json"
  echo "== $name"
  timeout --kill-after=30 $((limit * 60)) bash deploy/check.sh --mode "$mode" --step "$name" >"$log" 2>&1 </dev/null &
  pid=$! running=$!
  while kill -0 $pid 2>/dev/null; do
    if ((SECONDS - shown >= 60)); then
      shown=$SECONDS
      echo "      $(((SECONDS - started) / 60)) min: $(tail -n 1 "$log" | cut -c 1-120)"
    fi
    sleep 0.2
  done
  if wait $pid; then outcome=ok passed=$((passed + 1)); else outcome=FAILED failed=$((failed + 1)); fi
  running=""
  report_tests "$name" "$logs/$name.xml"
  report_tests "$name" "$logs/$name.json"
  printf '   %s: %s, %d.%d min\n' "$name" $outcome $(((SECONDS - started) / 60)) $((((SECONDS - started) % 60) / 6))
  if [[ $outcome == FAILED && -z $first_failure ]]; then first_failure=$name; fi
  [[ $outcome == ok ]]
}

for step in "${steps[@]}"; do
  read -r name limit <<<"$step"
  if ! run_step "$name" "$limit" && [[ $name == apt || $name == build ]]; then
    echo "   nothing further can run"
    break
  fi
done

if ((skipped > 0)) && [[ $mode == full ]]; then
  echo "skipped tests count as failures in --full"
  failed=$((failed + skipped))
fi
if [[ -n $first_failure ]]; then
  echo
  echo "first failure: $first_failure. Run it again with:  bash deploy/check.sh --mode $mode --step $first_failure"
  echo "the end of $logs/$first_failure.log:"
  tail -n 40 "$logs/$first_failure.log" | sed 's/^/    /'
fi
echo "$((SECONDS / 60)) min $((SECONDS % 60)) s, mode $mode, $skipped skipped"
echo "$passed passed, $failed failed"
((failed == 0))
