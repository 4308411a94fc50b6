#include "node-agent/volume/volume_keeper.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <array>

#include "node-agent/volume/key_derivation.h"
#include "node-agent/volume/luks_header.h"
#include "node-agent/volume/volume_token.h"
#include "shared/crypto/hash.h"
#include "shared/escrow/recovery_key.h"

namespace sealift::agent {
namespace {

constexpr std::string_view kPurpose = "sealift volume";
constexpr std::string_view kPassphrasePurpose = "passphrase";
constexpr std::size_t kSecretBytes = 32;
constexpr std::uint8_t kPayloadFormat = 1;
// A LUKS2 header has room for about that many.
constexpr std::size_t kMaxSealedTokens = 5;
constexpr std::array<std::uint32_t, 3> kSignedPcrs{11, 12, 13};

Status Refuse(Reason reason, const std::filesystem::path& device, std::string_view why) {
  return MakeError(Code::kFailedPrecondition, reason,
                   fmt::format("open volume {}: {}", device.string(), why));
}

// format | secret | epoch base.
SecretBytes Payload(const SecretBytes& secret, std::uint64_t epoch_base) {
  ByteWriter base(ByteWriter::Endian::kBig);
  base.U64(epoch_base);
  Bytes payload;
  // In one piece from the start, so that no outgrown copy of the secret is left behind.
  payload.reserve(1 + secret.size() + base.size());
  payload.push_back(kPayloadFormat);
  Append(payload, secret.ExposeSecret());
  Append(payload, base.bytes());
  return SecretBytes(std::move(payload));
}

std::vector<SealedToken> SealedTokens(const LuksHeader& header) {
  std::vector<SealedToken> tokens;
  for (const LuksHeader::Token& token : header.Tokens(kSealedTokenType)) {
    Result<SealedToken> parsed = ParseSealedToken(token.json);
    if (parsed.ok()) tokens.push_back(*std::move(parsed));
  }
  return tokens;
}

struct NumberedRecovery {
  int number = 0;
  RecoveryToken token;
};

std::vector<NumberedRecovery> RecoveryTokens(const LuksHeader& header) {
  std::vector<NumberedRecovery> tokens;
  for (const LuksHeader::Token& token : header.Tokens(kRecoveryTokenType)) {
    Result<RecoveryToken> parsed = ParseRecoveryToken(token.json);
    if (parsed.ok()) tokens.push_back({.number = token.number, .token = *std::move(parsed)});
  }
  std::ranges::sort(tokens, {}, [](const NumberedRecovery& one) { return one.token.slot; });
  return tokens;
}

Status CheckName(const std::filesystem::path& device, const std::string& name,
                 const std::vector<SealedToken>& tokens) {
  if (tokens.empty()) return Refuse(Reason::kVolumeForeign, device, "it has no token of this agent");
  for (const SealedToken& token : tokens) {
    if (token.volume != name)
      return Refuse(Reason::kVolumeForeign, device,
                    fmt::format("it is volume '{}' and not '{}'", token.volume, name));
  }
  return OkStatus();
}

// Whether the token's policy demands all that this image demands.
Status CheckStrength(const std::filesystem::path& device, const SealPolicy& policy, bool bind_secure_boot) {
  const bool bound = policy.literal.size() == 1 && policy.literal.contains(kSecureBootPcr);
  if (!std::ranges::equal(policy.signed_pcrs, kSignedPcrs) ||
      !(bound || (policy.literal.empty() && !bind_secure_boot)))
    return Refuse(Reason::kVolumeForeign, device, "its token asks the TPM for less than this image does");
  return OkStatus();
}

// The image's signature for the registers of now.
Result<SignedPcrs> Approval(const std::filesystem::path& device, const RunningImage& image,
                            const tpm::PcrValues& registers) {
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest fingerprint, image.policy_key.Pkcs1Fingerprint());
  std::map<unsigned, Sha256Digest> moving;
  for (const std::uint32_t pcr : kSignedPcrs) moving[pcr] = registers.at(pcr);
  const Sha256Digest policy = uki::PcrPolicyDigest(moving);
  const auto bank = image.signatures.find("sha256");
  if (bank != image.signatures.end()) {
    for (const uki::PcrSignature& entry : bank->second) {
      if (entry.policy == policy && entry.key_fingerprint == fingerprint &&
          std::ranges::equal(entry.pcrs, kSignedPcrs))
        return SignedPcrs{.policy = entry.policy, .signature = entry.signature};
    }
  }
  return Refuse(
      Reason::kVolumeLocked, device,
      fmt::format("the image has no signature for PCR 11 = {}, PCR 12 = {} (credentials and options "
                  "beside it), PCR 13 = {} (extensions beside it)",
                  moving[11].hex(), moving[12].hex(), moving[13].hex()));
}

bool SameDigest(const Sha256Digest& a, const Sha256Digest& b) {
  return CRYPTO_memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0;
}

}  // namespace

