#include "hsm/generation.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "hsm/ceremony_files.h"
#include "hsm/expiry.h"
#include "hsm/next_root.h"
#include "hsm/secure_boot.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/key_reference.h"
#include "shared/efi/signature_list.h"

namespace sealift::hsm {
namespace {

using std::chrono::hours;

// As in the first ceremony: clocks of nodes may be behind.
constexpr auto kBackdate = hours(1);
// 9999-12-31T23:59:59Z.
constexpr UnixMillis kEndOfTime{std::chrono::milliseconds(253402300799000)};

Status BadOption(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, fmt::format("add generation: {}", what));
}

std::string Der(const std::string& pem_file) {
  return std::filesystem::path(pem_file).replace_extension(".der");
}

// IP addresses of the subject alternative name, as text.
std::vector<std::string> IpAddressesOf(const Certificate& certificate) {
  const CPtr<GENERAL_NAMES, GENERAL_NAMES_free> names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate.x509(), NID_subject_alt_name, nullptr, nullptr)));
  std::vector<std::string> found;
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_IPADD) continue;
    const bool v4 = ASN1_STRING_length(name->d.iPAddress) == 4;
    if (!v4 && ASN1_STRING_length(name->d.iPAddress) != 16) continue;
    std::array<char, INET6_ADDRSTRLEN> text{};
    inet_ntop(v4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(name->d.iPAddress), text.data(), text.size());
    found.emplace_back(text.data());
  }
  return found;
}

bool HoldsOnlyKey(const efi::SignatureList& list, const Sha256Digest& key_id) {
  if (list.type != efi::kCertX509 || list.entries.size() != 1) return false;
  const auto certificate = Certificate::FromDer(list.entries[0].data);
  return certificate.ok() && certificate->public_key().key_id() == key_id;
}

// Content of "PK.esl" and the others, as one machine holds it.
using KeptSet = std::map<std::string, Bytes, std::less<>>;

Result<KeptSet> ReadSet(const std::filesystem::path& folder) {
  KeptSet lists;
  for (const char* name : {"PK.esl", "KEK.esl", "db.esl", "dbx.esl"}) {
    std::error_code error;
    if (!std::filesystem::exists(folder / name, error)) continue;
    SEALIFT_ASSIGN_OR_RETURN(lists[name], ReadFile(folder / name, efi::kMaxSignatureListBytes));
  }
  return lists;
}

// Those in earlier/.
Result<std::vector<KeptSet>> KeptSets(const std::filesystem::path& folder) {
  std::vector<KeptSet> sets;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder / "earlier", error), end; !error && entry != end;
       entry.increment(error)) {
    SEALIFT_ASSIGN_OR_RETURN(KeptSet one, ReadSet(entry->path()));
    sets.push_back(std::move(one));
  }
  if (!error || error == std::errc::no_such_file_or_directory) return sets;
  return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                   fmt::format("read '{}': {}", (folder / "earlier").string(), error.message()));
}

// One run of AddGeneration, with the set's folder locked. Steps run in the order of the public functions.
class GenerationRun {
 public:
  GenerationRun(KeyRing& ring, const GenerationOptions& options, const Progress& progress)
      : ring_(ring),
        options_(options),
        progress_(progress),
        inventory_(ring.inventory()),
        maker_(inventory_.set, fmt::format("add generation to key set '{}'", inventory_.set),
               // Apart from the mark of `keys init`: finished keys lie in the same token.
               inventory_.set + ":generation", progress) {}

  Status Check();
  Status Mark() { return maker_.Mark(); }
  Status MakeKeys();
  Status MakeCertificates();
  Status MakeVariables();
  Status MakeTufRoot();
  Result<AddedGeneration> Write();
  // What became of the keys after `why`.
  Status GiveUp(const Status& why);

 private:
  bool Adds(std::string_view role) const { return planned_.count(std::string(role)) != 0; }
  Status PlanRole(const Role& role);
  Status CheckSigner(std::string_view role);
  Status Certify(std::string_view role, const CertificateSpec& spec);
  Result<Certificate> Issue(std::string_view role, CertificateSpec spec);
  Status CertifyController();
  Status GrowVariable(std::string_view variable, std::string_view role, std::string_view by);
  Status ReplacePk();
  Status KeepSets();
  CertificateSpec Spec(std::string_view role, std::string_view purpose) const;
  Result<efi::SignatureLists> ListsOf(std::string_view variable) const;
  Result<Bytes> Sign(std::string_view variable, bool append, ByteView content, Signer& signer,
                     const Certificate& certificate);
  InventoryKey& Entry(std::string_view role);

