#include "controller/cli/key_material.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "hsm/expiry.h"
#include "hsm/key_ring.h"
#include "hsm/microsoft_certificates.h"
#include "hsm/secure_boot.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/key_reference.h"

namespace sealift::cli {
namespace {

constexpr std::size_t kPemLine = 64;

std::string PemOf(std::string_view label, ByteView der) {
  const std::string base64 = Base64Encode(der);
  std::string pem = fmt::format("-----BEGIN {}-----\n", label);
  for (std::size_t at = 0; at < base64.size(); at += kPemLine) pem += base64.substr(at, kPemLine) + "\n";
  return pem + fmt::format("-----END {}-----\n", label);
}

void Warn(const std::string& line) { std::fprintf(stderr, "warning: %s\n", line.c_str()); }

struct RingArguments {
  std::string folder;
  std::vector<std::string> tokens;
  std::string journal;
  std::vector<std::string> generations;
  bool allow_expired = false;

  void AddTo(CLI::App& verb, const char* token_help) {
    verb.add_option("--keys", folder, "folder that keys init wrote")->required();
    verb.add_option("--token", tokens, token_help)->required()->allow_extra_args(false);
    AddJournalOption(verb, journal);
    AddGenerationOption(verb, generations);
  }
  Result<std::unique_ptr<hsm::KeyRing>> Open() const {
    SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
    return hsm::KeyRing::Open(folder, tokens, journal, generations);
  }
};

// --- sign-variable

struct SignArguments {
  RingArguments ring;
  std::string variable;
  std::string esl;
  std::string out;
  bool append = false;
};

Status SignVariable(const SignArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(Bytes content, ReadFile(arguments.esl, efi::kMaxSignatureListBytes));
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, arguments.ring.Open());
  const std::string_view by = hsm::SignerRoleOf(arguments.variable);
  if (!by.empty()) SEALIFT_RETURN_IF_ERROR(CheckCertificates(*ring, {by}, arguments.ring.allow_expired));
  SEALIFT_ASSIGN_OR_RETURN(const hsm::SignedUpdate update,
                           hsm::SignVariableUpdate(*ring, {.variable = arguments.variable,
                                                           .content = std::move(content),
                                                           .append = arguments.append,
                                                           .now = SystemClock().Now(),
                                                           .allow_expired = arguments.ring.allow_expired}));
  if (update.drops_own_certificate) {
    Warn(fmt::format("machines that take this {} no longer trust this set's own '{}' certificate",
                     arguments.variable, arguments.variable == "db" ? "db" : "kek"));
  }
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(arguments.out, update.auth));
  if (session.json()) {
    std::printf("%s\n", nlohmann::json({{"file", arguments.out},
                                        {"variable", arguments.variable},
                                        {"attributes", arguments.append ? "0x67" : "0x27"},
                                        {"timestamp", FormatRfc3339(update.time)},
                                        {"signer", std::string(by)},
                                        {"drops_own_certificate", update.drops_own_certificate},
                                        {"sha256", Sha256(update.auth).hex()}})
                            .dump(2)
                            .c_str());
  } else {
    std::printf("%s: %s %s, signed by '%s', time stamp %s\n", arguments.out.c_str(),
                arguments.append ? "appends to" : "replaces", arguments.variable.c_str(),
                std::string(by).c_str(), FormatRfc3339(update.time).c_str());
  }
  return OkStatus();
}

void AddSignVerb(CLI::App& keys, Session& session) {
  const auto sign = std::make_shared<SignArguments>();
  CLI::App* verb = AddVerb(
      keys, session, "sign-variable",
      "make an .auth file that machines in user mode accept as an update of KEK, db or dbx",
      "sealift inspect esl-create --sha256 OWNER-GUID=HEX --out revoked.esl\n"
      "  sealift keys sign-variable dbx --append --esl revoked.esl --keys keys --token root=URI \\\n"
      "    --out dbx-update.auth\n"
      "On the machine:  efi-updatevar -a -f dbx-update.auth dbx    (without -a when it replaces), or write\n"
      "  the attributes (0x67 appending, 0x27 replacing; four bytes, little-endian) and the file in one go "
      "to\n"
      "  /sys/firmware/efi/efivars/dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f.\n"
      "KEK is signed by the set's PK, db and dbx by its KEK. Time stamps grow with every file, so apply them "
      "in\nthe order in which they were made.",
      [sign, &session] { return SignVariable(*sign, session); });
  verb->add_option("VARIABLE", sign->variable, "KEK, db or dbx")
      ->required()
      ->check(CLI::IsMember({"KEK", "db", "dbx"}));
  verb->add_option("--esl", sign->esl, "signature lists: the new content, or what is added to the old")
      ->required();
  verb->add_flag("--append", sign->append, "add to the variable instead of replacing it");
  verb->add_option("--out", sign->out, "file to write")->required();
  sign->ring.AddTo(*verb, "root=URI: the token of PK and KEK");
  AddExpiredOption(*verb, sign->ring.allow_expired);
}

