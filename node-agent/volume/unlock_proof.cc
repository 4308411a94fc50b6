#include "node-agent/volume/unlock_proof.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "shared/crypto/hash.h"
#include "shared/efi/pe_image.h"
#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sections.h"

namespace sealift::agent {
namespace {

constexpr std::array<std::uint32_t, 3> kSignedPcrs{11, 12, 13};
constexpr std::size_t kGuidBytes = 16;
constexpr std::uint64_t kMaxNameBytes = 512;

Status StaysLocked(std::string_view why) {
  return MakeError(Code::kFailedPrecondition, Reason::kVolumeWouldStayLocked,
                   fmt::format("prove that the image unlocks: {}", why));
}

// UEFI_VARIABLE_DATA (PC Client Platform Firmware Profile 1.05, 10.2.6).
struct Variable {
  Bytes vendor;
  std::string name;
  ByteView data;
};

std::optional<Variable> ParseVariable(const tpm::Event& event) {
  ByteReader reader(event.data, ByteReader::Endian::kLittle);
  const ByteView vendor = reader.Take(kGuidBytes);
  const std::uint64_t name_characters = reader.U64();
  const std::uint64_t data_bytes = reader.U64();
  if (!reader.ok() || name_characters > kMaxNameBytes / 2 || data_bytes > reader.remaining())
    return std::nullopt;
  const ByteView name = reader.Take(name_characters * 2);
  const ByteView data = reader.Take(data_bytes);
  if (!reader.AtEnd()) return std::nullopt;
  return Variable{.vendor = ToBytes(vendor), .name = Utf8FromUtf16Le(name), .data = data};
}

// The digest of the same event with other data.
Sha256Digest WithData(const Variable& variable, ByteView data) {
  const Bytes name = Utf16Le(variable.name);
  ByteWriter writer(ByteWriter::Endian::kLittle);
  writer.Raw(variable.vendor);
  writer.U64(name.size() / 2);
  writer.U64(data.size());
  writer.Raw(name);
  writer.Raw(data);
  return Sha256(writer.bytes());
}

const Bytes* ValueOfNow(const SecureBootNow& now, const std::string& name) {
  if (name == "PK") return &now.pk;
  if (name == "KEK") return &now.kek;
  if (name == "db") return &now.db;
  if (name == "dbx") return &now.dbx;
  return nullptr;
}

Result<Sha256Digest> PredictPcr11Of(const efi::PeImage& image) {
  SEALIFT_ASSIGN_OR_RETURN(const uki::SystemdMagic magic, uki::ReadSystemdMagic(image));
  SEALIFT_ASSIGN_OR_RETURN(const auto measured, uki::MeasuredSections(magic.major));
  const auto sections = uki::SectionsByProfile(image).front();
  std::map<std::string, Sha256Digest> digests;
  for (const std::string_view name : measured) {
    const auto found = sections.find(name);
    // Which of several device trees is taken depends on the machine; those of PCs take none.
    if (found == sections.end() || name == uki::kDeviceTreeAuto) continue;
    SEALIFT_ASSIGN_OR_RETURN(const ByteView content, image.Contents(*found->second));
    if (!content.empty()) digests[std::string(name)] = Sha256(content);
  }
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrPrediction prediction, uki::PredictPcr11(digests, magic.major, ""));
  return prediction.Value();
}

Result<std::string> SectionText(const efi::PeImage& image, std::string_view name) {
  const auto sections = uki::SectionsByProfile(image).front();
  const auto found = sections.find(name);
  if (found == sections.end()) return StaysLocked(fmt::format("it has no {}, so it opens no disk", name));
  SEALIFT_ASSIGN_OR_RETURN(const ByteView content, image.Contents(*found->second));
  return ToText(content);
}

Status CheckVolume(const VolumeHeader& volume, const PublicKey& key, const Sha256Digest& pcr7) {
  const auto refuse = [&](std::string_view why) {
    return StaysLocked(fmt::format("volume '{}' {}", volume.name, why));
  };
  Status refusal = refuse("is bound to another PCR policy key than the image's");
  for (const VolumeBound& bound : volume.bindings) {
    if (!(bound.policy_key == key)) continue;
    if (!std::ranges::equal(bound.signed_pcrs, kSignedPcrs)) {
      refusal = refuse("is bound to other registers than the image signs for");
      continue;
    }
    if (bound.secure_boot.has_value() && *bound.secure_boot != pcr7) {
      refusal = refuse(fmt::format("is bound to PCR 7 = {}, the next boot will have {}",
                                   bound.secure_boot->hex(), pcr7.hex()));
      continue;
    }
    return OkStatus();
  }
  return refusal;
}

}  // namespace