  KeyRing& ring_;
  const GenerationOptions& options_;
  const Progress& progress_;
  Inventory inventory_;
  KeyMaker maker_;
  // By role: the generation to be made.
  std::map<std::string, std::uint32_t, std::less<>> planned_;
  std::map<std::string, const MadeKey*, std::less<>> made_;
  std::map<std::string, Certificate, std::less<>> certificates_;
  // New files first, then those that are replaced.
  std::map<std::string, Bytes> new_files_;
  std::vector<std::pair<std::string, Bytes>> replaced_;
  Written::InPlace in_place_ = Written::InPlace::kNothing;
};

InventoryKey& GenerationRun::Entry(std::string_view role) {
  const auto found = std::ranges::find_if(inventory_.keys, [&](const InventoryKey& key) {
    return key.role == role && key.generation == planned_.find(role)->second;
  });
  SEALIFT_CHECK(found != inventory_.keys.end());
  return *found;
}

Status GenerationRun::PlanRole(const Role& role) {
  const auto token = options_.tokens.find(role.group);
  if (token == options_.tokens.end()) {
    return BadOption(
        fmt::format("no token for new keys of group '{0}', which '{1}' belongs to; add "
                    "--new-token {0}=URI",
                    GroupName(role.group), role.name));
  }
  const InventoryKey* newest = inventory_.Newest(role.name);
  const std::uint32_t next = newest == nullptr ? 1 : newest->generation + 1;
  if (options_.generation != 0 && options_.generation < next) {
    return MakeError(Code::kAlreadyExists, Reason::kKeyGenerationExists,
                     fmt::format("add generation {} of '{}': the set has {} of it", options_.generation,
                                 role.name, next - 1));
  }
  if (options_.generation > next) {
    return BadOption(
        fmt::format("generation {} of '{}' does not follow {}", options_.generation, role.name, next - 1));
  }
  if (!planned_.emplace(role.name, next).second) {
    return BadOption(fmt::format("role '{}' is named twice", role.name));
  }
  const auto wanted = options_.algorithms.find(role.name);
  return maker_.Plan(
      role, next, token->second,
      wanted == options_.algorithms.end() ? std::nullopt : std::optional<KeyAlgorithm>(wanted->second));
}

Status GenerationRun::CheckSigner(std::string_view role) {
  SEALIFT_ASSIGN_OR_RETURN(const InventoryKey* key, ring_.KeyFor(role));
  if (!options_.allow_expired) SEALIFT_RETURN_IF_ERROR(CheckNotExpired(*key, options_.now));
  return ring_.SignerFor(*key).status();
}

Status GenerationRun::Check() {
  const auto most = std::chrono::floor<std::chrono::days>(kEndOfTime - options_.now).count();
  if (options_.expiration_days < 1 || options_.expiration_days > most) {
    return BadOption(
        fmt::format("an expiration of {} days is not from 1 to {}", options_.expiration_days, most));
  }
  if (ring_.journal() == nullptr) return BadOption("no token was given");
  for (const std::string& name : options_.roles) {
    const Role* role = FindRole(name);
    if (role == nullptr) return BadOption(fmt::format("there is no role '{}'", name));
    SEALIFT_RETURN_IF_ERROR(PlanRole(*role));
  }
  for (const Role& role : AllRoles()) {
    if (!options_.roles.empty() || options_.tokens.count(role.group) == 0) continue;
    SEALIFT_RETURN_IF_ERROR(PlanRole(role));
  }
  for (const auto& [role, algorithm] : options_.algorithms) {
    if (!Adds(role))
      return BadOption(fmt::format("an algorithm is chosen for '{}', which gets no key", role));
  }
  if (planned_.empty()) return BadOption("no role is named");
  if (Adds("kek") || Adds("pk")) SEALIFT_RETURN_IF_ERROR(CheckSigner("pk"));
  if (Adds("db")) SEALIFT_RETURN_IF_ERROR(CheckSigner("kek"));
  if (Adds("controller-tls") && !Adds("node-ca")) SEALIFT_RETURN_IF_ERROR(CheckSigner("node-ca"));
  const bool tuf =
      std::ranges::any_of(planned_, [](const auto& one) { return one.first.starts_with("tuf-"); });
  if (tuf) SEALIFT_RETURN_IF_ERROR(CheckSigner("tuf-root"));
  return OkStatus();
}