// --- csr, import-cert

struct RequestArguments {
  RingArguments ring;
  std::string role;
  std::string common_name;
  std::string out;
};

Status MakeRequest(const RequestArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, arguments.ring.Open());
  SEALIFT_ASSIGN_OR_RETURN(const Bytes der,
                           hsm::RequestCertificate(*ring, arguments.role, arguments.common_name));
  SEALIFT_ASSIGN_OR_RETURN(const hsm::InventoryKey* key, ring->KeyFor(arguments.role));
  const std::string pem = PemOf("CERTIFICATE REQUEST", der);
  if (!arguments.out.empty()) SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(arguments.out, AsBytes(pem)));
  if (session.json()) {
    std::printf("%s\n", nlohmann::json({{"role", arguments.role},
                                        {"file", arguments.out},
                                        {"request_pem", pem},
                                        {"key_id", key->key_id.hex()}})
                            .dump(2)
                            .c_str());
  } else {
    std::printf("%s", arguments.out.empty() ? pem.c_str() : (arguments.out + "\n").c_str());
  }
  return OkStatus();
}

struct ImportArguments {
  RingArguments ring;
  std::string role;
  std::string file;
};

// DER or PEM; of several in one PEM file the one that is of a key of the role, else the first.
Result<Certificate> ReadCertificate(const std::string& file,
                                    const std::vector<const hsm::InventoryKey*>& keys) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file, kMaxCertificateBytes * kMaxChainLength));
  if (AsText(bytes).find("-----BEGIN") == std::string_view::npos) return Certificate::FromDer(bytes);
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Certificate> chain, Certificate::ChainFromPem(AsText(bytes)));
  for (const Certificate& one : chain) {
    for (const hsm::InventoryKey* key : keys)
      if (one.public_key().key_id() == key->key_id) return one;
  }
  return chain.front();
}

Status Import(const ImportArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, arguments.ring.Open());
  const auto certificate = ReadCertificate(arguments.file, ring->inventory().Generations(arguments.role));
  if (!certificate.ok()) return Annotate(certificate.status(), fmt::format("import '{}'", arguments.file));
  const std::string_view signer = hsm::SignerRoleOf(hsm::VariableOfRole(arguments.role));
  if (!signer.empty() && signer != arguments.role)
    SEALIFT_RETURN_IF_ERROR(CheckCertificates(*ring, {signer}, arguments.ring.allow_expired));
  SEALIFT_ASSIGN_OR_RETURN(const hsm::Inventory inventory,
                           hsm::ImportCertificate(*ring, arguments.role, *certificate, SystemClock().Now(),
                                                  arguments.ring.allow_expired));
  if (session.json()) {
    std::printf("%s\n", nlohmann::json({{"role", arguments.role},
                                        {"subject", certificate->SubjectText()},
                                        {"issuer", certificate->IssuerText()},
                                        {"sha256", certificate->fingerprint().hex()},
                                        {"not_after", FormatRfc3339(certificate->not_after())}})
                            .dump(2)
                            .c_str());
  } else {
    std::printf("'%s' now has the certificate '%s' of '%s', until %s\n", arguments.role.c_str(),
                certificate->SubjectText().c_str(), certificate->IssuerText().c_str(),
                FormatRfc3339(certificate->not_after()).c_str());
  }
  return CheckCertificates(inventory, {arguments.role}, true);
}

