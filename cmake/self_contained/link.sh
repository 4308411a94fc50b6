#!/bin/sh
# Runs the link command it is given with every shared library replaced by its static sibling, but for glibc,
# tpm2-tss and libcryptsetup. Used as RULE_LAUNCH_LINK by cmake/SelfContained.cmake.
#
# Debian's CMake packages know the shared libraries only, and these hide what they need themselves; so the static
# ones, and all that gRPC needs, go into one group.
set -eu
libraries=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch)
group=
rest=
shared=
for argument in "$@"; do
  case $argument in
    */libtss2-*.so* | */libcryptsetup.so*) shared="$shared $argument" ;;
    */libfmt.so* | */libspdlog.so* | */libtomlplusplus.so*) ;; # compiled in
    /*.so | /*.so.*)
      static=${argument%%.so*}.a
      if [ ! -e "$static" ]; then
        echo "link.sh: $argument has no static sibling; the agent would not be self-contained" >&2
        exit 1
      fi
      group="$group $static"
      ;;
    *.a) group="$group $argument" ;;
    -l*) ;; # every library comes by its path
    *) rest="$rest $argument" ;;
  esac
done
for library in grpc++ grpc gpr upb address_sorting protobuf re2 cares z ssl crypto; do
  group="$group $libraries/lib$library.a"
done
for library in "$libraries"/libabsl_*.a; do
  case $library in *_test_util*) ;; *) group="$group $library" ;; esac
done
# Words, not one string: paths here hold no blanks.
# shellcheck disable=SC2086
exec $rest -Wl,--start-group $group -Wl,--end-group $shared -Wl,--as-needed -lpthread -ldl -lm -lrt
