#include "node-agent/esp/one_shot.h"

#include <fmt/format.h>

namespace sealift::agent {
namespace {

constexpr std::string_view kOneShot = "LoaderEntryOneShot";
constexpr std::string_view kSelected = "LoaderEntrySelected";

}  // namespace

Result<BootChoice> ReadBootChoice(FileSystem& esp, EfiVariables& variables) {
  BootChoice choice;
  SEALIFT_ASSIGN_OR_RETURN(BootEntries found, LoadBootEntries(esp));
  choice.entries = std::move(found.entries);
  SEALIFT_ASSIGN_OR_RETURN(choice.started, variables.ReadText(kSelected, kLoaderVendor));
  SEALIFT_ASSIGN_OR_RETURN(choice.once, variables.ReadText(kOneShot, kLoaderVendor));
  return choice;
}

Result<RoleEntry> SelectOnce(FileSystem& esp, EfiVariables& variables, BootRole role) {
  SEALIFT_ASSIGN_OR_RETURN(const BootEntries found, LoadBootEntries(esp));
  const RoleEntry* chosen = nullptr;
  for (const RoleEntry& entry : found.entries) {
    if (entry.role != role || !esp.Exists(RelativePath(entry.image_path))) continue;
    if (chosen == nullptr || (chosen->on_trial() && !entry.on_trial())) chosen = &entry;
  }
  if (chosen == nullptr) {
    return MakeError(
        Code::kNotFound, Reason::kBootStateUnknown,
        fmt::format("select entry: none of role {} names an image that is there", BootRoleName(role)));
  }
  SEALIFT_RETURN_IF_ERROR(variables.WriteText(kOneShot, kLoaderVendor, chosen->file_name));
  SEALIFT_ASSIGN_OR_RETURN(const std::string kept, variables.ReadText(kOneShot, kLoaderVendor));
  if (kept != chosen->file_name) {
    return MakeError(Code::kFailedPrecondition, Reason::kFirmwareRefused,
                     fmt::format("select entry '{}': the firmware keeps '{}'", chosen->file_name, kept));
  }
  return *chosen;
}

}  // namespace sealift::agent
