#!/usr/bin/env bash
# Builds the root file system of a lab node: Debian 12 with systemd 252 (or another release), kernel, boot loader and
# stub inside.
#
#   build-rootfs.sh [--version V] [--agent-deb FILE [--installs] | --probe | --panics] OUT
#
# OUT is a directory and is replaced. What `sealift build-uki dir:OUT` adds (/init, ...) is not done here.
# --version V       os-release says VERSION_ID=V (default 1.0)
# --agent-deb FILE  unpacks the package (no maintainer script runs) and enables its units
# --installs        for images that install machines: their agent mounts oem and persistent, and on a medium there may
#                   be no ESP to wait for
# --probe           a tiny tree instead: boots in seconds, prints its PCRs on the serial port, powers off
# --panics          as tiny, but its init ends at once: the kernel panics, and reboots when its command line says so
#
# os/ is what an OS vendor would configure; driver/ is the lab's own way into the guest (see README.md).
# Packages come from where this machine's apt gets Debian; SEALIFT_GUEST_SUITE names another release of it. The
# debootstrapped base is cached in build/lab/cache, keyed by this script and the versions apt would install.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cache=${SEALIFT_LAB_CACHE:-$here/../../build/lab/cache}

version=1.0
agent_deb=
tiny_init=
installs=
while (($# > 1)); do
  case $1 in
    --version)
      version=$2
      shift
      ;;
    --agent-deb)
      agent_deb=$2
      shift
      ;;
    --installs) installs=yes ;;
    --probe) tiny_init=probe-init ;;
    --panics) tiny_init=panic-init ;;
    *) break ;;
  esac
  shift
