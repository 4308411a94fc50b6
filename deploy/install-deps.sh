#!/usr/bin/env bash
# Installs every Debian 12 package that building, testing and running Sealift needs. The one list of them.
#
#   bash deploy/install-deps.sh            install what is missing (root, or a user with sudo)
#   bash deploy/install-deps.sh --list     print the list, install nothing
#
# Unpacks Debian 13's EFI programs too (fetch-debian-13.sh), for tests alone. Does nothing, needs no root and no
# network when everything is there. Exit code 0: all installed.
set -euo pipefail

packages=(
  # compilers and checkers
  build-essential g++ cmake ninja-build ccache pkg-config dpkg-dev git
  clang clang-format clang-tidy libclang-rt-14-dev lld shellcheck
  # libraries
  libabsl-dev libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libssl-dev libp11-kit-dev libtss2-dev libcryptsetup-dev libyaml-dev libsqlite3-dev libarchive-dev libzstd-dev libcurl4-openssl-dev
  liblz4-dev liblzma-dev libdivsufsort-dev libseccomp-dev
  libspdlog-dev libfmt-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev prometheus-cpp-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  # tokens and TPMs, and the tools we compare with
  softhsm2 opencryptoki opensc p11-kit p11-kit-modules
  swtpm swtpm-tools tpm2-tools libtss2-tcti-swtpm0
  sbsigntool osslsigncode pesign efitools openssl systemd systemd-boot-efi sqlite3 jq
  # the lab: virtual machines, disks, guest trees
  qemu-system-x86 qemu-utils ovmf socat mmdebstrap kmod cpio zstd lz4 xz-utils binutils
  mtools dosfstools squashfs-tools cryptsetup-bin fdisk e2fsprogs xorriso busybox-static
  python3 python3-pefile python3-cryptography python3-securesystemslib faketime
  procps iproute2 util-linux file ca-certificates
  # mirrors, and what deltas are compared with
  nginx-light casync ostree
  # images and package databases of other families
  skopeo umoci rpm
)

if [[ ${1:-} == --list ]]; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
# Debian 13's EFI programs, which tests compare with; unpacked beside, not installed. Without them (no network, no
# root) the tests that need them skip, or fail where SEALIFT_REQUIRE_TOOLS=1.
fetch_debian_13() {
  bash "$(dirname "$0")/fetch-debian-13.sh" || echo "install-deps: Debian 13's EFI programs are missing" >&2
}
if ((${#missing[@]} == 0)); then
  echo "install-deps: all ${#packages[@]} packages are installed"
  fetch_debian_13
  exit 0
fi

echo "install-deps: installing ${#missing[@]} of ${#packages[@]} packages: ${missing[*]}"
as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install-deps: not root and no sudo; as root run: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -q "$@" </dev/null
}
apt_get update
apt_get install -y --no-install-recommends "${missing[@]}"
fetch_debian_13
echo "install-deps: done"
