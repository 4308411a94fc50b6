#include "hsm/ceremony.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <utility>

#include "hsm/ceremony_files.h"
#include "hsm/journal.h"
#include "hsm/orders_delegation.h"
#include "hsm/secure_boot.h"
#include "hsm/token_signer.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/key_reference.h"
#include "shared/efi/auth_variable.h"
#include "shared/order/delegation.h"
#include "shared/tuf/metadata.h"

namespace sealift::hsm {
namespace {

using std::chrono::hours;

// Clocks of nodes may be behind; a certificate from the future would keep them out.
constexpr auto kBackdate = hours(1);
constexpr int kMaxOperatorDays = 36500;
// 9999-12-31T23:59:59Z, the last moment that X.509 and RFC 3339 can write.
constexpr UnixMillis kEndOfTime{std::chrono::milliseconds(253402300799000)};

Status BadOption(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, fmt::format("make key set: {}", what));
}

efi::Guid RandomGuid() {
  efi::Guid guid;
  const Bytes random = RandomBytes(guid.bytes.size());
  std::copy(random.begin(), random.end(), guid.bytes.begin());
  // RFC 9562 version 4; the third group is stored little-endian.
  guid.bytes[7] = static_cast<std::uint8_t>((guid.bytes[7] & 0x0f) | 0x40);
  guid.bytes[8] = static_cast<std::uint8_t>((guid.bytes[8] & 0x3f) | 0x80);
  return guid;
}

// One run of InitialiseKeySet. Steps run in the order of the public functions.
class Ceremony {
 public:
  Ceremony(const KeySetOptions& options, const Progress& progress)
      : options_(options),
        progress_(progress),
        maker_(options.set, fmt::format("make key set '{}'", options.set), options.set, progress,
               options.leaving) {}

  Status Check();
  Status BeginJournal();
  Status MakeKeys();
  Status MakeCertificates();
  Status MakeVariables();
  Status MakeTufRoot();
  Status MakeDelegation();
  Result<Inventory> Write();
  // A journal that did not come into the folder.
  void DropJournal();
  // The journal goes as well, so it is told nothing. A folder that is there needs its keys.
  Status GiveUp(const Status& why) {
    if (in_place_ == Written::InPlace::kNothing) return maker_.TakeBack(why, nullptr);
    return Annotate(why, "make key set: all is in place, and may be gone again after a power cut");
  }

 private:
  Status CheckNames();
  Status CheckAlgorithms();
  Status EndJournal();
  Status Certify(std::string_view role, CertificateSpec spec);
  Status CertifyController();
  efi::SignatureLists ContentOf(std::string_view variable, std::string_view role) const;
  Status MakeVariable(const std::string& name, std::string_view role);
  CertificateSpec Spec(std::string_view purpose) const;
  InventoryKey& Entry(std::string_view role);