done
if (($# != 1)) || [[ $1 == -* ]]; then
  echo "usage: build-rootfs.sh [--version V] [--agent-deb FILE [--installs] | --probe | --panics] OUT" >&2
  exit 2
fi
out=$1

packages=(
  systemd systemd-sysv udev dbus kmod mount login passwd util-linux fdisk iproute2 e2fsprogs dosfstools
  systemd-boot-efi tpm2-tools
)
# systemd-pcrphase loads these by name, so no dependency brings them. What they are called depends on the release.
tss_12=(libtss2-esys-3.0.2-0 libtss2-mu0 libtss2-rc0 libtss2-tctildr0 libtss2-tcti-device0)
tss_13=(libtss2-esys-3.0.2-0t64 libtss2-mu-4.0.1-0t64 libtss2-rc0t64 libtss2-tctildr0t64 libtss2-tcti-device0t64)
# Unpacked only: its maintainer scripts want perl, an initramfs and a boot loader.
kernel=linux-image-cloud-amd64
# What a virtual node needs beyond what is built in (ext4, TPM, PCI, ...).
modules=(
  drivers/virtio drivers/block/virtio_blk.ko drivers/block/loop.ko drivers/net/virtio_net.ko
  drivers/net/net_failover.ko net/core/failover.ko drivers/char/virtio_console.ko drivers/char/hw_random
  drivers/firmware/qemu_fw_cfg.ko drivers/firmware/efi/efi-pstore.ko drivers/watchdog/watchdog.ko drivers/watchdog/softdog.ko drivers/md drivers/scsi/scsi_common.ko drivers/scsi/scsi_mod.ko
  drivers/scsi/sd_mod.ko drivers/scsi/sr_mod.ko drivers/scsi/virtio_scsi.ko drivers/cdrom fs/isofs fs/fat fs/nls fs/efivarfs fs/overlayfs fs/squashfs fs/autofs fs/fuse net/ipv6
  lib crypto arch/x86/crypto
)

debian_targets() { apt-get indextargets "Created-By: Packages" "Origin: Debian" "Architecture: amd64" "$@"; }
sources() { # deb lines of this machine's own Debian archive, for the guest's suite
  local host=$1 guest=$2
  # shellcheck disable=SC2016  # apt expands these
  debian_targets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' | sort -u | while read -r uri release component; do
    if [[ $component == main && $release == "$host"* && $release != *-backports* ]]; then
      echo "deb $uri ${release/#$host/$guest} $component"
    fi
  done
}

base_key() { # of what shapes the base: its recipe, and the versions it would get
  { sha256sum <"${BASH_SOURCE[0]}" && echo "$suite" && apt-cache policy "${packages[@]}" "$kernel" | grep -E '^[a-z]|Candidate'; } |
    sha256sum | cut -c 1-16
}

copy_kernel() { # unpacked packages -> boot/vmlinuz and the modules a virtual machine needs
  local from=$1 root=$2 lib=$1/lib/modules release module target
  [[ -d $lib ]] || lib=$from/usr/lib/modules # Debian 13's package
  release=$(basename "$lib"/*)
  mkdir -p "$root/boot"
  cp "$from/boot/vmlinuz-$release" "$root/boot/vmlinuz"
  target=$root/usr/lib/modules/$release
  mkdir -p "$target"
  cp "$lib/$release"/modules.{builtin,builtin.modinfo,order} "$target/"
  for module in "${modules[@]}"; do
    # Other releases compress their modules, and have some of these built in.
    if [[ -e $lib/$release/kernel/$module.xz ]]; then module=$module.xz; fi
    if [[ ! -e $lib/$release/kernel/$module ]] && grep -qxF "kernel/$module" "$target/modules.builtin"; then continue; fi
    mkdir -p "$target/kernel/$(dirname "$module")"
    cp -a "$lib/$release/kernel/$module" "$target/kernel/$(dirname "$module")/"
  done
  depmod -b "$root" "$release"
}

slim() { # the whole OS lives in memory: what a node never reads is left out
  local root=$1
  (
    cd "$root"
    rm -rf usr/share/{perl,perl5,doc,man,info,locale,bash-completion,zsh,i18n,zoneinfo,bug,lintian,mime,pixmaps} \
      usr/lib/x86_64-linux-gnu/{perl,perl-base,gconv} usr/lib/udev/hwdb.{d,bin} etc/udev/hwdb.bin \
      usr/lib/systemd/catalog usr/lib/systemd/boot/efi/*.elf.stub var/lib/apt var/cache var/log
    rm -f usr/lib/x86_64-linux-gnu/lib{icu*,xml2*,perl*,db-5*,mvec*,apt-p*} usr/bin/{perl*,apt*,tic,bsdtar} \
      usr/bin/{dpkg*,localedef}
    # Which package a file is of: for the bill of materials, and for frames of the initrd that follow packages.
    find var/lib/dpkg -mindepth 1 ! -path var/lib/dpkg/status ! -path var/lib/dpkg/info ! -name '*.list' -delete
    find dev -mindepth 1 -delete # the kernel makes its own
    mkdir -p var/cache var/log var/lib/systemd
  )
}

# Runs inside mmdebstrap, with its apt configuration.
fetch_kernel() {
  local folder=$1 image
  image=$(apt-cache --no-all-versions show "$kernel" | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
  (cd "$folder" && apt-get -o APT::Sandbox::User=root -qq download "$image")
}
if [[ $out == @fetch ]]; then
  APT_CONFIG=$MMDEBSTRAP_APT_CONFIG fetch_kernel "$SEALIFT_LAB_DEBS"
  exit
fi

build_base() {
  local root=$1 work=$1.work lines
  rm -rf "$root" "$work"
  mkdir -p "$work/debs" "$work/x"
  mapfile -t lines < <(sources "$host" "$suite")
  if ((${#lines[@]} == 0)); then
    echo "build-rootfs: apt on this machine knows no Debian archive for $host (run apt-get update)" >&2
    exit 1
  fi
  export SEALIFT_LAB_DEBS=$work/debs
  mmdebstrap --quiet --variant=essential --include="$(IFS=,; echo "${packages[*]}")" \
    --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --customize-hook="'${BASH_SOURCE[0]}' @fetch" \
    "$suite" "$root" "${lines[@]}"
  local deb
  for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/x"; done
  copy_kernel "$work/x" "$root"
  slim "$root"
  rm -rf "$work"
}

write_os_release() {
  local root=$1
  rm -f "$root/etc/os-release"
  mkdir -p "$root/etc"
  cat >"$root/usr/lib/os-release" <<OSRELEASE
ID=sealift-lab
ID_LIKE=debian
NAME="Sealift lab node"
PRETTY_NAME="Sealift lab node $version"
VERSION_ID=$version
OSRELEASE
  ln -s ../usr/lib/os-release "$root/etc/os-release"
}

make_tiny() { # kernel, boot loader and stub of the base; busybox instead of an OS
  local root=$1
  mkdir -p "$root"/{boot,proc,sys,dev,bin} "$root/usr/lib/systemd/boot" "$root/usr/bin"
  cp "$base/boot/vmlinuz" "$root/boot/"
  cp -a "$base/usr/lib/systemd/boot/efi" "$root/usr/lib/systemd/boot/"
  cp /bin/busybox "$root/bin/busybox"
  # In systemd's place, so that the image is made the same way as a real one.
  install -m 755 "$here/$tiny_init" "$root/usr/lib/systemd/systemd"
  write_os_release "$root"
}

configure() { # the OS: what its vendor would set up, then the lab's driver
  local root=$1 unit target
  cp -a --no-preserve=ownership "$here/os/." "$here/driver/." "$root/"
  chmod 755 "$root/usr/lib/sealift-lab/driver"
  mkdir -p "$root/efi" "$root/oem" "$root/usr/local"
  : >"$root/etc/machine-id" # empty: a fresh one each boot, and no first-boot questions
  for unit in systemd-firstboot.service systemd-hwdb-update.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
  ln -sf /usr/lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
  ln -sf /usr/lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/"
  write_os_release "$root"
  if [[ -n $installs ]]; then mv "$root/etc/fstab.installs" "$root/etc/fstab"; else rm "$root/etc/fstab.installs"; fi
  if [[ -n $agent_deb ]]; then
    dpkg-deb -x "$agent_deb" "$root.agent"
    # A merged-/usr tree: lib/ of the package belongs below usr/.
    if [[ -d $root.agent/lib ]]; then
      mkdir -p "$root.agent/usr"
      cp -a "$root.agent/lib" "$root.agent/usr/"
      rm -rf "$root.agent/lib"
    fi
    cp -a --no-preserve=ownership "$root.agent/." "$root/"
    for unit in "$root.agent"/usr/lib/systemd/system/*.service; do
      sed -n 's/^WantedBy=//p' "$unit" | tr ' ' '\n' | while read -r target; do
        mkdir -p "$root/etc/systemd/system/$target.wants"
        ln -sf "/usr/lib/systemd/system/$(basename "$unit")" "$root/etc/systemd/system/$target.wants/"
      done
    done
    rm -rf "$root.agent"
  fi
}

host=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
suite=${SEALIFT_GUEST_SUITE:-$host}
if [[ $suite == bookworm ]]; then packages+=("${tss_12[@]}"); else packages+=("${tss_13[@]}"); fi
mkdir -p "$cache"
cache=$(readlink -f "$cache")
base=$cache/base-$(base_key)
exec 9>"$cache/lock"
flock 9
started=$SECONDS
if [[ -d $base ]]; then
  echo "build-rootfs: base tree from the cache"
else
  echo "build-rootfs: building the base tree (Debian $suite, about a minute)"
  rm -rf "$cache"/base-*
  build_base "$base.tmp"
  mv "$base.tmp" "$base"
fi
rm -rf "$out" "$out.new"
mkdir -p "$(dirname "$out")"
if [[ -n $tiny_init ]]; then
  make_tiny "$out.new"
else
  cp -a --reflink=auto "$base" "$out.new"
  configure "$out.new"
fi
mv "$out.new" "$out"
echo "build-rootfs: $out: version $version, $(du -sm "$out" | cut -f 1) MiB, $((SECONDS - started)) s"
