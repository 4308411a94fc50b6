#include "node-agent/order/epoch_book.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "node-agent/esp/boot_entries.h"
#include "shared/base/files.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kMaxBookBytes = 64u << 10;
constexpr std::size_t kMaxImages = 64;

}  // namespace

void EpochBook::Load() {
  if (loaded_ || !mounted_()) return;
  loaded_ = true;
  const auto text = ReadTextFile(file_, kMaxBookBytes);
  if (!text.ok()) return;
  const auto book = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!book.is_object() || book.size() > kMaxImages) return;
  for (const auto& [image, epoch] : book.items())
    if (epoch.is_number_unsigned()) by_image_.emplace(image, epoch.get<std::uint64_t>());
}

Status EpochBook::Note(const BootInventory& inventory, std::uint64_t epoch) {
  Load();
  if (!mounted_()) return OkStatus();
  const auto before = by_image_;
  std::erase_if(by_image_, [&](const auto& one) {
    return std::ranges::none_of(
        inventory.entries, [&](const RoleEntry& entry) { return LowerCase(entry.image_path) == one.first; });
  });
  by_image_[LowerCase(inventory.running_image_path)] = epoch;
  if (by_image_ == before) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(file_.parent_path(), 0700));
  return WriteFileAtomically(file_, AsBytes(nlohmann::json(by_image_).dump()), 0600);
}

std::uint64_t EpochBook::EpochOf(const BootInventory& inventory, BootRole role) const {
  for (const RoleEntry& entry : inventory.entries) {
    if (entry.role != role || entry.on_trial()) continue;
    const auto found = by_image_.find(LowerCase(entry.image_path));
    return found == by_image_.end() ? 0 : found->second;
  }
  return 0;
}

Status EpochBook::CheckRaise(const BootInventory& inventory, std::uint64_t epoch) const {
  if (inventory.running_on_trial || inventory.Trial() != nullptr) {
    return MakeError(Code::kFailedPrecondition, Reason::kBootNotBlessed,
                     fmt::format("raise epoch to {}: an image is on trial", epoch));
  }
  for (const RoleEntry& entry : inventory.entries) {
    if (entry.role == BootRole::kMedia || entry.role == BootRole::kUnknown) continue;
    const auto found = by_image_.find(LowerCase(entry.image_path));
    const std::uint64_t known = found == by_image_.end() ? 0 : found->second;
    if (known >= epoch) continue;
    return MakeError(
        Code::kFailedPrecondition, Reason::kEpochTooLow,
        fmt::format("raise epoch to {}: {} boots {}, which is {}", epoch, entry.file_name, entry.version,
                    known == 0 ? std::string("of an epoch this machine has not seen")
                               : fmt::format("of epoch {}", known)));
  }
  return OkStatus();
}

}  // namespace sealift::agent