Result<MadeVolume> VolumeKeeper::Make(const VolumeSpec& spec, const MakeOptions& options) {
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, LuksHeader::Format(spec.device, spec.name));
  const SecretBytes secret(RandomBytes(kSecretBytes));
  const SecretBytes passphrase = DeriveKey(secret.ExposeSecret(), kPassphrasePurpose);
  SEALIFT_ASSIGN_OR_RETURN(const std::uint32_t slot, header.AddSlot(passphrase, nullptr));
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes volume_key,
                           header.VolumeKey(passphrase, static_cast<int>(slot)));
  const Sha256Digest tag =
      VolumeTag(secret.ExposeSecret(), spec.name, header.uuid(), kVolumeCipher, volume_key);
  SEALIFT_RETURN_IF_ERROR(
      AddBinding(header, spec.name, options.binding, slot, Payload(secret, options.epoch_base), tag));
  MadeVolume made{
      .facts = {.name = spec.name, .luks_uuid = header.uuid(), .device = spec.device, .mapped = {}},
      .recovery = {}};
  SEALIFT_ASSIGN_OR_RETURN(made.recovery, AddRecoverySlot(header, spec.name, volume_key, options.escrow));
  SEALIFT_ASSIGN_OR_RETURN(made.facts.mapped, parts_.mapper.Map(spec.device, spec.name, volume_key));
  SEALIFT_RETURN_IF_ERROR(parts_.mounts.MakeFileSystem(made.facts.mapped, spec.fs_type, spec.fs_label));
  return made;
}

Status VolumeKeeper::AddBinding(LuksHeader& header, const std::string& name, const VolumeBinding& binding,
                                std::uint32_t slot, const SecretBytes& payload, const Sha256Digest& tag) {
  SealedToken token{
      .slot = slot,
      .volume = name,
      .policy = {.policy_key = binding.policy_key, .signed_pcrs = binding.signed_pcrs, .literal = {}},
      .object = {},
      .tag = tag};
  if (binding.bind_secure_boot) {
    SEALIFT_ASSIGN_OR_RETURN(token.policy.literal, parts_.vault.ReadPcrs(std::array{kSecureBootPcr}));
  }
  SEALIFT_ASSIGN_OR_RETURN(token.object, parts_.vault.Seal(payload, token.policy, kPurpose));
  return header.SetToken(-1, FormatSealedToken(token));
}

Result<escrow::EscrowedKey> VolumeKeeper::AddRecoverySlot(LuksHeader& header, const std::string& name,
                                                          const SecretBytes& volume_key, const EscrowTo& to) {
  const SecretBytes recovery = escrow::MakeRecoveryKey();
  SEALIFT_ASSIGN_OR_RETURN(const std::uint32_t slot, header.AddSlot(recovery, &volume_key));
  const escrow::Subject subject{
      .ek_digest = to.ek_digest, .volume = name, .luks_uuid = header.uuid(), .slot = slot};
  SEALIFT_ASSIGN_OR_RETURN(escrow::EscrowedKey escrowed, escrow::Escrow(recovery, subject, to.key, to.oaep));
  SEALIFT_RETURN_IF_ERROR(header.SetToken(-1, FormatRecoveryToken({.slot = slot, .escrowed = escrowed})));
  return escrowed;
}