  const KeySetOptions& options_;
  const Progress& progress_;
  std::vector<std::string> dns_names_;
  std::vector<std::string> ip_addresses_;
  Inventory inventory_;
  KeyMaker maker_;
  std::shared_ptr<Journal> journal_;
  std::map<std::string, std::shared_ptr<Signer>, std::less<>> signers_;
  std::map<std::string, Certificate, std::less<>> certificates_;
  // By path inside the folder.
  std::map<std::string, Bytes> files_;
  Written::InPlace in_place_ = Written::InPlace::kNothing;
};

InventoryKey& Ceremony::Entry(std::string_view role) {
  const auto found = std::find_if(inventory_.keys.begin(), inventory_.keys.end(),
                                  [&](const InventoryKey& key) { return key.role == role; });
  SEALIFT_CHECK(found != inventory_.keys.end());
  return *found;
}

Status Ceremony::CheckNames() {
  for (const std::string& name : options_.controller_names) {
    if (name.starts_with("DNS:") && name.size() > 4) {
      dns_names_.push_back(name.substr(4));
    } else if (name.starts_with("IP:") && name.size() > 3) {
      ip_addresses_.push_back(name.substr(3));
    } else {
      return BadOption(fmt::format("'{}' is neither DNS:name nor IP:address", name));
    }
  }
  if (dns_names_.empty() && ip_addresses_.empty()) return BadOption("the controller has no name");
  return OkStatus();
}

Status Ceremony::Check() {
  if (!IsValidSetName(options_.set)) {
    return BadOption(fmt::format("'{}' is not 1 to 32 of a-z, 0-9 and '-', led by a letter", options_.set));
  }
  const auto most = std::chrono::floor<std::chrono::days>(kEndOfTime - options_.now).count();
  if (options_.expiration_days < 1 || options_.expiration_days > most) {
    return BadOption(
        options_.expiration_days < 1
            ? fmt::format("an expiration of {} days is not in the future", options_.expiration_days)
            : fmt::format("certificates cannot end after the year 9999; {} days is the most from now", most));
  }
  SEALIFT_RETURN_IF_ERROR(CheckNames());
  for (const Group group : AllGroups()) {
    if (options_.tokens.count(group) == 0) {
      return BadOption(fmt::format("no token for group '{0}'; add --token {0}=URI", GroupName(group)));
    }
  }
  SEALIFT_RETURN_IF_ERROR(CheckAlgorithms());
  SEALIFT_RETURN_IF_ERROR(CheckAbsent(options_.folder));
  for (const Role& role : AllRoles()) {
    const auto wanted = options_.algorithms.find(role.name);
    SEALIFT_RETURN_IF_ERROR(maker_.Plan(
        role, 1, options_.tokens.at(role.group),
        wanted == options_.algorithms.end() ? std::nullopt : std::optional<KeyAlgorithm>(wanted->second)));
  }
  return OkStatus();
}

// Before any token is asked.
Status Ceremony::CheckAlgorithms() {
  for (const auto& [name, algorithm] : options_.algorithms) {
    const Role* role = FindRole(name);
    if (role == nullptr)
      return BadOption(fmt::format("there is no role '{}' to choose an algorithm for", name));
    SEALIFT_RETURN_IF_ERROR(CheckAlgorithm(*role, algorithm));
  }
  return OkStatus();
}

// The folder appears at the end, so the journal begins beside it. A killed ceremony leaves it there, and the
// next one goes on with it.
Status Ceremony::BeginJournal() {
  auto path = options_.journal;
  if (path.empty()) {
    auto folder = std::filesystem::absolute(options_.folder).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();
    path = folder;
    path += ".journal";
  }
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(path.parent_path()));
  SEALIFT_ASSIGN_OR_RETURN(journal_, Journal::Open(path));
  for (const auto& [group, token] : options_.tokens) token->RecordIn(journal_);
  return OkStatus();
}

Status Ceremony::EndJournal() {
  SEALIFT_ASSIGN_OR_RETURN(
      std::shared_ptr<Signer> signer,
      TokenSigner::OpenForCheckpoints(options_.tokens.at(Group::kOnline), Entry("journal").key_id));
  journal_->SetCheckpointSigner(std::move(signer));
  SEALIFT_RETURN_IF_ERROR(journal_->Checkpoint().status());
  files_[kJournalPublicKeyFile] = files_.at(PublicKeyFile("journal", 1));
  if (!options_.journal.empty()) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(files_[kJournalFileName], ReadFile(journal_->path()));
  return OkStatus();
}

void Ceremony::DropJournal() {
  if (!options_.journal.empty()) return;
  std::error_code error;
  std::filesystem::remove(journal_->path(), error);
  if (error) log::Warning("journal of the ceremony stays", {{"path", journal_->path().string()}});
}

Status Ceremony::MakeKeys() {
  inventory_.set = options_.set;
  inventory_.owner = RandomGuid();
  inventory_.created = options_.now;
  SEALIFT_RETURN_IF_ERROR(maker_.Mark());
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const MadeKey* made, maker_.MakeNext(*journal_));
    if (made == nullptr) break;
    inventory_.keys.push_back(made->entry);
    files_[PublicKeyFile(made->entry.role, 1)] = ToBytes(made->public_key.Pem());
    if (made->signer != nullptr) signers_.emplace(made->entry.role, made->signer);
  }
  files_["tpm2-pcr-public.pem"] = files_.at(PublicKeyFile("pcr", 1));
  return OkStatus();
}

CertificateSpec Ceremony::Spec(std::string_view purpose) const {
  return {.common_name = fmt::format("{} {}", options_.set, purpose),
          .not_before = options_.now - kBackdate,
          .not_after = options_.now + hours(24) * options_.expiration_days};
}

Status Ceremony::Certify(std::string_view role, CertificateSpec spec) {
  const std::shared_ptr<Signer>& signer = signers_.find(role)->second;
  const std::string intent = fmt::format("certificate '{}'", spec.common_name);
  // Only the controller's is not its own issuer.
  const bool by_node_ca = role == "controller-tls";
  const auto certificate = by_node_ca ? IssueCertificate(spec, signer->public_key(), signers_.at("node-ca"),
                                                         certificates_.at("node-ca"), intent)
                                      : IssueSelfSigned(spec, signer, intent);
  if (!certificate.ok()) return certificate.status();
  InventoryKey& entry = Entry(role);
  entry.has_certificate = true;
  entry.certificate_fingerprint = certificate->fingerprint();
  entry.not_before = certificate->not_before();
  entry.not_after = certificate->not_after();
  files_[CertificateFile(role)] = ToBytes(certificate->Pem());
  certificates_.emplace(role, *certificate);
  return OkStatus();
}

