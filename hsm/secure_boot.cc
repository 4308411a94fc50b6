#include "hsm/secure_boot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "hsm/ceremony_files.h"
#include "hsm/expiry.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/efi/auth_variable.h"

namespace sealift::hsm {
namespace {

constexpr auto kClockTolerance = std::chrono::seconds(10);

struct VariableRoles {
  std::string_view variable;
  // Whose certificate comes first in it; dbx has none.
  std::string_view role;
  std::string_view signer;
};
constexpr auto kVariables = std::to_array<VariableRoles>(
    {{"PK", "pk", "pk"}, {"KEK", "kek", "pk"}, {"db", "db", "kek"}, {"dbx", "", "kek"}});

Status Refused(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, what);
}

Result<efi::SignatureLists> ReadLists(const std::filesystem::path& file) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file, efi::kMaxSignatureListBytes));
  auto lists = efi::ParseSignatureLists(bytes);
  if (!lists.ok()) return Annotate(lists.status(), fmt::format("read '{}'", file.string()));
  return lists;
}

bool IsOfKey(const efi::SignatureEntry& entry, const Sha256Digest& key_id) {
  const auto certificate = Certificate::FromDer(entry.data);
  return certificate.ok() && certificate->public_key().key_id() == key_id;
}

bool HoldsKey(const efi::SignatureLists& lists, const Sha256Digest& key_id) {
  const auto entries = efi::EntriesOfType(lists, efi::kCertX509);
  return std::any_of(entries.begin(), entries.end(),
                     [&](const efi::SignatureEntry* entry) { return IsOfKey(*entry, key_id); });
}

// The set's own certificates lie in lists of their own.
Status ReplaceOwn(efi::SignatureLists& lists, const Inventory& inventory, const Sha256Digest& key_id,
                  const Certificate& certificate) {
  for (efi::SignatureList& list : lists) {
    if (list.type != efi::kCertX509 || list.entries.size() != 1 || list.entries[0].owner != inventory.owner ||
        !IsOfKey(list.entries[0], key_id))
      continue;
    list.entries[0].data = certificate.der();
    return OkStatus();
  }
  return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                   "replace certificate: the signature list does not hold the one of this key");
}

Status CheckContent(const VariableUpdate& update, efi::SignatureLists& lists) {
  SEALIFT_ASSIGN_OR_RETURN(lists, efi::ParseSignatureLists(update.content));
  if (lists.empty()) {
    return Refused(
        fmt::format("sign update of {}: it has no entries, which would empty the variable", update.variable));
  }
  for (const efi::SignatureEntry* entry : efi::EntriesOfType(lists, efi::kCertX509)) {
    const auto certificate = efi::ParseCertificate(entry->data);
    if (!certificate.ok())
      return Annotate(certificate.status(), fmt::format("sign update of {}", update.variable));
  }
  return OkStatus();
}

// One run of ImportCertificate, with the set's folder locked.
class Import {
 public:
  Import(KeyRing& ring, Inventory inventory, UnixMillis now)
      : ring_(ring), inventory_(std::move(inventory)), now_(now) {}

  Status Take(std::string_view role, const Certificate& certificate) {
    const std::string variable(VariableOfRole(role));
    const Sha256Digest id = certificate.public_key().key_id();
    const auto key = std::find_if(inventory_.keys.begin(), inventory_.keys.end(),
                                  [&](const InventoryKey& one) { return one.key_id == id; });
    const std::string pem = CertificateFile(role, key->generation);
    const std::string update = fmt::format("updates/{}-{}", variable, key->generation);
    SEALIFT_ASSIGN_OR_RETURN(efi::SignatureLists lists, ReadLists(ring_.folder() / (variable + ".esl")));
    const bool pending = role == "pk" && !HoldsKey(lists, id) && IsThere(update + ".esl");
    if (!pending) SEALIFT_RETURN_IF_ERROR(ReplaceOwn(lists, inventory_, key->key_id, certificate));
    key->has_certificate = true;
    key->certificate_fingerprint = certificate.fingerprint();
    key->not_before = certificate.not_before();
    key->not_after = certificate.not_after();
    files_.emplace_back(pem, ToBytes(certificate.Pem()));
    files_.emplace_back(std::filesystem::path(pem).replace_extension(".der"), certificate.der());
    if (pending) return TakePending(*key, update, certificate);
    // First: a machine that took the addition still takes the full list.
    if (role != "pk" && IsThere(update + ".esl")) {
      SEALIFT_RETURN_IF_ERROR(SignAddition(variable, update, certificate));
    }
    files_.emplace_back(variable + ".esl", efi::SerializeSignatureLists(lists));
    for (const VariableRoles& one : kVariables) {
      const bool carries = one.signer == role || one.role == role;
      if (!carries || !Exists(one.variable)) continue;
      SEALIFT_RETURN_IF_ERROR(Sign(one, certificate));
    }
    if (role != "kek") return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(auto ready,
                             SignForPendingPks(ring_, inventory_, efi::SerializeSignatureLists(lists), now_));
    for (auto& one : ready) files_.push_back(std::move(one));
    return OkStatus();
  }