Status GenerationRun::MakeKeys() {
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const MadeKey* made, maker_.MakeNext(*ring_.journal()));
    if (made == nullptr) return OkStatus();
    const InventoryKey& entry = made->entry;
    inventory_.keys.push_back(entry);
    made_.emplace(entry.role, made);
    const Bytes pem = ToBytes(made->public_key.Pem());
    new_files_[PublicKeyFile(entry.role, entry.generation)] = pem;
    if (entry.role == "pcr") new_files_[fmt::format("tpm2-pcr-public-{}.pem", entry.generation)] = pem;
    if (entry.role == "journal") new_files_[fmt::format("journal-{}.pub.pem", entry.generation)] = pem;
  }
}

CertificateSpec GenerationRun::Spec(std::string_view role, std::string_view purpose) const {
  const std::uint32_t generation = planned_.find(role)->second;
  // A name of its own: two CAs of one name confuse those who build chains by names.
  return {.common_name = generation == 1 ? fmt::format("{} {}", inventory_.set, purpose)
                                         : fmt::format("{} {} {}", inventory_.set, purpose, generation),
          .not_before = options_.now - kBackdate,
          .not_after = options_.now + hours(24) * options_.expiration_days};
}

Status GenerationRun::Certify(std::string_view role, const CertificateSpec& spec) {
  SEALIFT_ASSIGN_OR_RETURN(Certificate certificate, Issue(role, spec));
  InventoryKey& entry = Entry(role);
  entry.has_certificate = true;
  entry.certificate_fingerprint = certificate.fingerprint();
  entry.not_before = certificate.not_before();
  entry.not_after = certificate.not_after();
  const std::string file = CertificateFile(role, entry.generation);
  new_files_[file] = ToBytes(certificate.Pem());
  if (!VariableOfRole(role).empty()) new_files_[Der(file)] = certificate.der();
  certificates_.emplace(role, std::move(certificate));
  return OkStatus();
}

// Only the controller's is not its own issuer.
Result<Certificate> GenerationRun::Issue(std::string_view role, CertificateSpec spec) {
  const MadeKey& made = *made_.find(role)->second;
  const std::string intent = fmt::format("certificate '{}'", spec.common_name);
  if (role != "controller-tls") return IssueSelfSigned(spec, made.signer, intent);
  if (Adds("node-ca")) {
    return IssueCertificate(spec, made.public_key, made_.at("node-ca")->signer, certificates_.at("node-ca"),
                            intent);
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> ca, ring_.SignerFor("node-ca"));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate ca_certificate, ring_.CertificateFor("node-ca"));
  spec.not_after = std::min(spec.not_after, ca_certificate.not_after());
  return IssueCertificate(spec, made.public_key, ca, ca_certificate, intent);
}

// Under the names of the one before.
Status GenerationRun::CertifyController() {
  CertificateSpec spec = Spec("controller-tls", "controller");
  const InventoryKey* before = ring_.inventory().Newest("controller-tls");
  if (before == nullptr) return BadOption("the set has no 'controller-tls' whose names a new one could take");
  SEALIFT_ASSIGN_OR_RETURN(const Certificate present, ring_.CertificateFor(*before));
  spec.dns_names = present.dns_names();
  spec.ip_addresses = IpAddressesOf(present);
  spec.server_auth = true;
  SEALIFT_RETURN_IF_ERROR(Certify("controller-tls", spec));
  const InventoryKey& entry = Entry("controller-tls");
  const TokenUri key = KeyUri(options_.tokens.at(Group::kOnline)->uri(), entry.key_id);
  new_files_[fmt::format("controller-tls-{}.key.pem", entry.generation)] =
      ToBytes(KeyReferencePem(key.Text()));
  return OkStatus();
}