Status Ceremony::CertifyController() {
  CertificateSpec spec = Spec("controller");
  spec.dns_names = dns_names_;
  spec.ip_addresses = ip_addresses_;
  spec.server_auth = true;
  SEALIFT_RETURN_IF_ERROR(Certify("controller-tls", spec));
  const TokenUri key = KeyUri(options_.tokens.at(Group::kOnline)->uri(), Entry("controller-tls").key_id);
  files_["controller-tls.key.pem"] = ToBytes(KeyReferencePem(key.Text()));
  return OkStatus();
}

Status Ceremony::MakeCertificates() {
  progress_("certificates of Secure Boot, extensions, node CA, operator CA and controller");
  SEALIFT_RETURN_IF_ERROR(Certify("pk", Spec("PK")));
  SEALIFT_RETURN_IF_ERROR(Certify("kek", Spec("KEK")));
  CertificateSpec db = Spec("db");
  db.code_signing = true;
  SEALIFT_RETURN_IF_ERROR(Certify("db", db));
  CertificateSpec extensions = Spec("extensions");
  extensions.code_signing = true;
  SEALIFT_RETURN_IF_ERROR(Certify("extensions", extensions));
  for (const auto& [role, purpose] :
       {std::pair{"node-ca", "node CA"}, std::pair{"operator-ca", "operator CA"}}) {
    CertificateSpec ca = Spec(purpose);
    ca.ca = true;
    ca.path_length = 0;
    SEALIFT_RETURN_IF_ERROR(Certify(role, ca));
  }
  return CertifyController();
}

// The set's own certificate first; then what the machines shall trust besides.
efi::SignatureLists Ceremony::ContentOf(std::string_view variable, std::string_view role) const {
  efi::SignatureLists lists;
  if (!role.empty())
    lists.push_back(efi::X509SignatureList(inventory_.owner, certificates_.find(role)->second.der()));
  const auto others = options_.enrolment.lists.find(variable);
  if (others == options_.enrolment.lists.end()) return lists;
  for (efi::SignatureList list : others->second) {
    for (efi::SignatureEntry& entry : list.entries)
      if (entry.owner == efi::Guid{}) entry.owner = inventory_.owner;
    lists.push_back(std::move(list));
  }
  return lists;
}

Status Ceremony::MakeVariable(const std::string& name, std::string_view role) {
  const efi::SignatureLists lists = ContentOf(name, role);
  if (lists.empty()) return OkStatus();
  const Bytes esl = efi::SerializeSignatureLists(lists);
  const std::string_view by = SignerRoleOf(name);
  SEALIFT_ASSIGN_OR_RETURN(const efi::VariableTarget target, efi::SecureBootVariable(name));
  SEALIFT_ASSIGN_OR_RETURN(const UnixMillis time, NextVariableTime(inventory_, name, options_.now));
  SEALIFT_ASSIGN_OR_RETURN(Bytes auth,
                           efi::BuildAuthenticatedVariable(target, time, esl, *signers_.find(by)->second,
                                                           certificates_.find(by)->second.der()));
  if (!role.empty()) files_[name + ".der"] = certificates_.find(role)->second.der();
  files_[name + ".esl"] = esl;
  files_[name + ".auth"] = std::move(auth);
  return OkStatus();
}

Status Ceremony::MakeVariables() {
  progress_("signature lists and authenticated variables PK, KEK, db");
  SEALIFT_RETURN_IF_ERROR(MakeVariable("PK", "pk"));
  SEALIFT_RETURN_IF_ERROR(MakeVariable("KEK", "kek"));
  SEALIFT_RETURN_IF_ERROR(MakeVariable("db", "db"));
  return MakeVariable("dbx", "");
}

Status Ceremony::MakeTufRoot() {
  progress_("TUF root, version 1");
  const tuf::Root root = tuf::MakeRoot(1, options_.now + hours(24) * options_.expiration_days,
                                       {{tuf::Role::kRoot, signers_.at("tuf-root")->public_key()},
                                        {tuf::Role::kTargets, signers_.at("tuf-targets")->public_key()},
                                        {tuf::Role::kSnapshot, signers_.at("tuf-snapshot")->public_key()},
                                        {tuf::Role::kTimestamp, signers_.at("tuf-timestamp")->public_key()}});
  tuf::Envelope envelope = tuf::MakeEnvelope(root);
  SEALIFT_RETURN_IF_ERROR(
      tuf::SignMetadata(tuf::Role::kRoot, envelope, *signers_.at("tuf-root"), "version 1"));
  files_["tuf/1.root.json"] = ToBytes(envelope.Serialize());
  return OkStatus();
}

