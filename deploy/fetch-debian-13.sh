#!/usr/bin/env bash
# Unpacks Debian 13's systemd-stub, systemd-boot, ukify and systemd-measure into a folder of their own, so that
# tests on Debian 12 see a second generation of them. Installs nothing, runs no maintainer script.
#
#   bash deploy/fetch-debian-13.sh [FOLDER]     FOLDER: /var/cache/sealift/debian-13 unless given
#
# Uses the package sources that this machine has, with the suite's name replaced; apt checks signatures as
# always. Does nothing when FOLDER is complete. Needs no root for a folder of one's own. Bounded: five minutes.
# Exit code 0: the folder is complete.
set -euo pipefail

folder=${1:-/var/cache/sealift/debian-13}
suite=trixie
packages=(
  systemd-boot-efi systemd-ukify
  # systemd-measure and what it is linked with
  systemd libsystemd-shared libc6 libgcc-s1 libssl3t64 libmount1 libblkid1 libselinux1 libpcre2-8-0 libseccomp2
  libacl1 libcap2 libcrypt1 libaudit1 libcap-ng0 libpam0g libzstd1 zlib1g
)
complete=$folder/.complete
wanted="${packages[*]}"

if [[ -e $complete && $(<"$complete") == "$wanted" ]]; then
  echo "fetch-debian-13: $folder is complete"
  exit 0
fi
# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
if [[ -z $codename ]]; then
  echo "fetch-debian-13: /etc/os-release names no release" >&2
  exit 1
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sources.list.d" "$work/state/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/root"
: >"$work/status"
: >"$work/sources.list"

# Only entries for exactly this release: other suites of the same sources have other names, or none, there.
shopt -s nullglob
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [[ -e $file ]] || continue
  awk -v from="$codename" -v to="$suite" '
    $1 == "deb" { for (i = 2; i <= NF; ++i) if ($i == from) { $i = to; print; break } }' "$file" \
    >>"$work/sources.list"
done
for file in /etc/apt/sources.list.d/*.sources; do
  awk -v from="$codename" -v to="$suite" '
    BEGIN { RS = ""; FS = "\n" }
    {
      text = ""; wanted = 0
      for (i = 1; i <= NF; ++i) {
        if ($i ~ /^#/) continue
        if ($i ~ /^Suites:/) {
          count = split($i, words, " ")
          for (j = 2; j <= count; ++j) if (words[j] == from) wanted = 1
          $i = "Suites: " to
        }
        text = text $i "\n"
      }
      if (wanted) print text
    }' "$file" >"$work/sources.list.d/$(basename "$file")"
  [[ -s "$work/sources.list.d/$(basename "$file")" ]] || rm -f "$work/sources.list.d/$(basename "$file")"
done

apt_get() {
  timeout 300 apt-get -q \
    -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts="$work/sources.list.d" \
    -o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2 "$@" </dev/null
}
apt_get update
(cd "$work/debs" && apt_get download "${packages[@]}")
for deb in "$work"/debs/*.deb; do
  dpkg-deb -x "$deb" "$work/root"
done
rm -rf "${folder:?}/usr" "$complete"
mv "$work/root/usr" "$folder/usr"
echo "$wanted" >"$complete"
echo "fetch-debian-13: $folder is complete"
