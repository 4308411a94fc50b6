#include "controller/buildhost/build_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace sealift::controller {
namespace {

// A failing kernel reboots by itself, so that boot counting moves on to the previous image.
constexpr char kDefaultCommandLine[] = "console=tty1 console=ttyS0 panic=5 systemd.crash_reboot=yes";
constexpr std::array<std::string_view, 3> kTypes = {"uki", "iso", "container"};
constexpr std::uint64_t kMaxMebibytes = 1u << 20;
constexpr std::size_t kMaxTextBytes = 4096;
constexpr int kMaxRepeated = 256;
constexpr std::int64_t kMaxUnixMs = 253'402'300'799'000;

Status Invalid(std::string_view field, std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("read build request: {} {}", field, why));
}

// Whatever fields there are and will be.
Status CheckTexts(const v1::BuildRequest& wire) {
  const google::protobuf::Reflection* reflection = wire.GetReflection();
  const google::protobuf::Descriptor* message = wire.GetDescriptor();
  std::string scratch;
  for (int i = 0; i < message->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = message->field(i);
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_STRING) continue;
    const std::size_t limit = field->name() == "node_config" || field->name() == "install_config"
                                  ? kMaxNodeConfigBytes
                                  : kMaxTextBytes;
    const int count = field->is_repeated() ? reflection->FieldSize(wire, field) : 1;
    if (count > kMaxRepeated) return Invalid(field->name(), "has too many values");
    for (int k = 0; k < count; ++k) {
      const std::string& text = field->is_repeated()
                                    ? reflection->GetRepeatedStringReference(wire, field, k, &scratch)
                                    : reflection->GetStringReference(wire, field, &scratch);
      if (text.size() > limit) return Invalid(field->name(), "is too long");
      if (text.find('\0') != std::string::npos) return Invalid(field->name(), "holds a NUL");
    }
  }
  return OkStatus();
}

template <typename To, typename From>
void Copy(const From& from, To& to) {
  to = To(from.begin(), from.end());
}

}  // namespace

BuildRequest::BuildRequest() { release.command_line = kDefaultCommandLine; }

Status CheckBuildRequest(const BuildRequest& request) {
  if (std::find(kTypes.begin(), kTypes.end(), request.type) == kTypes.end())
    return Invalid("output type", "is not uki, iso or container");
  if (request.release.source.empty()) return Invalid("source", "is missing");
  if (request.type == "uki" && !(request.name.empty() && request.overlay_iso.empty()))
    return Invalid("--name and --overlay-iso", "are for -t iso and -t container");
  if (request.parts_from_source && !(request.release.stub.empty() && request.release.boot_loader.empty()))
    return Invalid("--sdboot-in-source", "excludes --stub and --sdboot");
  if (!request.publish.empty() && (request.type != "uki" || request.preflight_only))
    return Invalid("--publish", "is for -t uki, whose files are what nodes fetch");
  if (request.efi_size_warn > kMaxMebibytes || request.esp_size > kMaxMebibytes)
    return Invalid("--efi-size-warn and --esp-size", "are MiB, 1048576 at most");
  return OkStatus();
}

void ForEachInputPath(BuildRequest& request,
                      const std::function<void(std::string_view, std::filesystem::path&)>& visit) {
  build::ReleaseOptions& release = request.release;
  visit("overlay_iso", request.overlay_iso);
  visit("stub", release.stub);
  visit("sdboot", release.boot_loader);
  visit("overlay_rootfs", release.overlay);
  for (std::filesystem::path& extension : release.extensions) visit("extension", extension);
  visit("splash", release.splash);
  visit("kernel", release.kernel);
  visit("with_agent", release.agent_deb);
  visit("microcode", release.sections.microcode);
  visit("dtb", release.sections.device_tree);
  for (std::filesystem::path& tree : release.sections.device_trees_auto) visit("dtb_auto", tree);
  visit("hwids", release.sections.hardware_ids);
  visit("sbat", release.sections.sbat);
}