  Result<Inventory> Write() {
    files_.emplace_back(kInventoryFile, ToBytes(inventory_.Serialize()));
    SEALIFT_RETURN_IF_ERROR(ReplaceFiles(ring_.folder(), files_).status);
    return inventory_;
  }

 private:
  bool IsThere(const std::string& file) const {
    std::error_code error;
    return std::filesystem::exists(ring_.folder() / file, error);
  }
  bool Exists(std::string_view variable) const { return IsThere(fmt::format("{}.esl", variable)); }

  Bytes Alone(const Certificate& certificate) const {
    return efi::SerializeSignatureLists(
        efi::SignatureLists{efi::X509SignatureList(inventory_.owner, certificate.der())});
  }
  Status SignInto(const std::string& file, std::string_view variable, bool append, ByteView content,
                  Signer& signer, const Certificate& by) {
    SEALIFT_ASSIGN_OR_RETURN(const UnixMillis time, NextVariableTime(inventory_, variable, now_));
    SEALIFT_ASSIGN_OR_RETURN(Bytes auth, SignAndVerifyVariable(variable, append, time, content, signer, by));
    files_.emplace_back(file, std::move(auth));
    return OkStatus();
  }
  // The certificate alone, to be appended by machines in user mode.
  Status SignAddition(std::string_view variable, const std::string& update, const Certificate& certificate) {
    const std::string_view role = SignerRoleOf(variable);
    SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring_.SignerFor(role));
    SEALIFT_ASSIGN_OR_RETURN(const Certificate by, ring_.CertificateFor(role));
    const Bytes alone = Alone(certificate);
    files_.emplace_back(update + ".esl", alone);
    return SignInto(update + ".auth", variable, true, alone, *signer, by);
  }
  // Of a PK that machines do not hold yet: what hands over to it, and what the folder's become then.
  Status TakePending(const InventoryKey& key, const std::string& update, const Certificate& certificate) {
    SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring_.SignerFor("pk"));
    SEALIFT_ASSIGN_OR_RETURN(const Certificate by, ring_.CertificateFor("pk"));
    SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> next, ring_.SignerFor(key));
    SEALIFT_ASSIGN_OR_RETURN(const Bytes kek,
                             ReadFile(ring_.folder() / "KEK.esl", efi::kMaxSignatureListBytes));
    const Bytes alone = Alone(certificate);
    const std::string folder = fmt::format("updates/pk-{}/", key.generation);
    files_.emplace_back(update + ".esl", alone);
    files_.emplace_back(folder + "PK.esl", alone);
    SEALIFT_RETURN_IF_ERROR(SignInto(update + ".auth", "PK", false, alone, *signer, by));
    SEALIFT_RETURN_IF_ERROR(SignInto(folder + "PK.auth", "PK", false, alone, *next, certificate));
    return SignInto(folder + "KEK.auth", "KEK", false, kek, *next, certificate);
  }

  Status Sign(const VariableRoles& one, const Certificate& certificate) {
    const std::string file = fmt::format("{}.esl", one.variable);
    const auto staged =
        std::find_if(files_.begin(), files_.end(), [&](const auto& entry) { return entry.first == file; });
    Bytes content;
    if (staged != files_.end()) {
      content = staged->second;
    } else {
      SEALIFT_ASSIGN_OR_RETURN(content, ReadFile(ring_.folder() / file, efi::kMaxSignatureListBytes));
    }
    SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring_.SignerFor(one.signer));
    Result<Certificate> by = certificate;
    if (!(signer->public_key() == certificate.public_key())) by = ring_.CertificateFor(one.signer);
    if (!by.ok()) return by.status();
    SEALIFT_ASSIGN_OR_RETURN(const UnixMillis time, NextVariableTime(inventory_, one.variable, now_));
    SEALIFT_ASSIGN_OR_RETURN(Bytes auth,
                             SignAndVerifyVariable(one.variable, false, time, content, *signer, *by));
    files_.emplace_back(fmt::format("{}.auth", one.variable), std::move(auth));
    return OkStatus();
  }

  KeyRing& ring_;
  Inventory inventory_;
  UnixMillis now_;
  std::vector<std::pair<std::string, Bytes>> files_;
};

