// The firmware's event log, as a machine sends it.
#include "shared/tpm/event_log.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto log = tpm::EventLog::Parse(ByteView(data, size));
  if (!log.ok()) return 0;
  std::size_t extended = 0;
  for (const auto& [pcr, value] : log->Replay()) extended += log->EventsOf(pcr).size();
  SEALIFT_CHECK(extended <= log->events().size());
  for (const tpm::Event& event : log->events()) {
    const std::string text = tpm::DescribeEvent(event);
    SEALIFT_CHECK(text.size() < 400);
    for (const char c : text) SEALIFT_CHECK(c >= ' ' && c <= '~');
    static_cast<void>(tpm::DataMatchesDigest(event));
  }
  return 0;
}