void AddCertificateVerbs(CLI::App& keys, Session& session) {
  const auto request = std::make_shared<RequestArguments>();
  CLI::App* csr = AddVerb(keys, session, "csr",
                          "ask a private CA for the certificate of pk, kek or db; the key stays in its token",
                          "sealift keys csr db --keys keys --token release=URI --out db.csr",
                          [request, &session] { return MakeRequest(*request, session); });
  csr->add_option("ROLE", request->role, "pk, kek or db")
      ->required()
      ->check(CLI::IsMember({"pk", "kek", "db"}));
  csr->add_option("--common-name", request->common_name,
                  "asked for; the set's name and the variable if absent");
  csr->add_option("--out", request->out, "file to write, PEM; standard output if absent");
  request->ring.AddTo(*csr, "GROUP=URI: the role's token, root for pk and kek, release for db");

  const auto import = std::make_shared<ImportArguments>();
  CLI::App* import_verb = AddVerb(
      keys, session, "import-cert",
      "put a CA's certificate in the place of the own one of pk, kek or db and write their files anew",
      "sealift keys import-cert db --cert db.crt --keys keys --token root=URI",
      [import, &session] { return Import(*import, session); });
  import_verb->add_option("ROLE", import->role, "pk, kek or db")
      ->required()
      ->check(CLI::IsMember({"pk", "kek", "db"}));
  import_verb->add_option("--cert", import->file, "the certificate, PEM or DER")->required();
  import->ring.AddTo(*import_verb, "root=URI: the token of PK and KEK, which sign the variables");
  AddExpiredOption(*import_verb, import->ring.allow_expired);
}

}  // namespace

void AddEnrolmentOptions(CLI::App& verb, EnrolmentArguments& arguments) {
  std::string names;
  for (const hsm::MicrosoftCertificate& one : hsm::MicrosoftCertificates())
    names += fmt::format("{}{}", names.empty() ? "" : ", ", one.name);
  CLI::Option* skip =
      verb.add_flag(kSkipMicrosoft, arguments.skip_microsoft,
                    "no Microsoft certificates; may keep machines with signed option ROMs from starting");
  verb.add_option(
          "--microsoft-certs", arguments.microsoft_names,
          fmt::format("exactly these Microsoft certificates, comma-separated, of {}; if absent, all of "
                      "the source but those for Windows",
                      names))
      ->delimiter(',')
      ->allow_extra_args(false)
      ->excludes(skip);
  verb.add_option("--microsoft-cert-source", arguments.microsoft_source,
                  "folder with Microsoft's certificates, or a variable store of OVMF; if absent, the one of "
                  "Debian's ovmf package")
      ->excludes(skip);
  verb.add_option("--custom-cert-dir", arguments.custom_folder,
                  "folder with a machine's firmware exports named PK, KEK, db, dbx (signature lists, .auth, "
                  "efivarfs, .der, .crt): their entries are enrolled too");
}

Result<hsm::EnrolmentContent> LoadEnrolment(const EnrolmentArguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(hsm::EnrolmentContent content,
                           hsm::PrepareEnrolment({.microsoft = !arguments.skip_microsoft,
                                                  .microsoft_source = arguments.microsoft_source,
                                                  .microsoft_names = arguments.microsoft_names,
                                                  .custom_folder = arguments.custom_folder}));
  for (const std::string& line : content.warnings) Warn(line);
  return content;
}

void PrintEnrolment(const hsm::EnrolmentContent& content) {
  if (content.entries.empty()) return;
  fmt::print("enrolled beside the set's own certificates:\n");
  for (const hsm::EnrolledEntry& one : content.entries) {
    fmt::print("  {:<4} {:<10} {:<12} {}\n", one.variable, one.origin, one.type,
               one.text.empty() ? one.sha256 : one.text);
  }
}

std::string EnrolmentJson(const hsm::Inventory& inventory, const hsm::EnrolmentContent& content) {
  nlohmann::json object = nlohmann::json::parse(inventory.Serialize());
  nlohmann::json enrolled = nlohmann::json::array();
  for (const hsm::EnrolledEntry& one : content.entries) {
    enrolled.push_back({{"variable", one.variable},
                        {"origin", one.origin},
                        {"type", one.type},
                        {"sha256", one.sha256},
                        {"text", one.text}});
  }
  object["enrolled"] = std::move(enrolled);
  object["warnings"] = content.warnings;
  return object.dump(2) + "\n";
}

Status CheckCertificates(const hsm::Inventory& inventory, const std::vector<std::string_view>& roles,
                         bool allow_expired) {
  const UnixMillis now = SystemClock().Now();
  if (!allow_expired) SEALIFT_RETURN_IF_ERROR(hsm::CheckNotExpired(inventory, roles, now));
  for (const hsm::ExpiringCertificate& one : hsm::ExpiringCertificates(inventory, roles, now)) Warn(one.text);
  return OkStatus();
}

void AddExpiredOption(CLI::App& verb, bool& allow_expired) {
  verb.add_flag("--allow-expired-certificate", allow_expired,
                "sign although the certificate of the signing key has ended");
}

void AddKeyMaterialVerbs(CLI::App& keys, Session& session) {
  AddSignVerb(keys, session);
  AddCertificateVerbs(keys, session);
}

}  // namespace sealift::cli
