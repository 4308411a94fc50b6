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

struct NumberedSealed {
  int number = 0;
  SealedToken token;
};

std::vector<NumberedSealed> SealedTokens(const LuksHeader& header) {
  std::vector<NumberedSealed> tokens;
  for (const LuksHeader::Token& token : header.Tokens(kSealedTokenType)) {
    Result<SealedToken> parsed = ParseSealedToken(token.json);
    if (parsed.ok()) tokens.push_back({.number = token.number, .token = *std::move(parsed)});
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
                 const std::vector<NumberedSealed>& tokens) {
  if (tokens.empty()) return Refuse(Reason::kVolumeForeign, device, "it has no token of this agent");
  for (const auto& [number, token] : tokens) {
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

// What a weaker binding lacks.
bool DemandsSecureBoot(const SealedToken& token) { return token.policy.literal.contains(kSecureBootPcr); }

bool SameDigest(const Sha256Digest& a, const Sha256Digest& b) {
  return CRYPTO_memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0;
}

// That a recovery key can be escrowed at all, before anything is lost for it.
Status TryEscrow(const std::string& name, const EscrowTo& to) {
  const escrow::Subject subject{.ek_digest = to.ek_digest,
                                .volume = name,
                                .luks_uuid = "00000000-0000-0000-0000-000000000000",
                                .slot = 0};
  return escrow::Escrow(escrow::MakeRecoveryKey(), subject, to.key, to.oaep).status();
}

// Whether this machine wrote the token, for this volume and what is in that slot now.
bool IsProven(const LuksHeader& header, const std::string& name, ByteView secret,
              const RecoveryToken& token) {
  const escrow::Subject& subject = token.escrowed.subject;
  return subject.slot == token.slot && subject.volume == name && subject.luks_uuid == header.uuid() &&
         SameDigest(token.tag, RecoveryTag(secret, escrow::Format(token.escrowed), token.order,
                                           header.SlotSalt(token.slot)));
}

}  // namespace

bool UnsealedVolume::HasRecoveryFor(std::string_view order) const {
  return std::ranges::find(orders_, order) != orders_.end();
}

Result<MadeVolume> VolumeKeeper::Make(const VolumeSpec& spec, const MakeOptions& options) {
  SEALIFT_RETURN_IF_ERROR(TryEscrow(spec.name, options.escrow));
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
  const Inside inside{.name = spec.name, .secret = secret.ExposeSecret(), .volume_key = volume_key};
  SEALIFT_ASSIGN_OR_RETURN(made.recovery, AddRecoverySlot(header, inside, options.escrow, ""));
  SEALIFT_ASSIGN_OR_RETURN(made.facts.mapped, parts_.mapper.Map(spec.device, spec.name, volume_key));
  const Status filled = parts_.mounts.MakeFileSystem(made.facts.mapped, spec.fs_type, spec.fs_label);
  if (filled.ok()) return made;
  // The first error says more than one of the second step.
  static_cast<void>(parts_.mapper.Unmap(spec.name));
  return filled;
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

Result<escrow::EscrowedKey> VolumeKeeper::AddRecoverySlot(LuksHeader& header, const Inside& inside,
                                                          const EscrowTo& to, const std::string& order) {
  const SecretBytes recovery = escrow::MakeRecoveryKey();
  SEALIFT_ASSIGN_OR_RETURN(const std::uint32_t slot, header.AddSlot(recovery, &inside.volume_key));
  const escrow::Subject subject{
      .ek_digest = to.ek_digest, .volume = inside.name, .luks_uuid = header.uuid(), .slot = slot};
  SEALIFT_ASSIGN_OR_RETURN(escrow::EscrowedKey escrowed, escrow::Escrow(recovery, subject, to.key, to.oaep));
  const Sha256Digest tag = RecoveryTag(inside.secret, escrow::Format(escrowed), order, header.SlotSalt(slot));
  SEALIFT_RETURN_IF_ERROR(header.SetToken(
      -1, FormatRecoveryToken({.slot = slot, .escrowed = escrowed, .order = order, .tag = tag})));
  return escrowed;
}

Result<VolumeHeader> VolumeKeeper::ReadHeader(const std::filesystem::path& device, const std::string& name) {
  SEALIFT_ASSIGN_OR_RETURN(const LuksHeader header, LuksHeader::Load(device));
  const std::vector<NumberedSealed> tokens = SealedTokens(header);
  SEALIFT_RETURN_IF_ERROR(CheckName(device, name, tokens));
  VolumeHeader read{.name = name, .luks_uuid = header.uuid(), .bindings = {}, .recoveries = {}};
  for (const auto& [number, token] : tokens) {
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
  for (const auto& [number, token] : SealedTokens(header)) {
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
    volume.header_.recoveries.clear();
    for (NumberedRecovery& recovery : RecoveryTokens(header)) {
      if (!IsProven(header, name, secret, recovery.token)) continue;
      volume.orders_.push_back(recovery.token.order);
      volume.header_.recoveries.push_back(std::move(recovery.token.escrowed));
    }
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

Result<std::size_t> VolumeKeeper::RemoveForeignTokens(const UnsealedVolume& volume,
                                                      const RunningImage& image) {
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, LuksHeader::Load(volume.device_));
  std::vector<int> foreign;
  for (const LuksHeader::Token& one : header.Tokens(kSealedTokenType)) {
    const Result<SealedToken> token = ParseSealedToken(one.json);
    const bool ours = token.ok() && token->slot == volume.slot_ && token->volume == volume.header_.name &&
                      SameDigest(token->tag, volume.tag_) &&
                      CheckStrength(volume.device_, token->policy, image.bind_secure_boot).ok();
    if (!ours) foreign.push_back(one.number);
  }
  for (const LuksHeader::Token& one : header.Tokens(kRecoveryTokenType)) {
    const Result<RecoveryToken> token = ParseRecoveryToken(one.json);
    if (!token.ok() || !IsProven(header, volume.header_.name, volume.secret_.ExposeSecret(), *token))
      foreign.push_back(one.number);
  }
  for (const int number : foreign) SEALIFT_RETURN_IF_ERROR(header.RemoveToken(number));
  return foreign.size();
}

Result<std::size_t> VolumeKeeper::AddBindings(const UnsealedVolume& volume, const RunningImage& image) {
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, LuksHeader::Load(volume.device_));
  std::vector<NumberedSealed> tokens = SealedTokens(header);
  // One release that lets go of PCR 7 must not open the disk of a machine that had it for good.
  const bool secure_boot =
      image.bind_secure_boot ||
      std::ranges::any_of(tokens, [](const NumberedSealed& one) { return DemandsSecureBoot(one.token); });
  tpm::PcrValues literal;
  if (secure_boot) {
    SEALIFT_ASSIGN_OR_RETURN(literal, parts_.vault.ReadPcrs(std::array{kSecureBootPcr}));
  }
  const auto named = [&](const SealedToken& token) {
    return token.policy.policy_key == image.policy_key ||
           std::ranges::find(image.accepted_keys, token.policy.policy_key) != image.accepted_keys.end();
  };
  const auto make_room = [&]() -> Status {
    auto least = std::ranges::find_if(tokens, [&](const NumberedSealed& one) { return !named(one.token); });
    if (least == tokens.end()) {
      least = std::ranges::find_if(
          tokens, [&](const NumberedSealed& one) { return one.token.policy.literal != literal; });
    }
    if (least == tokens.end())
      return Refuse(Reason::kVolumeLocked, volume.device_,
                    "its header has no room for another PCR policy key");
    SEALIFT_RETURN_IF_ERROR(header.RemoveToken(least->number));
    tokens.erase(least);
    return OkStatus();
  };
  std::size_t added = 0;
  for (const PublicKey& key : image.accepted_keys) {
    const bool bound = std::ranges::any_of(tokens, [&](const NumberedSealed& one) {
      return one.token.policy.policy_key == key && one.token.policy.literal == literal;
    });
    if (bound) continue;
    if (tokens.size() + added >= kMaxSealedTokens) SEALIFT_RETURN_IF_ERROR(make_room());
    SEALIFT_RETURN_IF_ERROR(AddBinding(header, volume.header_.name,
                                       {.policy_key = key, .bind_secure_boot = secure_boot}, volume.slot_,
                                       Payload(volume.secret_, volume.epoch_base_), volume.tag_));
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

Result<escrow::EscrowedKey> VolumeKeeper::AddRecovery(const UnsealedVolume& volume, const EscrowTo& to,
                                                      const std::string& order) {
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes key, ProvenKey(volume));
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, LuksHeader::Load(volume.device_));
  const Inside inside{
      .name = volume.header_.name, .secret = volume.secret_.ExposeSecret(), .volume_key = key};
  return AddRecoverySlot(header, inside, to, order);
}

Status VolumeKeeper::DropRecovery(const std::filesystem::path& device, const OpenSlots& keep) {
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, LuksHeader::Load(device));
  if (header.uuid() != keep.luks_uuid) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kVolumeForeign,
        fmt::format("remove recovery keys of volume {}: it is another than was opened", device.string()));
  }
  const std::vector<std::uint32_t> slots = header.Slots();
  const auto used = [&](std::uint32_t slot) { return std::ranges::find(slots, slot) != slots.end(); };
  if (keep.recovery == keep.tpm || !used(keep.recovery) || !used(keep.tpm)) {
    return MakeError(
        Code::kNotFound, Reason::kRecoveryKeyUnknown,
        fmt::format("keep recovery slot {} of volume {}: it is none", keep.recovery, device.string()));
  }
  for (const std::uint32_t slot : slots)
    if (slot != keep.tpm && slot != keep.recovery) SEALIFT_RETURN_IF_ERROR(header.RemoveSlot(slot));
  for (const LuksHeader::Token& one : header.Tokens(kRecoveryTokenType)) {
    const Result<RecoveryToken> token = ParseRecoveryToken(one.json);
    if (!token.ok() || token->slot != keep.recovery) SEALIFT_RETURN_IF_ERROR(header.RemoveToken(one.number));
  }
  return OkStatus();
}

Result<std::uint64_t> NewEpochBase(TpmCounters& counters, std::uint64_t epoch) {
  SEALIFT_ASSIGN_OR_RETURN(std::uint64_t value, counters.DefineCounter(kEpochCounter));
  if (value < epoch && epoch - value > kMaxEpochSteps) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kEpochUnusable,
        fmt::format("begin with epoch {}: this machine's counter stands at {} and is raised by at "
                    "most {} at once",
                    epoch, value, kMaxEpochSteps));
  }
  while (value < epoch) {
    SEALIFT_ASSIGN_OR_RETURN(value, counters.IncrementCounter(kEpochCounter));
  }
  return value - epoch;
}

}  // namespace sealift::agent