Result<Sha256Digest> PredictNextSecureBoot(const tpm::EventLog& log, const Sha256Digest& pcr7,
                                           const SecureBootNow& now, const Sha256Digest& signer) {
  Sha256Digest logged;
  Sha256Digest next;
  bool known_signer = false;
  for (const tpm::Event* event : log.EventsOf(kSecureBootPcr)) {
    const auto found = event->digests.find(tpm::kAlgSha256);
    if (found == event->digests.end()) return StaysLocked("the event log has no SHA-256 digests");
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, Sha256Digest::FromBytes(found->second));
    logged = uki::ExtendPcr(logged, digest);
    Sha256Digest digest_of_next = digest;
    if (const std::optional<Variable> variable = ParseVariable(*event)) {
      const Bytes* value = ValueOfNow(now, variable->name);
      if (event->type == tpm::kEvEfiVariableDriverConfig && value != nullptr)
        digest_of_next = WithData(*variable, *value);
      // EFI_SIGNATURE_DATA: owner, certificate.
      if (event->type == tpm::kEvEfiVariableAuthority && variable->data.size() > kGuidBytes)
        known_signer = known_signer || Sha256(variable->data.subspan(kGuidBytes)) == signer;
    }
    next = uki::ExtendPcr(next, digest_of_next);
  }
  if (logged != pcr7) return StaysLocked("the firmware's event log does not lead to PCR 7");
  if (!known_signer) {
    return StaysLocked(fmt::format(
        "it is signed by certificate {}, which let nothing pass in this boot, so PCR 7 would change",
        signer.hex()));
  }
  return next;
}

Result<UnlockProof> VerifyWillUnlock(ByteView image, const NextBoot& next,
                                     const std::vector<VolumeHeader>& volumes) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage pe, efi::PeImage::Parse(image));
  SEALIFT_ASSIGN_OR_RETURN(const std::string pem, SectionText(pe, uki::kPcrPublicKey));
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, SectionText(pe, uki::kPcrSignature));
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey key, PublicKey::FromPem(pem));
  SEALIFT_ASSIGN_OR_RETURN(const uki::PcrSignatures signatures, uki::ParsePcrSignatures(text));
  UnlockProof proof;
  SEALIFT_ASSIGN_OR_RETURN(proof.pcr11, PredictPcr11Of(pe));
  proof.policy = uki::PcrPolicyDigest({{11, proof.pcr11}, {12, next.pcr12}, {13, next.pcr13}});
  for (const VolumeHeader& volume : volumes) SEALIFT_RETURN_IF_ERROR(CheckVolume(volume, key, next.pcr7));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest fingerprint, key.Pkcs1Fingerprint());
  const auto bank = signatures.find("sha256");
  if (bank != signatures.end()) {
    for (const uki::PcrSignature& entry : bank->second) {
      if (!std::ranges::equal(entry.pcrs, kSignedPcrs) || entry.policy != proof.policy ||
          entry.key_fingerprint != fingerprint)
        continue;
      if (!uki::CheckPcrSignature("sha256", entry, key).ok())
        return StaysLocked("its signature for the next boot's registers does not verify");
      return proof;
    }
  }
  return StaysLocked(
      fmt::format("it has no signature for PCR 11 = {}, PCR 12 = {}, PCR 13 = {} before sysinit",
                  proof.pcr11.hex(), next.pcr12.hex(), next.pcr13.hex()));
}

}  // namespace sealift::agent
