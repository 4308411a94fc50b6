#include "node-agent/app/recovery_keys.h"

#include <fmt/format.h>

#include <algorithm>

#include "node-agent/volume/system_volumes.h"
#include "node-agent/volume/unlock.h"

namespace sealift::agent {

Result<std::vector<escrow::EscrowedKey>> VolumeRecoveryKeys::List() { return ReadEscrowedKeys(runtime_); }

Status VolumeRecoveryKeys::DropOthers(const std::string& volume, std::uint32_t keep_slot) {
  Status last = MakeError(Code::kNotFound, Reason::kVolumeMissing,
                          fmt::format("remove old recovery keys: no partition is named '{}'", volume));
  const auto partitions = PartitionsByLabel();
  const auto [first, end] = partitions.equal_range(volume);
  for (auto one = first; one != end; ++one) {
    const auto header = keeper_.ReadHeader(one->second, volume);
    const bool holds_it =
        header.ok() && std::ranges::any_of(header->recoveries, [&](const escrow::EscrowedKey& key) {
          return key.subject.slot == keep_slot;
        });
    if (!holds_it) continue;
    last = keeper_.DropRecovery(one->second, volume, keep_slot);
    if (last.ok()) return last;
  }
  return last;
}

}  // namespace sealift::agent
