#include <fmt/format.h>

#include <array>

#include "node-agent/health/health_check.h"
#include "shared/efi/pe_image.h"
#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sections.h"

namespace sealift::agent {
namespace {

constexpr std::uint32_t kPcr = 11;
// In the order they are extended; the last one is what a running system shows.
constexpr std::array<std::string_view, 3> kPhases = {"", "sysinit", "sysinit:ready"};

class PhaseProbe final : public Probe {
 public:
  PhaseProbe(Tpm& tpm, std::function<Result<Bytes>()> read_image)
      : tpm_(tpm), read_image_(std::move(read_image)) {}

  Status Check() override {
    SEALIFT_RETURN_IF_ERROR(Predict());
    const std::array<std::uint32_t, 1> wanted = {kPcr};
    SEALIFT_ASSIGN_OR_RETURN(const tpm::PcrValues values, tpm_.ReadPcrs(wanted));
    const Sha256Digest& found = values.at(kPcr);
    if (found == predicted_.back()) return OkStatus();
    for (std::size_t i = 0; i + 1 < kPhases.size(); ++i) {
      if (found != predicted_[i]) continue;
      return Missing(fmt::format("it is the value of phase '{}', not of '{}'", kPhases[i], kPhases.back()));
    }
    return Missing(fmt::format("{} is no value of this image's phases", found.hex()));
  }

 private:
  static Status Missing(std::string_view why) {
    return MakeError(Code::kFailedPrecondition, Reason::kPhaseMissing, fmt::format("check PCR 11: {}", why));
  }

  Status Predict() {
    if (!predicted_.empty()) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, read_image_());
    SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage image, efi::PeImage::Parse(bytes));
    SEALIFT_ASSIGN_OR_RETURN(const uki::SystemdMagic stub, uki::ReadSystemdMagic(image));
    SEALIFT_ASSIGN_OR_RETURN(const auto sections, uki::DigestMeasuredSections(image, stub.major));
    std::vector<Sha256Digest> predicted;
    for (const std::string_view phase : kPhases) {
      SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction prediction,
                               uki::PredictPcr11(sections, stub.major, phase));
      predicted.push_back(prediction.Value());
    }
    predicted_ = std::move(predicted);
    return OkStatus();
  }

  Tpm& tpm_;
  std::function<Result<Bytes>()> read_image_;
  std::vector<Sha256Digest> predicted_;
};

}  // namespace

std::unique_ptr<Probe> MakePhaseProbe(Tpm& tpm, std::function<Result<Bytes>()> read_image) {
  return std::make_unique<PhaseProbe>(tpm, std::move(read_image));
}

}  // namespace sealift::agent