Status GenerationRun::MakeCertificates() {
  if (Adds("pk")) SEALIFT_RETURN_IF_ERROR(Certify("pk", Spec("pk", "PK")));
  if (Adds("kek")) SEALIFT_RETURN_IF_ERROR(Certify("kek", Spec("kek", "KEK")));
  if (Adds("db")) {
    CertificateSpec db = Spec("db", "db");
    db.code_signing = true;
    SEALIFT_RETURN_IF_ERROR(Certify("db", db));
  }
  if (Adds("extensions")) {
    CertificateSpec extensions = Spec("extensions", "extensions");
    extensions.code_signing = true;
    SEALIFT_RETURN_IF_ERROR(Certify("extensions", extensions));
  }
  for (const auto& [role, purpose] :
       {std::pair{"node-ca", "node CA"}, std::pair{"operator-ca", "operator CA"}}) {
    if (!Adds(role)) continue;
    CertificateSpec ca = Spec(role, purpose);
    ca.ca = true;
    ca.path_length = 0;
    SEALIFT_RETURN_IF_ERROR(Certify(role, ca));
  }
  return Adds("controller-tls") ? CertifyController() : OkStatus();
}

Result<efi::SignatureLists> GenerationRun::ListsOf(std::string_view variable) const {
  const auto file = ring_.folder() / fmt::format("{}.esl", variable);
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file, efi::kMaxSignatureListBytes));
  auto lists = efi::ParseSignatureLists(bytes);
  if (!lists.ok()) return Annotate(lists.status(), fmt::format("read '{}'", file.string()));
  return lists;
}

Result<Bytes> GenerationRun::Sign(std::string_view variable, bool append, ByteView content, Signer& signer,
                                  const Certificate& certificate) {
  SEALIFT_ASSIGN_OR_RETURN(const UnixMillis time, NextVariableTime(inventory_, variable, options_.now));
  return SignAndVerifyVariable(variable, append, time, content, signer, certificate);
}

// The new certificate goes to the end, where firmware puts what is appended: both ways lead to the same
// content, and so to the same PCR 7. One of a run that was cut off is taken out.
Status GenerationRun::GrowVariable(std::string_view variable, std::string_view role, std::string_view by) {
  const InventoryKey& entry = Entry(role);
  SEALIFT_ASSIGN_OR_RETURN(efi::SignatureLists lists, ListsOf(variable));
  std::erase_if(lists, [&](const efi::SignatureList& list) { return HoldsOnlyKey(list, entry.key_id); });
  const efi::SignatureList added =
      efi::X509SignatureList(inventory_.owner, certificates_.find(role)->second.der());
  lists.push_back(added);
  const Bytes grown = efi::SerializeSignatureLists(lists);
  const Bytes alone = efi::SerializeSignatureLists(efi::SignatureLists{added});
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring_.SignerFor(by));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, ring_.CertificateFor(by));
  // The addition first: a machine that took it still takes the full list.
  SEALIFT_ASSIGN_OR_RETURN(Bytes addition, Sign(variable, true, alone, *signer, certificate));
  SEALIFT_ASSIGN_OR_RETURN(Bytes full, Sign(variable, false, grown, *signer, certificate));
  const std::string update = fmt::format("updates/{}-{}", variable, entry.generation);
  new_files_[update + ".esl"] = alone;
  new_files_[update + ".auth"] = std::move(addition);
  replaced_.emplace_back(fmt::format("{}.esl", variable), grown);
  replaced_.emplace_back(fmt::format("{}.auth", variable), std::move(full));
  return OkStatus();
}

