#include "node-agent/install/firmware_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/efi/auth_variable.h"

namespace sealift::agent {
namespace {

constexpr std::uint64_t kMaxKeyFile = 1u << 20;
constexpr std::uint32_t kOptionRomPcr = 2;

std::string_view VendorOf(std::string_view name) {
  return name == "db" || name == "dbx" ? kImageSecurityVendor : kGlobalVendor;
}

Status Missing(const std::filesystem::path& path, std::string_view why) {
  return MakeError(Code::kFailedPrecondition, Reason::kMediumUnusable,
                   fmt::format("read key file '{}': {}", path.string(), why));
}

Result<FirmwareKey> LoadKey(const std::filesystem::path& path, const std::string& name) {
  FirmwareKey key{.name = name};
  Result<Bytes> auth = ReadFile(path, kMaxKeyFile);
  if (!auth.ok()) return Missing(path, MessageOf(auth.status()));
  key.auth = std::move(*auth);
  const Result<efi::AuthenticatedVariable> variable = efi::ParseAuthenticatedVariable(key.auth);
  if (!variable.ok()) return Missing(path, MessageOf(variable.status()));
  Result<efi::SignatureLists> lists = efi::ParseSignatureLists(variable->payload);
  if (!lists.ok()) return Missing(path, MessageOf(lists.status()));
  key.content = std::move(*lists);
  return key;
}

// What a variable allows or forbids; owners do not matter for that.
using Entries = std::set<std::pair<efi::Guid, Bytes>>;

Entries EntriesOf(const efi::SignatureLists& lists) {
  Entries entries;
  for (const efi::SignatureList& list : lists)
    for (const efi::SignatureEntry& entry : list.entries) entries.emplace(list.type, entry.data);
  return entries;
}

Result<efi::SignatureLists> ReadLists(EfiVariables& variables, std::string_view name) {
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Bytes> value, variables.Read(name, VendorOf(name)));
  if (!value) return efi::SignatureLists();
  Result<efi::SignatureLists> lists = efi::ParseSignatureLists(*value);
  if (lists.ok()) return lists;
  return MakeError(Code::kUnavailable, Reason::kFirmwareVariableUnreadable,
                   fmt::format("read the firmware's {}: {}", name, MessageOf(lists.status())));
}

// Empty: as it should be.
std::string Difference(const std::string& name, const Entries& present, const Entries& ours) {
  const bool lacks = !std::includes(present.begin(), present.end(), ours.begin(), ours.end());
  if (lacks) return fmt::format("{} lacks entries of this fleet's", name);
  if (name != "dbx" && present.size() > ours.size())
    return fmt::format("{} holds {} entries more than this fleet's", name, present.size() - ours.size());
  return {};
}

}  // namespace

const FirmwareKey* FirmwareKeys::Find(std::string_view name) const {
  const auto found =
      std::find_if(keys.begin(), keys.end(), [&](const FirmwareKey& key) { return key.name == name; });
  return found == keys.end() ? nullptr : &*found;
}

Result<FirmwareKeys> LoadFirmwareKeys(const std::filesystem::path& folder) {
  FirmwareKeys all;
  for (const char* name : {"dbx", "db", "KEK", "PK"}) {
    const std::filesystem::path path = folder / (std::string(name) + ".auth");
    std::error_code error;
    if (std::string_view(name) == "dbx" && !std::filesystem::exists(path, error)) continue;
    SEALIFT_ASSIGN_OR_RETURN(FirmwareKey key, LoadKey(path, name));
    all.keys.push_back(std::move(key));
  }
  return all;
}

std::string_view FirmwareStateName(FirmwareState state) {
  constexpr std::array<std::string_view, 4> kNames{"ours", "setup mode", "foreign keys", "switched off"};
  return kNames[static_cast<std::size_t>(state)];
}

Result<FirmwareReport> InspectFirmware(EfiVariables& variables, const FirmwareKeys& ours) {
  SEALIFT_ASSIGN_OR_RETURN(const bool on, variables.ReadFlag("SecureBoot", kGlobalVendor));
  SEALIFT_ASSIGN_OR_RETURN(const bool setup, variables.ReadFlag("SetupMode", kGlobalVendor));
  FirmwareReport report;
  if (setup && !on) {
    report.state = FirmwareState::kSetupMode;
    return report;
  }
  for (const FirmwareKey& key : ours.keys) {
    SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists present, ReadLists(variables, key.name));
    std::string difference = Difference(key.name, EntriesOf(present), EntriesOf(key.content));
    if (!difference.empty()) report.differences.push_back(std::move(difference));
  }
  if (!report.differences.empty()) {
    report.state = FirmwareState::kForeign;
  } else {
    report.state = on ? FirmwareState::kOurs : FirmwareState::kOff;
  }
  return report;
}