Result<VolumeHeader> VolumeKeeper::ReadHeader(const std::filesystem::path& device, const std::string& name) {
  SEALIFT_ASSIGN_OR_RETURN(const LuksHeader header, LuksHeader::Load(device));
  const std::vector<SealedToken> tokens = SealedTokens(header);
  SEALIFT_RETURN_IF_ERROR(CheckName(device, name, tokens));
  VolumeHeader read{.name = name, .luks_uuid = header.uuid(), .bindings = {}, .recoveries = {}};
  for (const SealedToken& token : tokens) {
    VolumeBound bound{.policy_key = token.policy.policy_key,
                      .signed_pcrs = token.policy.signed_pcrs,
                      .secure_boot = std::nullopt};
    if (const auto found = token.policy.literal.find(kSecureBootPcr); found != token.policy.literal.end())
      bound.secure_boot = found->second;
    read.bindings.push_back(std::move(bound));
  }
  for (NumberedRecovery& recovery : RecoveryTokens(header))
    read.recoveries.push_back(std::move(recovery.token.escrowed));
  return read;
}

Result<UnsealedVolume> VolumeKeeper::Unseal(const std::filesystem::path& device, const std::string& name,
                                            const RunningImage& image) {
  UnsealedVolume volume;
  volume.device_ = device;
  SEALIFT_ASSIGN_OR_RETURN(volume.header_, ReadHeader(device, name));
  SEALIFT_ASSIGN_OR_RETURN(const LuksHeader header, LuksHeader::Load(device));
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PcrValues registers,
                           parts_.vault.ReadPcrs(std::array<std::uint32_t, 4>{7, 11, 12, 13}));
  Status refusal =
      Refuse(Reason::kVolumeLocked, device, "it is bound to another PCR policy key than this image's");
  for (const SealedToken& token : SealedTokens(header)) {
    if (token.volume != name || !(token.policy.policy_key == image.policy_key)) continue;
    refusal = CheckStrength(device, token.policy, image.bind_secure_boot);
    if (!refusal.ok()) continue;
    const Result<SignedPcrs> approval = Approval(device, image, registers);
    if (!approval.ok()) return approval.status();
    Result<Unsealed> unsealed = parts_.vault.Unseal(token.object, token.policy, *approval, kPurpose);
    if (!unsealed.ok()) {
      refusal = Annotate(unsealed.status(), fmt::format("open volume {}", device.string()));
      continue;
    }
    if (!token.policy.literal.empty() && unsealed->made_at != Sha256(registers.at(kSecureBootPcr).view())) {
      refusal = Refuse(Reason::kVolumeForeign, device,
                       "its secret was sealed while the firmware was in another Secure Boot state");
      continue;
    }
    ByteReader reader(unsealed->secret.ExposeSecret(), ByteReader::Endian::kBig);
    const std::uint8_t format = reader.U8();
    const ByteView secret = reader.Take(kSecretBytes);
    volume.epoch_base_ = reader.U64();
    if (!reader.AtEnd() || format != kPayloadFormat) {
      refusal = Refuse(Reason::kVolumeForeign, device, "what was sealed for it is of another format");
      continue;
    }
    volume.secret_ = SecretBytes(secret);
    volume.slot_ = token.slot;
    volume.tag_ = token.tag;
    return volume;
  }
  return refusal;
}

Result<SecretBytes> VolumeKeeper::ProvenKey(const UnsealedVolume& volume) {
  SEALIFT_ASSIGN_OR_RETURN(const LuksHeader header, LuksHeader::Load(volume.device_));
  const ByteView secret = volume.secret_.ExposeSecret();
  SEALIFT_ASSIGN_OR_RETURN(SecretBytes key, header.VolumeKey(DeriveKey(secret, kPassphrasePurpose),
                                                             static_cast<int>(volume.slot_)));
  if (!SameDigest(volume.tag_, VolumeTag(secret, volume.header_.name, header.uuid(), kVolumeCipher, key)))
    return Refuse(Reason::kVolumeForeign, volume.device_,
                  "it does not prove to be the one this machine made");
  return key;
}

Result<VolumeFacts> VolumeKeeper::Open(const UnsealedVolume& volume) {
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes key, ProvenKey(volume));
  VolumeFacts facts{.name = volume.header_.name,
                    .luks_uuid = volume.header_.luks_uuid,
                    .device = volume.device_,
                    .mapped = {}};
  SEALIFT_ASSIGN_OR_RETURN(facts.mapped, parts_.mapper.Map(volume.device_, facts.name, key));
  return facts;
}

