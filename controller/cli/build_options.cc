#include "controller/cli/build_options.h"

#include "controller/cli/key_material.h"

namespace sealift::cli {
namespace {

void AddSourceOptions(CLI::App& verb, BuildArguments& arguments) {
  build::ReleaseOptions& release = arguments.request.release;
  verb.add_option("source", release.source,
                  "The OS that becomes the release: dir:FOLDER, or a container image: oci:FOLDER[:TAG], "
                  "oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], docker://NAME[:TAG|@DIGEST] (fetched "
                  "with skopeo)")
      ->required();
  CLI::Option* stub = verb.add_option("--stub", release.stub, "systemd-stub, if not the tree's own");
  CLI::Option* sdboot =
      verb.add_option("--sdboot", release.boot_loader, "systemd-boot, if not the tree's own");
  verb.add_flag("--sdboot-in-source", arguments.request.parts_from_source,
                "Stub and boot loader are those of the tree (the default)")
      ->excludes(stub)
      ->excludes(sdboot);
  verb.add_option("--overlay-rootfs", release.overlay,
                  "Folder whose files are laid over the root file system, and so are signed and measured");
  verb.add_option(
          "--extension", release.extensions,
          "Signed extension (build-extension's NAME.raw, or NAME.confext.raw for stubs from 256 on) to lie "
          "beside every image; repeatable")
      ->allow_extra_args(false);
  verb.add_option("--splash", release.splash, "BMP picture that is shown while the kernel starts");
  verb.add_option("--kernel", release.kernel, "Kernel, if not the tree's /boot/vmlinuz");
  verb.add_option("--with-agent", release.agent_deb,
                  "The agent's Debian package: unpacked into the image and enabled; no script of it is run");
  verb.add_option("--node-config", arguments.node_config_file,
                  "Becomes /usr/lib/sealift/node.toml in the image");
  verb.add_option(
      "--install-config", arguments.install_config_file,
      "Becomes /usr/lib/sealift/install.yaml in the image: what its installer does, hooks included, "
      "for example --install-config install.yaml");
  verb.add_option("--version", release.version, "Version, if not os-release's own");
  verb.add_option("--security-epoch", release.security_epoch,
                  "Epoch of the release: nodes that were raised above it refuse it, for example "
                  "--security-epoch 3; at most 1000, since a machine's TPM counts there step by step")
      ->check(CLI::Range(0u, 1000u))
      ->capture_default_str();
  verb.add_option("--zstd-level", release.zstd_level, "1 (fast) to 19 (small)")->capture_default_str();
}

void AddSectionOptions(CLI::App& verb, BuildArguments& arguments) {
  build::ReleaseOptions& release = arguments.request.release;
  build::ExtraSectionFiles& files = release.sections;
  verb.add_option("--microcode", files.microcode,
                  "Uncompressed cpio of microcode, as of /boot, read before the initrd (section .ucode; stub "
                  "256 on), for example --microcode early.cpio");
  verb.add_option("--dtb", files.device_tree,
                  "Device tree for every machine (section .dtb), for example --dtb board.dtb");
  CLI::Option* trees =
      verb.add_option("--dtb-auto", files.device_trees_auto,
                      "Device tree that the stub takes where it fits the machine (section .dtbauto; stub 257 "
                      "on); each is predicted and signed; repeatable, for example --dtb-auto a.dtb "
                      "--dtb-auto b.dtb")
          ->allow_extra_args(false);
  verb.add_option("--hwids", files.hardware_ids,
                  "Which machines the trees of --dtb-auto are for (section .hwids; stub 257 on), for example "
                  "--hwids hwids.bin")
      ->needs(trees);
  verb.add_option("--sbat", files.sbat,
                  "SBAT lines of the image beside the stub's (section .sbat; default: one line for component "
                  "uki), for example --sbat ours.csv");
  verb.add_flag("--sha384", release.sha384,
                "Predict PCR 11 and sign policies for the TPM's SHA-384 bank too; SHA-256 always");
}

void AddOutputOptions(CLI::App& verb, BuildArguments& arguments) {
  verb.add_option(
          "-t,--output-type", arguments.request.type,
          "uki: the files of an EFI system partition; iso: an install medium, for CD and disk; container: an "
          "OCI image of the files")
      ->check(CLI::IsMember({"uki", "iso", "container"}))
      ->capture_default_str();
  verb.add_option(
      "-d,--output-dir", arguments.request.out,
      "Folder for the result, which appears whole or not at all; for uki it is new, empty or holds an "
      "earlier release");
  verb.add_option(
      "-n,--name", arguments.request.name,
      "File name of the ISO or archive, without extension (default: kairos_VERSION, kairos_uki_VERSION)");
  verb.add_option("--overlay-iso", arguments.request.overlay_iso,
                  "Folder whose files go into the root of the ISO; neither signed nor measured");
  verb.add_option("--efi-size-warn", arguments.request.efi_size_warn,
                  "MiB of an image above which a warning is given")
      ->capture_default_str();
  verb.add_option("--esp-size", arguments.request.esp_size,
                  "MiB that the machines' EFI system partitions hold")
      ->capture_default_str();
}

void AddMenuOptions(CLI::App& verb, BuildArguments& arguments) {
  build::ReleaseOptions& release = arguments.request.release;
  build::MenuOptions& menu = release.menu;
  verb.add_option("--boot-branding", menu.branding, "Title of every boot entry")->capture_default_str();
  verb.add_flag("--include-version-in-config", menu.include_version, "Boot entries say the version");
  verb.add_flag("--include-cmdline-in-config", menu.include_command_line,
                "Boot entries say what they add to the default command line");
  verb.add_option("--cmdline", release.command_line, "Default kernel command line, signed and measured")
      ->capture_default_str();
  CLI::Option* extend =
      verb.add_option("--extend-cmdline", menu.extend, "Words more for the default entries");
  verb.add_option("--extra-cmdline", menu.extra,
                  "Words of one more entry beside each default one; cannot unlock disks; repeatable")
      ->allow_extra_args(false)
      ->excludes(extend);
  verb.add_option(
          "--single-efi-cmdline", menu.single,
          "\"Title: words\" of one entry apart from the default ones; cannot unlock disks; repeatable")
      ->allow_extra_args(false);
  verb.add_option("--uki-profile", menu.profiles,
                  "\"Title: words\" of one more profile of every image, chosen with @N as first word of an "
                  "entry's options (section .profile; stub 257 on); cannot unlock disks; repeatable, for "
                  "example --uki-profile \"Debug: rd.debug\"")
      ->allow_extra_args(false);
  verb.add_option("--unlock-with-extra-cmdline", menu.unlock_with,
                  "Title, words or file name of an extra or single entry that may unlock disks; repeatable")
      ->allow_extra_args(false);
  verb.add_option("--menu-timeout", release.menu_timeout_seconds, "Seconds the boot menu shows")
      ->capture_default_str();
}

void AddKeyOptions(CLI::App& verb, BuildArguments& arguments) {
  build::ReleaseOptions& release = arguments.request.release;
  verb.add_option("-k,--keys", arguments.keys_folder, "Folder written by `sealift keys init`");
  AddTokenOption(verb, arguments.tokens);
  AddJournalOption(verb, arguments.journal);
  AddGenerationOption(verb, arguments.generations);
  AddExpiredOption(verb, arguments.allow_expired);
  verb.add_option(
      "--sign-phase", release.signed_phases,
      "Phase in which disks may be unsealed: '' (before sysinit, the default), sysinit, sysinit:ready");
  verb.add_option("--secure-boot-enroll", release.secure_boot_enroll,
                  "What systemd-boot does with our keys in setup mode: off, manual, if-safe (253 on), force");
  verb.add_flag("--i-verified-these-keys-on-this-hardware", release.keys_verified_on_hardware,
                "Needed for force: option ROMs signed by others stop working");
}

void AddPlaceOptions(CLI::App& verb, BuildArguments& arguments) {
  CLI::Option* there =
      verb.add_flag("--at-controller", arguments.at_controller,
                    "Build where the release token is, by the controller's build service: SOURCE and paths "
                    "are that host's, but for --node-config and --install-config; --output-dir is a plain "
                    "name there, for example "
                    "--at-controller dir:/srv/images/rootfs -d 1.2.0");
  for (const char* local : {"--keys", "--token", "--journal", "--generation", "--allow-expired-certificate"})
    there->excludes(verb.get_option(local));
  verb.add_option("--publish", arguments.request.publish,
                  "Publish the release there in this channel, for example --publish stable")
      ->needs(there);
  verb.add_option("--profile", arguments.profile,
                  "Connection settings (default ~/.config/sealift/profile.toml)")
      ->needs(there);
}

}  // namespace

void AddBuildOptions(CLI::App& verb, BuildArguments& arguments) {
  AddSourceOptions(verb, arguments);
  AddSectionOptions(verb, arguments);
  AddOutputOptions(verb, arguments);
  AddMenuOptions(verb, arguments);
  AddKeyOptions(verb, arguments);
  AddPlaceOptions(verb, arguments);
  verb.add_flag("--preflight-only", arguments.request.preflight_only,
                "Only print what is wrong with the image; needs no keys and no output folder");
  verb.add_option("--allow-finding", arguments.request.release.allowed_findings,
                  "Name of a preflight finding that is meant; repeatable")
      ->allow_extra_args(false);
}

}  // namespace sealift::cli