Status CheckRole(std::string_view role) {
  if (!VariableOfRole(role).empty()) return OkStatus();
  return Refused(fmt::format("use certificate of '{}': only pk, kek and db can have another CA's", role));
}

}  // namespace

std::string_view SignerRoleOf(std::string_view variable) {
  for (const VariableRoles& one : kVariables)
    if (one.variable == variable) return one.signer;
  return {};
}

std::string_view VariableOfRole(std::string_view role) {
  for (const VariableRoles& one : kVariables)
    if (one.role == role && !role.empty()) return one.variable;
  return {};
}

Result<Bytes> SignAndVerifyVariable(std::string_view variable, bool append, UnixMillis time, ByteView content,
                                    Signer& signer, const Certificate& certificate) {
  SEALIFT_ASSIGN_OR_RETURN(
      const efi::VariableTarget target,
      efi::SecureBootVariable(variable, append ? efi::kAppendAttributes : efi::kReplaceAttributes));
  SEALIFT_ASSIGN_OR_RETURN(Bytes auth,
                           efi::BuildAuthenticatedVariable(target, time, content, signer, certificate.der()));
  const efi::SignatureLists trusted = {efi::X509SignatureList({}, certificate.der())};
  SEALIFT_RETURN_IF_ERROR(efi::VerifyAuthenticatedVariable(auth, target, trusted).status());
  return auth;
}

Result<UnixMillis> NextVariableTime(Inventory& inventory, std::string_view variable, UnixMillis now) {
  UnixMillis time = std::chrono::floor<std::chrono::seconds>(now);
  const auto last = inventory.variable_times.find(std::string(variable));
  if (last != inventory.variable_times.end() && time <= last->second) {
    if (last->second - time > kClockTolerance) {
      return MakeError(
          Code::kFailedPrecondition, Reason::kTimestampNotNewer,
          fmt::format("sign {}: this machine's clock says {}, but the last update of {} bears {}", variable,
                      FormatRfc3339(now), variable, FormatRfc3339(last->second)));
    }
    time = last->second + std::chrono::seconds(1);
  }
  inventory.variable_times[std::string(variable)] = time;
  return time;
}

Result<std::vector<std::pair<std::string, Bytes>>> SignForPendingPks(KeyRing& ring, Inventory& inventory,
                                                                     ByteView kek, UnixMillis now) {
  std::vector<std::pair<std::string, Bytes>> files;
  const auto pks = inventory.Generations("pk");
  if (pks.size() < 2) return files;
  SEALIFT_ASSIGN_OR_RETURN(const InventoryKey* present, ring.KeyFor("pk"));
  for (const InventoryKey* key : pks) {
    const std::string file = fmt::format("updates/pk-{}/KEK.auth", key->generation);
    std::error_code error;
    if (key->generation <= present->generation || !std::filesystem::exists(ring.folder() / file, error))
      continue;
    const auto signer = ring.SignerFor(*key);
    if (!signer.ok() && ReasonOf(signer.status()) == Reason::kHsmKeyMissing) {
      log::Warning("an update that stands ready holds the KEK of before: give the token of its PK",
                   {{"file", file}, {"error", MessageOf(signer.status())}});
      continue;
    }
    if (!signer.ok()) return signer.status();
    SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, ring.CertificateFor(*key));
    SEALIFT_ASSIGN_OR_RETURN(const UnixMillis time, NextVariableTime(inventory, "KEK", now));
    SEALIFT_ASSIGN_OR_RETURN(Bytes auth,
                             SignAndVerifyVariable("KEK", false, time, kek, **signer, certificate));
    files.emplace_back(file, std::move(auth));
  }
  return files;
}