Result<std::size_t> VolumeKeeper::AddBindings(const UnsealedVolume& volume, const RunningImage& image) {
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, LuksHeader::Load(volume.device_));
  tpm::PcrValues literal;
  if (image.bind_secure_boot) {
    SEALIFT_ASSIGN_OR_RETURN(literal, parts_.vault.ReadPcrs(std::array{kSecureBootPcr}));
  }
  std::vector<SealedToken> tokens = SealedTokens(header);
  std::size_t tokens_now = tokens.size();
  std::size_t added = 0;
  for (const PublicKey& key : image.accepted_keys) {
    const bool bound = std::ranges::any_of(tokens, [&](const SealedToken& token) {
      return token.policy.policy_key == key && token.policy.literal == literal;
    });
    if (bound || tokens_now >= kMaxSealedTokens) continue;
    SEALIFT_RETURN_IF_ERROR(AddBinding(
        header, volume.header_.name, {.policy_key = key, .bind_secure_boot = image.bind_secure_boot},
        volume.slot_, Payload(volume.secret_, volume.epoch_base_), volume.tag_));
    ++tokens_now;
    ++added;
  }
  return added;
}

Result<VolumeFacts> VolumeKeeper::OpenByRecoveryKey(const std::filesystem::path& device,
                                                    const std::string& name,
                                                    const SecretBytes& recovery_key) {
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes passphrase,
                           escrow::ReadRecoveryKey(AsText(recovery_key.ExposeSecret())));
  SEALIFT_ASSIGN_OR_RETURN(const LuksHeader header, LuksHeader::Load(device));
  SEALIFT_RETURN_IF_ERROR(CheckName(device, name, SealedTokens(header)));
  const Result<SecretBytes> key = header.VolumeKey(passphrase, -1);
  if (ReasonOf(key.status()) == Reason::kVolumeForeign) {
    return MakeError(Code::kUnauthenticated, Reason::kRecoveryKeyWrong,
                     fmt::format("open volume {}: this recovery key is of no slot", device.string()));
  }
  SEALIFT_RETURN_IF_ERROR(key.status());
  VolumeFacts facts{.name = name, .luks_uuid = header.uuid(), .device = device, .mapped = {}};
  SEALIFT_ASSIGN_OR_RETURN(facts.mapped, parts_.mapper.Map(device, name, *key));
  return facts;
}

Result<escrow::EscrowedKey> VolumeKeeper::AddRecovery(const UnsealedVolume& volume, const EscrowTo& to) {
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes key, ProvenKey(volume));
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, LuksHeader::Load(volume.device_));
  return AddRecoverySlot(header, volume.header_.name, key, to);
}

Status VolumeKeeper::DropRecovery(const std::filesystem::path& device, const std::string& name,
                                  std::uint32_t keep_slot) {
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, LuksHeader::Load(device));
  const std::vector<SealedToken> sealed = SealedTokens(header);
  SEALIFT_RETURN_IF_ERROR(CheckName(device, name, sealed));
  const std::vector<NumberedRecovery> recoveries = RecoveryTokens(header);
  if (std::ranges::none_of(recoveries,
                           [&](const NumberedRecovery& one) { return one.token.slot == keep_slot; })) {
    return MakeError(
        Code::kNotFound, Reason::kRecoveryKeyUnknown,
        fmt::format("keep recovery slot {} of volume {}: it is none", keep_slot, device.string()));
  }
  for (const std::uint32_t slot : header.Slots()) {
    const bool tpm = std::ranges::any_of(sealed, [&](const SealedToken& one) { return one.slot == slot; });
    if (!tpm && slot != keep_slot) SEALIFT_RETURN_IF_ERROR(header.RemoveSlot(slot));
  }
  for (const NumberedRecovery& one : recoveries)
    if (one.token.slot != keep_slot) SEALIFT_RETURN_IF_ERROR(header.RemoveToken(one.number));
  return OkStatus();
}

Result<std::uint64_t> NewEpochBase(TpmCounters& counters, std::uint64_t epoch) {
  SEALIFT_ASSIGN_OR_RETURN(const std::uint64_t value, counters.DefineCounter(kEpochCounter));
  // Modulo 2^64: a young counter may be below the epoch.
  return value - epoch;
}

}  // namespace sealift::agent