// Firmware keeps one certificate in PK, so this is no growth: the present PK signs its successor, and what
// the folder is to hold once machines took it stands ready beside it.
Status GenerationRun::ReplacePk() {
  const std::uint32_t generation = Entry("pk").generation;
  const Certificate& next = certificates_.at("pk");
  Signer& next_signer = *made_.at("pk")->signer;
  const Bytes esl =
      efi::SerializeSignatureLists(efi::SignatureLists{efi::X509SignatureList(inventory_.owner, next.der())});
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring_.SignerFor("pk"));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, ring_.CertificateFor("pk"));
  SEALIFT_ASSIGN_OR_RETURN(Bytes handed_over, Sign("PK", false, esl, *signer, certificate));
  SEALIFT_ASSIGN_OR_RETURN(Bytes self_signed, Sign("PK", false, esl, next_signer, next));
  Bytes kek;
  const auto grown = std::ranges::find(replaced_, "KEK.esl", &std::pair<std::string, Bytes>::first);
  if (grown != replaced_.end()) {
    kek = grown->second;
  } else {
    SEALIFT_ASSIGN_OR_RETURN(kek, ReadFile(ring_.folder() / "KEK.esl", efi::kMaxSignatureListBytes));
  }
  SEALIFT_ASSIGN_OR_RETURN(Bytes kek_auth, Sign("KEK", false, kek, next_signer, next));
  new_files_[fmt::format("updates/PK-{}.esl", generation)] = esl;
  new_files_[fmt::format("updates/PK-{}.auth", generation)] = std::move(handed_over);
  const std::string folder = fmt::format("updates/pk-{}/", generation);
  new_files_[folder + "PK.esl"] = esl;
  new_files_[folder + "PK.auth"] = std::move(self_signed);
  new_files_[folder + "KEK.auth"] = std::move(kek_auth);
  return OkStatus();
}

// Machines take the updates one by one, in any order, or not at all, and are predicted by what they hold:
// each set of lists there was, with some of its lists replaced, but for what the folder itself holds from now
// on.
Status GenerationRun::KeepSets() {
  std::vector<std::pair<std::string, Bytes>> changes;
  for (const auto& [name, content] : replaced_) {
    if (name.ends_with(".esl")) changes.emplace_back(name, content);
  }
  if (Adds("pk")) {
    changes.emplace_back("PK.esl", new_files_.at(fmt::format("updates/PK-{}.esl", Entry("pk").generation)));
  }
  SEALIFT_ASSIGN_OR_RETURN(std::vector<KeptSet> sets, KeptSets(ring_.folder()));
  const std::size_t kept = sets.size();
  SEALIFT_ASSIGN_OR_RETURN(KeptSet present, ReadSet(ring_.folder()));
  sets.push_back(present);
  // The hand-over of PK comes when somebody changes the folder; until then it holds the old one.
  KeptSet next = present;
  for (const auto& [name, content] : replaced_) {
    if (name.ends_with(".esl")) next[name] = content;
  }
  for (const auto& [name, content] : changes) {
    for (std::size_t i = 0, present_size = sets.size(); i < present_size; ++i) {
      KeptSet changed = sets[i];
      changed[name] = content;
      if (std::ranges::find(sets, changed) == sets.end()) sets.push_back(std::move(changed));
    }
  }
  std::string time = FormatRfc3339(options_.now);
  std::ranges::replace(time, ':', '-');
  std::size_t number = 0;
  const auto unused = [&] {
    for (;;) {
      ++number;
      std::string folder =
          number == 1 ? fmt::format("earlier/{}", time) : fmt::format("earlier/{}-{}", time, number);
      std::error_code error;
      if (!std::filesystem::exists(ring_.folder() / folder, error)) return folder;
    }
  };
  for (std::size_t i = kept; i < sets.size(); ++i) {
    if (sets[i] == next && !Adds("pk")) continue;
    const std::string folder = unused();
    for (auto& [name, content] : sets[i]) new_files_[folder + "/" + name] = std::move(content);
  }
  return OkStatus();
}

Status GenerationRun::MakeVariables() {
  if (Adds("kek")) SEALIFT_RETURN_IF_ERROR(GrowVariable("KEK", "kek", "pk"));
  if (Adds("kek")) {
    const auto grown = std::ranges::find(replaced_, "KEK.esl", &std::pair<std::string, Bytes>::first);
    SEALIFT_ASSIGN_OR_RETURN(auto ready, SignForPendingPks(ring_, inventory_, grown->second, options_.now));
    for (auto& one : ready) replaced_.push_back(std::move(one));
  }
  if (Adds("db")) SEALIFT_RETURN_IF_ERROR(GrowVariable("db", "db", "kek"));
  if (Adds("pk")) SEALIFT_RETURN_IF_ERROR(ReplacePk());
  return Adds("kek") || Adds("db") || Adds("pk") ? KeepSets() : OkStatus();
}

