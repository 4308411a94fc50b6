#include "hsm/hierarchy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

namespace sealift::hsm {
namespace {

constexpr auto kGroups =
    std::to_array<Group>({Group::kRoot, Group::kRelease, Group::kOnline, Group::kCustody});
constexpr auto kGroupNames = std::to_array<std::string_view>({"root", "release", "online", "custody"});

// RSA where firmware and systemd's PCR policy verify, P-256 where only we do, RSA-3072 to decrypt.
constexpr auto kRoles = std::to_array<Role>({
    {"pk", Group::kRoot, KeyAlgorithm::kRsa2048},
    {"kek", Group::kRoot, KeyAlgorithm::kRsa2048},
    {"tuf-root", Group::kRoot, KeyAlgorithm::kEcP256},
    {"orders-root", Group::kRoot, KeyAlgorithm::kEcP256},
    {"db", Group::kRelease, KeyAlgorithm::kRsa2048},
    {"pcr", Group::kRelease, KeyAlgorithm::kRsa2048},
    {"tuf-targets", Group::kRelease, KeyAlgorithm::kEcP256},
    {"extensions", Group::kRelease, KeyAlgorithm::kEcP256},
    {"tuf-snapshot", Group::kOnline, KeyAlgorithm::kEcP256},
    {"tuf-timestamp", Group::kOnline, KeyAlgorithm::kEcP256},
    {"node-ca", Group::kOnline, KeyAlgorithm::kEcP256},
    {"controller-tls", Group::kOnline, KeyAlgorithm::kEcP256, KeyUse::kSign, true},
    {"orders", Group::kOnline, KeyAlgorithm::kEcP256},
    {"journal", Group::kOnline, KeyAlgorithm::kEcP256},
    {"secrets", Group::kOnline, KeyAlgorithm::kRsa3072, KeyUse::kDecrypt},
    {"operator-ca", Group::kCustody, KeyAlgorithm::kEcP256},
    {"escrow", Group::kCustody, KeyAlgorithm::kRsa3072, KeyUse::kDecrypt},
});

constexpr auto kAlgorithmNames =
    std::to_array<std::string_view>({"rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384"});
constexpr auto kShortNames =
    std::to_array<std::string_view>({"rsa2048", "rsa3072", "rsa4096", "p256", "p384"});

// Which roles may have which, and why.
struct Allowance {
  std::span<const KeyAlgorithm> algorithms;
  std::string_view because;
};
constexpr auto kFirmware =
    std::to_array<KeyAlgorithm>({KeyAlgorithm::kRsa2048, KeyAlgorithm::kRsa3072, KeyAlgorithm::kRsa4096});
constexpr auto kPolicy = std::to_array<KeyAlgorithm>({KeyAlgorithm::kRsa2048, KeyAlgorithm::kRsa3072});
constexpr auto kEscrow = std::to_array<KeyAlgorithm>({KeyAlgorithm::kRsa3072, KeyAlgorithm::kRsa4096});
constexpr auto kTls = std::to_array<KeyAlgorithm>({KeyAlgorithm::kEcP256, KeyAlgorithm::kEcP384});
constexpr auto kOurs =
    std::to_array<KeyAlgorithm>({KeyAlgorithm::kRsa2048, KeyAlgorithm::kRsa3072, KeyAlgorithm::kRsa4096,
                                 KeyAlgorithm::kEcP256, KeyAlgorithm::kEcP384});

Allowance AllowanceOf(const Role& role) {
  if (role.use == KeyUse::kDecrypt) return {kEscrow, "it decrypts, and what it protects lives for years"};
  if (role.needs_ec) return {kTls, "TLS 1.3 through the token needs ECDSA"};
  if (role.name == "pcr") return {kPolicy, "systemd and the TPM take RSA keys for PCR policies"};
  if (role.algorithm == KeyAlgorithm::kRsa2048) return {kFirmware, "firmware verifies RSA signatures"};
  return {kOurs, "only this project verifies it"};
}

}  // namespace

std::span<const Group> AllGroups() { return kGroups; }
std::span<const Role> AllRoles() { return kRoles; }

std::string_view GroupName(Group group) { return kGroupNames.at(static_cast<std::size_t>(group)); }

Result<Group> ParseGroup(std::string_view name) {
  const auto* found = std::find(kGroupNames.begin(), kGroupNames.end(), name);
  if (found != kGroupNames.end()) return kGroups.at(static_cast<std::size_t>(found - kGroupNames.begin()));
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("'{}' is no token group; there are {}", name, fmt::join(kGroupNames, ", ")));
}