Result<SignedUpdate> SignVariableUpdate(KeyRing& ring, const VariableUpdate& update) {
  const std::string_view by = SignerRoleOf(update.variable);
  if (by.empty() || update.variable == "PK") {
    return Refused(fmt::format("sign update of '{}': it is none of KEK, db, dbx", update.variable));
  }
  efi::SignatureLists lists;
  SEALIFT_RETURN_IF_ERROR(CheckContent(update, lists));
  SEALIFT_ASSIGN_OR_RETURN(const InventoryKey* key, ring.KeyFor(by));
  if (!update.allow_expired) SEALIFT_RETURN_IF_ERROR(CheckNotExpired(*key, update.now));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring.SignerFor(*key));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, ring.CertificateFor(*key));
  SEALIFT_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(ring.folder()));
  SEALIFT_ASSIGN_OR_RETURN(Inventory inventory, Inventory::Load(ring.folder()));
  SEALIFT_ASSIGN_OR_RETURN(const UnixMillis time, NextVariableTime(inventory, update.variable, update.now));
  SEALIFT_ASSIGN_OR_RETURN(Bytes auth, SignAndVerifyVariable(update.variable, update.append, time,
                                                             update.content, *signer, certificate));
  SEALIFT_RETURN_IF_ERROR(
      WriteFileAtomically(ring.folder() / kInventoryFile, AsBytes(inventory.Serialize())));
  // That of one generation is enough: dropping an old one is what follows a rotation.
  const auto own = inventory.Generations(update.variable == "KEK" ? "kek" : update.variable);
  const bool keeps = update.append || own.empty() || std::ranges::any_of(own, [&](const InventoryKey* one) {
                       return HoldsKey(lists, one->key_id);
                     });
  return SignedUpdate{.auth = std::move(auth), .time = time, .drops_own_certificate = !keeps};
}

Result<Bytes> RequestCertificate(KeyRing& ring, std::string_view role, const std::string& common_name) {
  SEALIFT_RETURN_IF_ERROR(CheckRole(role));
  std::string name = common_name;
  if (name.empty()) name = fmt::format("{} {}", ring.inventory().set, VariableOfRole(role));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring.SignerFor(role));
  return CreateCertificateRequest(name, {}, signer, fmt::format("certificate request '{}'", name));
}

Result<Inventory> ImportCertificate(KeyRing& ring, std::string_view role, const Certificate& certificate,
                                    UnixMillis now, bool allow_expired) {
  SEALIFT_RETURN_IF_ERROR(CheckRole(role));
  SEALIFT_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(ring.folder()));
  SEALIFT_ASSIGN_OR_RETURN(Inventory inventory, Inventory::Load(ring.folder()));
  const auto generations = inventory.Generations(role);
  if (generations.empty()) {
    return MakeError(Code::kNotFound, Reason::kHsmKeyMissing,
                     fmt::format("import certificate of '{}': the set has no such key", role));
  }
  const auto key = std::ranges::find(generations, certificate.public_key().key_id(), &InventoryKey::key_id);
  if (key == generations.end()) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kKeyMismatch,
        fmt::format("import certificate of '{}': '{}' is of another key than the one in the token", role,
                    certificate.SubjectText()));
  }
  if (certificate.not_after() < now && !allow_expired) {
    return MakeError(Code::kFailedPrecondition, Reason::kSignerCertificateExpired,
                     fmt::format("import certificate of '{}': it ended at {}", role,
                                 FormatRfc3339(certificate.not_after())));
  }
  const JournalKeyEvent event{.event = "imported",
                              .key_id = (*key)->key_id,
                              .key_name = KeyName(role, (*key)->generation),
                              .label = fmt::format("certificate {}", certificate.fingerprint().hex())};
  Import import(ring, std::move(inventory), now);
  SEALIFT_RETURN_IF_ERROR(import.Take(role, certificate));
  if (ring.journal() != nullptr) SEALIFT_RETURN_IF_ERROR(ring.journal()->RecordKeyEvent(event));
  return import.Write();
}

}  // namespace sealift::hsm