Status GenerationRun::MakeTufRoot() {
  std::map<tuf::Role, PublicKey> added;
  for (const auto& [role, name] : {std::pair{tuf::Role::kRoot, "tuf-root"},
                                   {tuf::Role::kTargets, "tuf-targets"},
                                   {tuf::Role::kSnapshot, "tuf-snapshot"},
                                   {tuf::Role::kTimestamp, "tuf-timestamp"}}) {
    if (Adds(name)) added.emplace(role, made_.find(name)->second->public_key);
  }
  if (added.empty()) return OkStatus();
  std::vector<std::shared_ptr<Signer>> signers;
  for (const InventoryKey* key : ring_.inventory().Generations("tuf-root")) {
    auto signer = ring_.SignerFor(*key);
    if (!signer.ok() && ReasonOf(signer.status()) == Reason::kHsmKeyMissing) continue;
    if (!signer.ok()) return signer.status();
    signers.push_back(*std::move(signer));
  }
  if (Adds("tuf-root")) signers.push_back(made_.at("tuf-root")->signer);
  SEALIFT_ASSIGN_OR_RETURN(const NextRoot next,
                           MakeNextRoot(ring_.folder() / "tuf", added,
                                        options_.now + hours(24) * options_.expiration_days, signers));
  progress_(fmt::format("TUF root, version {}", next.version));
  new_files_[fmt::format("tuf/{}.root.json", next.version)] = ToBytes(next.json);
  return OkStatus();
}

Result<AddedGeneration> GenerationRun::Write() {
  std::vector<std::pair<std::string, Bytes>> files(new_files_.begin(), new_files_.end());
  files.insert(files.end(), replaced_.begin(), replaced_.end());
  files.emplace_back(kInventoryFile, ToBytes(inventory_.Serialize()));
  const Written written = ReplaceFiles(ring_.folder(), files);
  in_place_ = written.in_place;
  SEALIFT_RETURN_IF_ERROR(written.status);
  AddedGeneration added{.inventory = inventory_, .keys = {}, .files = {}};
  for (const auto& [role, generation] : planned_) added.keys.push_back(KeyName(role, generation));
  for (auto& [name, content] : files) added.files.push_back(std::move(name));
  // The inventory lists the keys now: nobody takes them for left ones, marked or not.
  if (const Status unmarked = maker_.Unmark(); !unmarked.ok()) {
    log::Warning("a token stays marked as unfinished", {{"error", MessageOf(unmarked)}});
  }
  return added;
}

// Once a list or a TUF root names a key, nobody may destroy it.
Status GenerationRun::GiveUp(const Status& why) {
  switch (in_place_) {
    case Written::InPlace::kNothing:
      return maker_.TakeBack(why, ring_.journal().get());
    case Written::InPlace::kSome:
      return maker_.Keep(why);
    case Written::InPlace::kAll:
      break;
  }
  return Annotate(why, "add generation: all is in place, and may be gone again after a power cut");
}

}  // namespace

Result<AddedGeneration> AddGeneration(KeyRing& ring, const GenerationOptions& options,
                                      const Progress& progress) {
  SEALIFT_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(ring.folder()));
  SEALIFT_ASSIGN_OR_RETURN(const Inventory present, Inventory::Load(ring.folder()));
  if (present.Serialize() != ring.inventory().Serialize()) {
    return MakeError(Code::kUnavailable, Reason::kKeySetInvalid,
                     "add generation: the key set was changed meanwhile; try again");
  }
  GenerationRun run(ring, options, progress);
  SEALIFT_RETURN_IF_ERROR(run.Check());
  for (const auto& [group, token] : options.tokens) token->RecordIn(ring.journal());
  Status status = run.Mark();
  if (status.ok()) status = run.MakeKeys();
  if (status.ok()) status = run.MakeCertificates();
  if (status.ok()) status = run.MakeVariables();
  if (status.ok()) status = run.MakeTufRoot();
  if (!status.ok()) return run.GiveUp(status);
  auto written = run.Write();
  return written.ok() ? written : run.GiveUp(written.status());
}

}  // namespace sealift::hsm
