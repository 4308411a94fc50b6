// Requests as a hostile node or operator may shape them. The first byte chooses which; the rest is the
// message.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>

#include "controller/api/convert.h"
#include "controller/fleet/rollout.h"

using namespace sealift;
using namespace sealift::controller;

namespace {

void CheckIn(const std::string& bytes) {
  v1::CheckInRequest request;
  if (!request.ParseFromString(bytes)) return;
  const Result<NodeStatus> status = StatusFromProto(request);
  if (!status.ok()) return;
  SEALIFT_CHECK(status->failures.size() <= 32 && status->running.boot_id.size() <= 64);
  SEALIFT_CHECK(status->running.version.empty() || IsValidVersion(status->running.version));
}

void Quote(const std::string& bytes) {
  v1::Quote quote;
  if (!quote.ParseFromString(bytes)) return;
  const Result<AttestationEvidence> evidence = EvidenceFromProto(quote);
  if (evidence.ok()) SEALIFT_CHECK(evidence->pcrs.size() <= 24 && evidence->attest.size() <= 4096);
}

// What is accepted has one canonical form.
void Labels(const std::string& text) {
  const Result<Selector> selector = Selector::Parse(text);
  if (!selector.ok()) return;
  const Result<Selector> again = Selector::Parse(selector->text());
  SEALIFT_CHECK(again.ok() && again->pairs() == selector->pairs());
  SEALIFT_CHECK(CheckLabels(selector->pairs()).ok() && selector->Matches(selector->pairs()));
}

// Waves that are accepted hold each node once.
void Waves(const std::string& text) {
  std::vector<std::string> sizes;
  for (std::size_t at = 0; at <= text.size() && sizes.size() < 40;) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    sizes.push_back(text.substr(at, comma - at));
    at = comma + 1;
  }
  std::vector<NodeId> nodes;
  for (char digit = '0'; digit <= '9'; ++digit) {
    nodes.push_back(NodeId::Parse(std::string("01890000-0000-7000-8000-00000000000") + digit).value());
  }
  const Result<std::vector<Wave>> waves = CutWaves(sizes, nodes);
  if (!waves.ok()) return;
  std::size_t count = 0;
  for (const Wave& wave : *waves) count += wave.nodes.size();
  SEALIFT_CHECK(count == nodes.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Its word on each string that is no UTF-8 would drown everything else.
  [[maybe_unused]] static const auto quiet = google::protobuf::SetLogHandler(nullptr);
  if (size == 0) return 0;
  const std::string rest = ToText(ByteView(data, size).subspan(1));
  switch (data[0] % 4) {
    case 0:
      CheckIn(rest);
      break;
    case 1:
      Quote(rest);
      break;
    case 2:
      Labels(rest);
      break;
    default:
      Waves(rest);
      break;
  }
  return 0;
}
