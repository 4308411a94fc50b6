#!/usr/bin/env bash
# Builds two Debian 12 trees from the machine's apt mirror, as the release stands alone and with all updates, and measures what
# the way from one to the other costs.
#
#   bash tests/bench/debian_pair.sh FOLDER [BENCH]    FOLDER keeps the trees (1.5 GB); BENCH: build/release/bin/bench_delta
#
# Prints the versions of the packages that differ; exit code: that of bench_delta.
set -euo pipefail
folder=${1:?a folder for the trees}
bench=${2:-build/release/bin/bench_delta}
# Where this machine's apt gets a suite from; says so and fails where it has none.
site_of() {
  local site
  # shellcheck disable=SC2016  # apt's own fields
  site=$(apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' | awk -v suite="$1" '$1 == suite { print $2; exit }')
  [[ -n $site ]] || {
    echo "debian_pair: apt of this machine knows no mirror of $1" >&2
    return 1
  }
  echo "$site"
}
mirror=$(site_of bookworm)
updates=$(site_of bookworm-updates)
security=$(site_of bookworm-security)
# A small host for containers.
packages=linux-image-cloud-amd64,systemd-sysv,udev,dbus,openssh-server,sudo,containerd,runc,python3,perl,curl,jq,chrony,rsyslog
packages+=,lvm2,cryptsetup,e2fsprogs,dosfstools,tpm2-tools,iproute2,nftables,tcpdump,bind9-dnsutils,openssl,ca-certificates,tzdata
packages+=,gnupg,xz-utils,zstd,vim-tiny,less,libsasl2-modules

# What no node needs, as in deploy/lab/build-rootfs.sh.
make_tree() {
  local name=$1
  shift
  [[ -d $folder/$name ]] && return
  rm -rf "$folder/$name.new"
  mmdebstrap --variant=minbase --include="$packages" --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    bookworm "$folder/$name.new" "$@"
  rm -rf "$folder/$name.new"/var/cache/apt/* "$folder/$name.new"/var/lib/apt/lists/* "$folder/$name.new"/dev/*
  mv "$folder/$name.new" "$folder/$name"
}

mkdir -p "$folder"
make_tree v1 "deb $mirror bookworm main"
make_tree v2 "deb $mirror bookworm main" "deb $updates bookworm-updates main" "deb $security bookworm-security main"
for name in v1 v2; do
  dpkg-query --admindir="$folder/$name/var/lib/dpkg" -W -f '${Package} ${Version}\n' >"$folder/$name.packages"
done
diff "$folder/v1.packages" "$folder/v2.packages" || true
exec "$bench" --pair "$folder/v1" "$folder/v2"