// While the root token is at hand: without it a node obeys no order.
Status Ceremony::MakeDelegation() {
  progress_("delegation of orders");
  SEALIFT_ASSIGN_OR_RETURN(
      const std::string delegation,
      DelegateOrders(*signers_.at("orders-root"), {signers_.at("orders")->public_key()},
                     {certificates_.at("operator-ca")}, options_.now, options_.expiration_days));
  files_[std::string(order::kDelegationFile)] = ToBytes(delegation);
  return OkStatus();
}

Result<Inventory> Ceremony::Write() {
  SEALIFT_RETURN_IF_ERROR(EndJournal());
  files_[kInventoryFile] = ToBytes(inventory_.Serialize());
  // Before the folder appears: a kill in between must never let a later run take a finished set's keys.
  SEALIFT_RETURN_IF_ERROR(maker_.Unmark());
  const Written written = WriteFolderAtOnce(options_.folder, files_);
  in_place_ = written.in_place;
  SEALIFT_RETURN_IF_ERROR(written.status);
  progress_(fmt::format("wrote {} files to '{}'", files_.size(), options_.folder.string()));
  return inventory_;
}

}  // namespace

Result<Inventory> InitialiseKeySet(const KeySetOptions& options, const Progress& progress) {
  Ceremony ceremony(options, progress);
  SEALIFT_RETURN_IF_ERROR(ceremony.Check());
  SEALIFT_RETURN_IF_ERROR(ceremony.BeginJournal());
  Status status = ceremony.MakeKeys();
  if (status.ok()) status = ceremony.MakeCertificates();
  if (status.ok()) status = ceremony.MakeVariables();
  if (status.ok()) status = ceremony.MakeTufRoot();
  if (status.ok()) status = ceremony.MakeDelegation();
  Result<Inventory> written = status.ok() ? ceremony.Write() : Result<Inventory>(status);
  ceremony.DropJournal();
  if (written.ok()) return written;
  return ceremony.GiveUp(written.status());
}

// --- operators

namespace {

constexpr auto kOperatorRoles =
    std::to_array<std::string_view>({"viewer", "operator", "approver", "custodian"});

bool IsValidOperatorName(std::string_view name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= 64 && plain(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return plain(c) || c == '.' || c == '_' || c == '-'; });
}

}  // namespace

std::span<const std::string_view> OperatorRoles() { return kOperatorRoles; }

Result<Certificate> IssueOperatorCertificate(KeyRing& ring, const OperatorCertificateOptions& options,
                                             const PublicKey& key) {
  const auto refuse = [&](std::string_view what) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("issue operator certificate '{}': {}", options.name, what));
  };
  if (!IsValidOperatorName(options.name)) return refuse("a name is 1 to 64 of a-z, 0-9, '.', '_' and '-'");
  if (std::find(kOperatorRoles.begin(), kOperatorRoles.end(), options.role) == kOperatorRoles.end()) {
    return refuse(fmt::format("'{}' is none of {}", options.role, fmt::join(kOperatorRoles, ", ")));
  }
  if (options.valid_days < 1 || options.valid_days > kMaxOperatorDays) {
    return refuse(fmt::format("it cannot be valid for {} days", options.valid_days));
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> issuer, ring.SignerFor("operator-ca"));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate issuer_certificate, ring.CertificateFor("operator-ca"));
  const bool ended = issuer_certificate.not_after() < options.now;
  if (ended && !options.allow_expired) {
    return MakeError(Code::kFailedPrecondition, Reason::kSignerCertificateExpired,
                     fmt::format("issue operator certificate '{}': the operator CA's certificate ended at {}",
                                 options.name, FormatRfc3339(issuer_certificate.not_after())));
  }
  const UnixMillis end = options.now + hours(24) * options.valid_days;
  const CertificateSpec spec{.common_name = options.name,
                             .uris = {fmt::format("sealift:operator:{}?role={}", options.name, options.role)},
                             .client_auth = true,
                             .not_before = options.now - kBackdate,
                             .not_after = ended ? end : std::min(end, issuer_certificate.not_after())};
  return IssueCertificate(spec, key, issuer, issuer_certificate,
                          fmt::format("operator certificate '{}' role {}", options.name, options.role));
}

}  // namespace sealift::hsm
