#include "node-agent/app/boot_entry_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "node-agent/esp/one_shot.h"

namespace sealift::agent {
namespace {

std::string TriesText(const RoleEntry& entry) {
  if (!entry.tries_left) return "blessed";
  return fmt::format("on trial, {} left", *entry.tries_left);
}

}  // namespace

Result<std::string> RunBootEntry(const Settings& settings, const std::string& select, bool json) {
  PosixFileSystem esp(settings.esp);
  EfivarfsVariables variables(settings.efivars);
  if (!select.empty()) SEALIFT_RETURN_IF_ERROR(SelectOnce(esp, variables, RoleOfId(select)).status());
  SEALIFT_ASSIGN_OR_RETURN(const BootChoice choice, ReadBootChoice(esp, variables));
  nlohmann::ordered_json entries = nlohmann::ordered_json::array();
  std::string text;
  for (const RoleEntry& entry : choice.entries) {
    const bool started = entry.file_name == choice.started;
    const bool once = entry.file_name == choice.once;
    entries.push_back({{"entry", entry.file_name},
                       {"role", BootRoleName(entry.role)},
                       {"version", entry.version},
                       {"image", entry.image_path},
                       {"tries_left", entry.tries_left ? nlohmann::ordered_json(*entry.tries_left)
                                                       : nlohmann::ordered_json()},
                       {"started", started},
                       {"next_boot", once}});
    text +=
        fmt::format("{:<24} {:<9} {:<14} {}{}{}\n", entry.file_name, BootRoleName(entry.role), entry.version,
                    TriesText(entry), started ? ", runs now" : "", once ? ", NEXT BOOT" : "");
  }
  if (!json) return text.empty() ? "no entries\n" : text;
  return nlohmann::ordered_json{{"entries", entries}, {"started", choice.started}, {"next_boot", choice.once}}
             .dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
         "\n";
}

}  // namespace sealift::agent
