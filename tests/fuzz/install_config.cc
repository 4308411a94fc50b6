// An install configuration, as anybody may have left it on a medium: it is parsed after its signature was
// checked, but --dry-run reads others too.
#include "shared/install/install_config.h"

#include "node-agent/install/install_plan.h"
#include "shared/base/bytes.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = AsText(ByteView(data, size));
  const auto config = ParseInstallConfig(text);
  if (!config.ok()) return 0;
  agent::PlanInputs inputs;
  inputs.disks.push_back({.path = "/dev/vda", .bytes = 64ull << 30});
  const auto plan = agent::MakePlan(*config, inputs);
  if (!plan.ok()) return 0;
  std::uint64_t at = 0;
  for (const agent::PlannedPartition& part : plan->partitions) {
    SEALIFT_CHECK(part.start >= at && part.bytes > 0);
    at = part.start + part.bytes;
  }
  SEALIFT_CHECK(at < plan->disk.bytes);
  return 0;
}