Status RequireOurKeys(const FirmwareReport& report) {
  switch (report.state) {
    case FirmwareState::kOurs:
      return OkStatus();
    case FirmwareState::kSetupMode:
      return MakeError(Code::kFailedPrecondition, Reason::kSecureBootOff,
                       "check Secure Boot: the firmware is in setup mode, without any keys");
    case FirmwareState::kOff:
      return MakeError(Code::kFailedPrecondition, Reason::kSecureBootOff,
                       "check Secure Boot: this fleet's keys are enrolled, but it is switched off in the "
                       "firmware's setup");
    case FirmwareState::kForeign:
      break;
  }
  return MakeError(
      Code::kFailedPrecondition, Reason::kSecureBootForeign,
      fmt::format("check Secure Boot: {}; clear the keys in the firmware's setup, or enrol those of "
                  "the medium's folder keys/ there",
                  fmt::join(report.differences, ", ")));
}

std::vector<OptionRom> OptionRoms(const tpm::EventLog& log, const FirmwareKeys& ours) {
  const FirmwareKey* db = ours.Find("db");
  const Entries allowed = db == nullptr ? Entries() : EntriesOf(db->content);
  std::vector<OptionRom> roms;
  for (const tpm::Event* event : log.EventsOf(kOptionRomPcr)) {
    if (event->type != tpm::kEvEfiBootServicesDriver && event->type != tpm::kEvEfiRuntimeServicesDriver)
      continue;
    constexpr std::uint16_t kSha256 = 0x000b;
    const auto digest = event->digests.find(kSha256);
    if (digest == event->digests.end()) continue;
    roms.push_back({.digest = HexEncode(digest->second),
                    .allowed = allowed.contains({efi::kCertSha256, digest->second})});
  }
  return roms;
}

std::vector<std::string> DescribeLists(std::string_view variable, const efi::SignatureLists& lists) {
  std::vector<std::string> lines;
  for (const efi::SignatureList& list : lists) {
    for (const efi::SignatureEntry& entry : list.entries) {
      const ByteView hash = efi::HashOfEntry(list.type, entry.data);
      lines.push_back(fmt::format("{}: {} of {}: {}", variable, efi::SignatureTypeName(list.type),
                                  entry.owner.text(),
                                  hash.empty() ? "SHA-256 " + Sha256(entry.data).hex() : HexEncode(hash)));
    }
  }
  return lines;
}

Result<std::vector<std::string>> SavePresentLists(EfiVariables& variables,
                                                  const std::filesystem::path& folder) {
  std::vector<std::string> saved;
  for (const char* name : {"db", "dbx"}) {
    SEALIFT_ASSIGN_OR_RETURN(const std::optional<Bytes> value, variables.Read(name, VendorOf(name)));
    if (!value || value->empty()) continue;
    SEALIFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(folder / (std::string(name) + ".esl"), *value));
    saved.push_back(std::string(name) + ".esl");
  }
  return saved;
}

Status EnrolFirmwareKeys(EfiVariables& variables, const FirmwareKeys& ours,
                         const std::function<void(std::string_view)>& told) {
  for (const FirmwareKey& key : ours.keys) {
    const Bytes wanted = efi::SerializeSignatureLists(key.content);
    SEALIFT_ASSIGN_OR_RETURN(std::optional<Bytes> present, variables.Read(key.name, VendorOf(key.name)));
    if (!present || *present != wanted) {
      SEALIFT_RETURN_IF_ERROR(
          variables.Write(key.name, VendorOf(key.name), efi::kReplaceAttributes, key.auth));
      SEALIFT_ASSIGN_OR_RETURN(present, variables.Read(key.name, VendorOf(key.name)));
    }
    if (!present || *present != wanted) {
      return MakeError(Code::kFailedPrecondition, Reason::kFirmwareRefused,
                       fmt::format("enrol {}: the firmware took it, but holds something else", key.name));
    }
    told(key.name);
  }
  return OkStatus();
}

}  // namespace sealift::agent