std::string_view AlgorithmName(KeyAlgorithm algorithm) {
  return kAlgorithmNames.at(static_cast<std::size_t>(algorithm));
}

std::optional<KeyAlgorithm> AlgorithmFromName(std::string_view name) {
  const auto* found = std::find(kAlgorithmNames.begin(), kAlgorithmNames.end(), name);
  if (found == kAlgorithmNames.end()) return std::nullopt;
  return static_cast<KeyAlgorithm>(found - kAlgorithmNames.begin());
}

Result<KeyAlgorithm> ParseAlgorithm(std::string_view text) {
  if (const auto known = AlgorithmFromName(text); known.has_value()) return *known;
  const auto* found = std::find(kShortNames.begin(), kShortNames.end(), text);
  if (found != kShortNames.end()) return static_cast<KeyAlgorithm>(found - kShortNames.begin());
  return MakeError(Code::kInvalidArgument, Reason::kKeyAlgorithmUnsupported,
                   fmt::format("choose algorithm '{}': there are {}", text, fmt::join(kShortNames, ", ")));
}

bool IsEc(KeyAlgorithm algorithm) {
  return algorithm == KeyAlgorithm::kEcP256 || algorithm == KeyAlgorithm::kEcP384;
}

unsigned BitsOf(KeyAlgorithm algorithm) {
  constexpr auto kBits = std::to_array<unsigned>({2048, 3072, 4096, 256, 384});
  return kBits.at(static_cast<std::size_t>(algorithm));
}

std::optional<KeyAlgorithm> AlgorithmOf(const PublicKey& key) {
  for (const KeyAlgorithm algorithm : kOurs) {
    if (IsEc(algorithm) == (key.type() != KeyType::kRsa) &&
        BitsOf(algorithm) == static_cast<unsigned>(key.bits())) {
      return algorithm;
    }
  }
  return std::nullopt;
}

std::span<const KeyAlgorithm> AllowedAlgorithms(const Role& role) { return AllowanceOf(role).algorithms; }

Status CheckAlgorithm(const Role& role, KeyAlgorithm algorithm) {
  const Allowance allowance = AllowanceOf(role);
  std::vector<std::string_view> names;
  for (const KeyAlgorithm one : allowance.algorithms) {
    if (one == algorithm) return OkStatus();
    names.push_back(kShortNames.at(static_cast<std::size_t>(one)));
  }
  return MakeError(Code::kFailedPrecondition, Reason::kKeyAlgorithmUnsupported,
                   fmt::format("make key '{}' as {}: {}, so it may be {}", role.name,
                               AlgorithmName(algorithm), allowance.because, fmt::join(names, ", ")));
}

std::string AlgorithmRemark(const Role& role, KeyAlgorithm algorithm) {
  if (role.algorithm != KeyAlgorithm::kRsa2048 || algorithm == KeyAlgorithm::kRsa2048) return {};
  return fmt::format("'{}' as {}: {}; try it on the hardware first", role.name, AlgorithmName(algorithm),
                     role.name == "pcr" ? "some TPMs load no public key but RSA-2048"
                                        : "some firmware verifies RSA-2048 only");
}

const Role* FindRole(std::string_view name) {
  const auto* found =
      std::find_if(kRoles.begin(), kRoles.end(), [&](const Role& role) { return role.name == name; });
  return found == kRoles.end() ? nullptr : found;
}

Result<KeyAlgorithm> AlgorithmFor(const Role& role, bool token_has_ec) {
  if (role.algorithm != KeyAlgorithm::kEcP256 || token_has_ec) return role.algorithm;
  if (!role.needs_ec) return KeyAlgorithm::kRsa2048;
  return MakeError(Code::kFailedPrecondition, Reason::kHsmMechanismMissing,
                   fmt::format("make key '{}': it must be an EC key and the token of group '{}' has no EC",
                               role.name, GroupName(role.group)));
}

std::string KeyName(std::string_view role, std::uint32_t generation) {
  return fmt::format("{}-{}", role, generation);
}

std::string KeyLabel(std::string_view set, std::string_view role, std::uint32_t generation) {
  return fmt::format("sealift:{}:{}:{}", set, role, generation);
}

bool IsValidSetName(std::string_view name) {
  const auto letter = [](char c) { return c >= 'a' && c <= 'z'; };
  return !name.empty() && name.size() <= 32 && letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return letter(c) || (c >= '0' && c <= '9') || c == '-'; });
}

}  // namespace sealift::hsm