v1::BuildRequest ToWire(const BuildRequest& request) {
  const build::ReleaseOptions& release = request.release;
  const build::MenuOptions& menu = release.menu;
  v1::BuildRequest wire;
  wire.set_source(release.source);
  wire.set_stub(release.stub.string());
  wire.set_sdboot(release.boot_loader.string());
  wire.set_sdboot_in_source(request.parts_from_source);
  wire.set_overlay_rootfs(release.overlay.string());
  for (const auto& extension : release.extensions) wire.add_extension(extension.string());
  wire.set_splash(release.splash.string());
  wire.set_kernel(release.kernel.string());
  wire.set_with_agent(release.agent_deb.string());
  wire.set_node_config(release.node_config.value_or(""));
  wire.set_install_config(release.install_config.value_or(""));
  wire.set_version(release.version);
  wire.set_zstd_level(static_cast<std::uint32_t>(release.zstd_level));
  wire.set_microcode(release.sections.microcode.string());
  wire.set_dtb(release.sections.device_tree.string());
  for (const auto& tree : release.sections.device_trees_auto) wire.add_dtb_auto(tree.string());
  wire.set_hwids(release.sections.hardware_ids.string());
  wire.set_sbat(release.sections.sbat.string());
  wire.set_sha384(release.sha384);
  wire.set_output_type(request.type);
  wire.set_output_dir(request.out.string());
  wire.set_name(request.name);
  wire.set_overlay_iso(request.overlay_iso.string());
  wire.set_efi_size_warn(request.efi_size_warn);
  wire.set_esp_size(request.esp_size);
  wire.set_boot_branding(menu.branding);
  wire.set_include_version_in_config(menu.include_version);
  wire.set_include_cmdline_in_config(menu.include_command_line);
  wire.set_cmdline(release.command_line);
  wire.set_extend_cmdline(menu.extend);
  for (const std::string& words : menu.extra) wire.add_extra_cmdline(words);
  for (const std::string& words : menu.single) wire.add_single_efi_cmdline(words);
  for (const std::string& text : menu.profiles) wire.add_uki_profile(text);
  for (const std::string& name : menu.unlock_with) wire.add_unlock_with_extra_cmdline(name);
  wire.set_menu_timeout(release.menu_timeout_seconds);
  for (const std::string& phase : release.signed_phases) wire.add_sign_phase(phase);
  wire.set_secure_boot_enroll(release.secure_boot_enroll);
  wire.set_i_verified_these_keys_on_this_hardware(release.keys_verified_on_hardware);
  wire.set_preflight_only(request.preflight_only);
  for (const std::string& name : release.allowed_findings) wire.add_allow_finding(name);
  wire.set_publish(request.publish);
  wire.set_security_epoch(release.security_epoch);
  wire.set_built_unix_ms(ToUnixMs(release.built));
  return wire;
}

Result<BuildRequest> BuildRequestFromWire(const v1::BuildRequest& wire) {
  SEALIFT_RETURN_IF_ERROR(CheckTexts(wire));
  if (wire.has_zstd_level() && wire.zstd_level() > 19) return Invalid("zstd_level", "is above 19");
  if (wire.built_unix_ms() < 0 || wire.built_unix_ms() > kMaxUnixMs)
    return Invalid("built_unix_ms", "is no time of this calendar");
  BuildRequest request;
  build::ReleaseOptions& release = request.release;
  build::MenuOptions& menu = release.menu;
  release.source = wire.source();
  release.stub = wire.stub();
  release.boot_loader = wire.sdboot();
  request.parts_from_source = wire.sdboot_in_source();
  release.overlay = wire.overlay_rootfs();
  Copy(wire.extension(), release.extensions);
  release.splash = wire.splash();
  release.kernel = wire.kernel();
  release.agent_deb = wire.with_agent();
  if (!wire.node_config().empty()) release.node_config = wire.node_config();
  if (!wire.install_config().empty()) release.install_config = wire.install_config();
  release.version = wire.version();
  if (wire.has_zstd_level()) release.zstd_level = static_cast<int>(wire.zstd_level());
  release.sections.microcode = wire.microcode();
  release.sections.device_tree = wire.dtb();
  Copy(wire.dtb_auto(), release.sections.device_trees_auto);
  release.sections.hardware_ids = wire.hwids();
  release.sections.sbat = wire.sbat();
  release.sha384 = wire.sha384();
  if (!wire.output_type().empty()) request.type = wire.output_type();
  request.out = wire.output_dir();
  request.name = wire.name();
  request.overlay_iso = wire.overlay_iso();
  if (wire.has_efi_size_warn()) request.efi_size_warn = wire.efi_size_warn();
  if (wire.has_esp_size()) request.esp_size = wire.esp_size();
  if (wire.has_boot_branding()) menu.branding = wire.boot_branding();
  menu.include_version = wire.include_version_in_config();
  menu.include_command_line = wire.include_cmdline_in_config();
  if (wire.has_cmdline()) release.command_line = wire.cmdline();
  menu.extend = wire.extend_cmdline();
  Copy(wire.extra_cmdline(), menu.extra);
  Copy(wire.single_efi_cmdline(), menu.single);
  Copy(wire.uki_profile(), menu.profiles);
  Copy(wire.unlock_with_extra_cmdline(), menu.unlock_with);
  if (wire.has_menu_timeout()) release.menu_timeout_seconds = wire.menu_timeout();
  if (!wire.sign_phase().empty()) Copy(wire.sign_phase(), release.signed_phases);
  release.secure_boot_enroll = wire.secure_boot_enroll();
  release.keys_verified_on_hardware = wire.i_verified_these_keys_on_this_hardware();
  request.preflight_only = wire.preflight_only();
  Copy(wire.allow_finding(), release.allowed_findings);
  request.publish = wire.publish();
  release.security_epoch = wire.security_epoch();
  release.built = FromUnixMs(wire.built_unix_ms());
  SEALIFT_RETURN_IF_ERROR(CheckBuildRequest(request));
  return request;
}

}  // namespace sealift::controller
