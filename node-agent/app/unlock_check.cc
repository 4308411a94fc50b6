#include "node-agent/app/unlock_check.h"

#include <array>

#include "node-agent/volume/unlock.h"
#include "node-agent/volume/unlock_proof.h"
#include "shared/base/log.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/signature_list.h"
#include "shared/uki/pcr_prediction.h"

namespace sealift::agent {
namespace {

constexpr std::uint64_t kMaxImageBytes = 1ull << 30;

Result<Bytes> ReadVariable(EfiVariables& variables, std::string_view name, std::string_view vendor) {
  SEALIFT_ASSIGN_OR_RETURN(std::optional<Bytes> value, variables.Read(name, vendor));
  return value.has_value() ? *std::move(value) : Bytes();
}

Result<SecureBootNow> ReadSecureBoot(EfiVariables& variables) {
  SecureBootNow now;
  SEALIFT_ASSIGN_OR_RETURN(now.pk, ReadVariable(variables, "PK", kGlobalVendor));
  SEALIFT_ASSIGN_OR_RETURN(now.kek, ReadVariable(variables, "KEK", kGlobalVendor));
  SEALIFT_ASSIGN_OR_RETURN(now.db, ReadVariable(variables, "db", kImageSecurityVendor));
  SEALIFT_ASSIGN_OR_RETURN(now.dbx, ReadVariable(variables, "dbx", kImageSecurityVendor));
  return now;
}

}  // namespace

Status MachineUnlockCheck::WillUnlock(const StagedImage& image, const NextEvents& events) {
  // An early boot of an image with encrypted volumes always leaves word: without it nothing can be proven.
  const Result<std::vector<OpenVolume>> open = ReadOpenVolumes(places_.runtime);
  if (!open.ok()) {
    return MakeError(Code::kFailedPrecondition, Reason::kVolumeWouldStayLocked,
                     "prove that the image will unlock: " + MessageOf(open.status()));
  }
  std::vector<VolumeHeader> volumes;
  for (const OpenVolume& one : *open) volumes.push_back(one.header);
  if (volumes.empty()) {
    log::Warning("the TPM opened no volume in this boot: nothing to prove for the next",
                 {{"version", image.version()}});
    return OkStatus();
  }
  const std::filesystem::path file = places_.esp / std::filesystem::path(image.image_path()).relative_path();
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadRegularFile(file, kMaxImageBytes));
  SEALIFT_ASSIGN_OR_RETURN(const SecureBootNow now, ReadSecureBoot(variables_));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists db, efi::ParseSignatureLists(now.db));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists dbx, efi::ParseSignatureLists(now.dbx));
  SEALIFT_ASSIGN_OR_RETURN(const efi::AuthorisedImage authorised, efi::VerifyImage(bytes, db, dbx));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes log_bytes, ReadEventLog(places_.event_log));
  SEALIFT_ASSIGN_OR_RETURN(const tpm::EventLog log, tpm::EventLog::Parse(log_bytes));
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PcrValues registers, tpm_.ReadPcrs(std::array{kSecureBootPcr}));
  NextBoot next;
  if (events.pcr12.has_value()) next.pcr12 = uki::ExtendPcr({}, *events.pcr12);
  if (events.pcr13.has_value()) next.pcr13 = uki::ExtendPcr({}, *events.pcr13);
  SEALIFT_ASSIGN_OR_RETURN(next.pcr7, PredictNextSecureBoot(log, registers.at(kSecureBootPcr), now,
                                                            Sha256(authorised.authority.data)));
  return VerifyWillUnlock(bytes, next, volumes).status();
}

}  // namespace sealift::agent
