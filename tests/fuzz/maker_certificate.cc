// Certificates as a TPM's NV holds them and machines send them: read, described, and a path searched.
#include "controller/attest/maker_chain.h"

using namespace sealift;

// The input: certificates back to back, each with its size before it (two bytes, big-endian). The first is
// the endorsement key's, every other one helper and anchor.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ByteReader reader(ByteView(data, size), ByteReader::Endian::kBig);
  std::vector<controller::MakerCertificate> certificates;
  while (reader.ok() && !reader.AtEnd() && certificates.size() < 8) {
    const auto read = controller::MakerCertificate::FromDer(reader.Take(reader.U16()));
    if (!read.ok()) continue;
    SEALIFT_CHECK(controller::MakerCertificate::FromDer(read->der()).value() == *read);
    static_cast<void>(read->SerialText());
    static_cast<void>(read->SubjectText());
    static_cast<void>(read->Model());
    static_cast<void>(read->purposes());
    certificates.push_back(*read);
  }
  if (certificates.empty()) return 0;
  const std::span<const controller::MakerCertificate> others = std::span(certificates).subspan(1);
  for (const auto role : {controller::MakerRole::kEndorsementKey, controller::MakerRole::kCa}) {
    const auto path =
        controller::VerifyMakerChain(certificates.front(), others, others, FromUnixMs(1798761600000), role);
    if (path.ok()) SEALIFT_CHECK(path->front() == certificates.front());
  }
  return 0;
}
