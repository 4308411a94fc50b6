// `sealift inspect`: looks into the binary formats of Secure Boot and TPMs, without controller, token or TPM.
#include "controller/cli/inspect_verbs.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/inspect_answer.h"
#include "controller/cli/inspect_media_verbs.h"
#include "shared/base/clock.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/efi/auth_variable.h"
#include "shared/efi/signature_list.h"
#include "shared/efi/win_certificate.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

constexpr std::size_t kAttributeBytes = 4;

// What follows the entry's hash in an x509_sha256 entry: since when its certificate is revoked.
std::string RevocationTime(ByteView data) {
  ByteReader reader(data, ByteReader::Endian::kLittle);
  reader.Skip(32);
  const unsigned year = reader.U16();
  const unsigned month = reader.U8();
  const unsigned day = reader.U8();
  const unsigned hour = reader.U8();
  const unsigned minute = reader.U8();
  const unsigned second = reader.U8();
  if (!reader.ok() || year == 0) return "always";
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", year, month, day, hour, minute, second);
}

json EntryJson(const efi::Guid& type, const efi::SignatureEntry& entry) {
  json object = {
      {"owner", entry.owner.text()}, {"size", entry.data.size()}, {"sha256", Sha256(entry.data).hex()}};
  const ByteView hash = efi::HashOfEntry(type, entry.data);
  if (!hash.empty()) object["value"] = HexEncode(hash);
  if (type == efi::kCertX509Sha256) object["revoked_from"] = RevocationTime(entry.data);
  return object;
}

void AddLists(const efi::SignatureLists& lists, Answer& answer) {
  json list_objects = json::array();
  std::size_t count = 0;
  std::string text;
  for (const efi::SignatureList& list : lists) {
    json signatures = json::array();
    const std::string_view name = efi::SignatureTypeName(list.type);
    for (const efi::SignatureEntry& entry : list.entries) {
      signatures.push_back(EntryJson(list.type, entry));
      const json& shown = signatures.back();
      const bool hash = shown.contains("value");
      text += fmt::format("{}{:<12} owner {}  {} {}", text.empty() ? "" : "\n", name, entry.owner.text(),
                          hash ? "value" : "sha256",
                          shown.at(hash ? "value" : "sha256").get_ref<const std::string&>());
    }
    count += list.entries.size();
    list_objects.push_back({{"type", std::string(name)},
                            {"type_guid", list.type.text()},
                            {"header_size", list.header.size()},
                            {"signature_size", 16 + list.entries.at(0).data.size()},
                            {"signatures", std::move(signatures)}});
  }
  answer.object["count"] = count;
  answer.object["lists"] = std::move(list_objects);
  answer.text += text.empty() ? "no entries" : text;
}

// --- esl

struct EslArguments {
  std::string file;
  bool efivarfs = false;
};

Result<Answer> InspectEsl(const EslArguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(arguments.file));
  ByteView content = bytes;
  if (arguments.efivarfs) {
    if (content.size() < kAttributeBytes) {
      return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                       "read variable: it ends inside its attributes");
    }
    content = content.subspan(kAttributeBytes);
  }
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists lists, efi::ParseSignatureLists(content));
  Answer answer;
  AddLists(lists, answer);
  return answer;
}

// --- auth

struct AuthArguments {
  std::string file;
  std::string name;
  std::string guid;
  std::string attributes = "0x27";
};

Result<std::uint32_t> ParseAttributes(std::string_view text) {
  const bool hex = text.starts_with("0x") || text.starts_with("0X");
  const std::string_view digits = hex ? text.substr(2) : text;
  std::uint32_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, hex ? 16 : 10);
  if (error == std::errc() && end == digits.data() + digits.size() && !digits.empty()) return value;
  return InspectUsage(fmt::format("attributes '{}' are not a 32-bit number such as 0x27", text));
}

Result<efi::VariableTarget> ParseTarget(const AuthArguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(const std::uint32_t attributes, ParseAttributes(arguments.attributes));
  if (arguments.guid.empty()) return efi::SecureBootVariable(arguments.name, attributes);
  const Result<efi::Guid> vendor = efi::Guid::Parse(arguments.guid);
  if (!vendor.ok()) return InspectUsage(fmt::format("'{}' is not a GUID", arguments.guid));
  return efi::VariableTarget{.name = arguments.name, .vendor = *vendor, .attributes = attributes};
}

std::string TimeText(const efi::EfiTime& time) {
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", time.year, time.month, time.day, time.hour,
                     time.minute, time.second);
}

Result<Answer> InspectAuth(const AuthArguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::VariableTarget target, ParseTarget(arguments));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(arguments.file));
  SEALIFT_ASSIGN_OR_RETURN(const efi::AuthenticatedVariable variable, efi::ParseAuthenticatedVariable(bytes));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignedData data, efi::SignedData::Parse(variable.signed_data));
  SEALIFT_ASSIGN_OR_RETURN(const efi::SignatureLists lists, efi::ParseSignatureLists(variable.payload));
  const auto checked = efi::CheckAuthenticatedVariable(variable, target);
  json signers = json::array();
  std::string signer_text = "unknown";
  if (checked.ok()) {
    signer_text = Sha256(checked->signer_certificate).hex();
    signers.push_back({{"sha256", signer_text}});
  }
  Answer answer;
  answer.good = checked.ok();
  answer.object = {{"timestamp", TimeText(variable.time)},
                   {"signature", checked.ok() ? "ok" : "bad"},
                   {"wrapped", data.wrapped()},
                   {"signers", std::move(signers)}};
  if (!checked.ok()) answer.object["problem"] = MessageOf(checked.status());
  answer.text =
      fmt::format("time       {}\nsignature  {}\nsigner     {}\nform       {}\n", TimeText(variable.time),
                  checked.ok() ? "ok" : fmt::format("bad: {}", MessageOf(checked.status())), signer_text,
                  data.wrapped() ? "SignedData in ContentInfo" : "bare SignedData");
  AddLists(lists, answer);
  return answer;
}

// --- wincert

Result<Answer> InspectWinCertificate(const std::string& file) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file));
  SEALIFT_ASSIGN_OR_RETURN(const efi::WinCertificate certificate, efi::ParseWinCertificate(bytes));
  Answer answer;
  json inside = json::array();
  answer.text = fmt::format("type         {}", efi::WinCertificateTypeName(certificate.type));
  for (const Bytes& der : certificate.certificates) {
    inside.push_back(Sha256(der).hex());
    answer.text += fmt::format("\ncertificate  {}", inside.back().get_ref<const std::string&>());
  }
  answer.object = {{"type", std::string(efi::WinCertificateTypeName(certificate.type))},
                   {"certificates", std::move(inside)}};
  if (certificate.type == efi::WinCertificateType::kAuthenticode) {
    answer.object["digest_algorithm"] = certificate.digest_algorithm;
    answer.object["digest"] = HexEncode(certificate.digest);
    answer.text +=
        fmt::format("\ndigest       {} {}", certificate.digest_algorithm, HexEncode(certificate.digest));
  }
  return answer;
}

// --- esl-create

struct CreateArguments {
  CLI::Option* x509 = nullptr;
  CLI::Option* sha256 = nullptr;
  std::vector<std::string> certificates;
  std::vector<std::string> hashes;
  std::string out;
};

struct OwnedValue {
  efi::Guid owner;
  std::string value;
};

Result<OwnedValue> SplitOwner(const std::string& text) {
  const std::size_t at = text.find('=');
  const Result<efi::Guid> owner = efi::Guid::Parse(std::string_view(text).substr(0, at));
  if (at == std::string::npos || !owner.ok())
    return InspectUsage(fmt::format("'{}' does not begin with an owner GUID and '='", text.substr(0, 128)));
  return OwnedValue{.owner = *owner, .value = text.substr(at + 1)};
}

Status AddCertificate(const std::string& text, efi::SignatureLists& lists) {
  SEALIFT_ASSIGN_OR_RETURN(const OwnedValue one, SplitOwner(text));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes der, ReadFile(one.value));
  const auto parsed = efi::ParseCertificate(der);
  if (!parsed.ok()) return Annotate(parsed.status(), fmt::format("read '{}'", one.value));
  lists.push_back(efi::X509SignatureList(one.owner, der));
  return OkStatus();
}

Status AddHash(const std::string& text, efi::SignatureLists& lists) {
  SEALIFT_ASSIGN_OR_RETURN(const OwnedValue one, SplitOwner(text));
  const Result<Sha256Digest> digest = Sha256Digest::FromHex(one.value);
  if (!digest.ok())
    return InspectUsage(fmt::format("'{}' is not a SHA-256 in hex", one.value.substr(0, 128)));
  if (lists.empty() || lists.back().type != efi::kCertSha256) lists.push_back({.type = efi::kCertSha256});
  lists.back().entries.push_back({.owner = one.owner, .data = ToBytes(digest->view())});
  return OkStatus();
}

Result<Answer> CreateEsl(const CreateArguments& arguments, const std::vector<CLI::Option*>& order) {
  efi::SignatureLists lists;
  std::size_t next_certificate = 0;
  std::size_t next_hash = 0;
  for (const CLI::Option* option : order) {
    if (option == arguments.x509) {
      SEALIFT_RETURN_IF_ERROR(AddCertificate(arguments.certificates.at(next_certificate++), lists));
    } else if (option == arguments.sha256) {
      SEALIFT_RETURN_IF_ERROR(AddHash(arguments.hashes.at(next_hash++), lists));
    }
  }
  if (lists.empty()) return InspectUsage("nothing to write; give --x509 or --sha256");
  const Bytes bytes = efi::SerializeSignatureLists(lists);
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(arguments.out, bytes));
  Answer answer;
  answer.object = {{"file", arguments.out}, {"bytes", bytes.size()}};
  AddLists(lists, answer);
  return answer;
}

}  // namespace

void AddInspectVerbs(CLI::App& app, Session& session) {
  CLI::App* group = app.add_subcommand("inspect", "look into binary files, offline");
  group->require_subcommand(1);

  const auto esl = std::make_shared<EslArguments>();
  CLI::App* esl_verb =
      AddInspection(*group, session, "esl", "signature lists, as PK, KEK, db and dbx hold them",
                    "sealift inspect esl keys/db.esl -o json", [esl] { return InspectEsl(*esl); });
  esl_verb->add_option("FILE", esl->file, "signature lists, back to back")->required();
  esl_verb->add_flag("--efivarfs", esl->efivarfs, "four attribute bytes come first, as in efivarfs");

  const auto auth = std::make_shared<AuthArguments>();
  CLI::App* auth_verb =
      AddInspection(*group, session, "auth", "an authenticated variable and whether its own signer signed it",
                    "sealift inspect auth keys/db.auth --name db --guid "
                    "d719b2cb-3d3a-4596-a3bc-dad00e67656f --attributes 0x27",
                    [auth] { return InspectAuth(*auth); });
  auth_verb->add_option("FILE", auth->file, "the .auth file")->required();
  auth_verb->add_option("--name", auth->name, "the variable it is for")->required();
  auth_verb->add_option("--guid", auth->guid, "the variable's vendor; known for PK, KEK, db, dbx, dbt");
  auth_verb->add_option("--attributes", auth->attributes, "0x27 replaces, 0x67 appends")
      ->capture_default_str();

  const auto file = std::make_shared<std::string>();
  CLI::App* win_verb = AddInspection(
      *group, session, "wincert", "a WIN_CERTIFICATE: a signature taken out of an image or a variable",
      "sealift inspect wincert signature.bin -o json", [file] { return InspectWinCertificate(*file); });
  win_verb->add_option("FILE", *file, "one WIN_CERTIFICATE")->required();

  const auto create = std::make_shared<CreateArguments>();
  const auto create_verb = std::make_shared<CLI::App*>();
  *create_verb = AddInspection(
      *group, session, "esl-create", "write signature lists from certificates and hashes, order kept",
      "sealift inspect esl-create --x509 77fa9abd-0359-4d32-bd60-28f4e78f784b=ca.der \\\n"
      "    --sha256 77fa9abd-0359-4d32-bd60-28f4e78f784b=HEX --out db.esl",
      [create, create_verb] { return CreateEsl(*create, (*create_verb)->parse_order()); });
  create->x509 = (*create_verb)
                     ->add_option("--x509", create->certificates,
                                  "OWNER-GUID=DER-FILE; a list of its own each; repeatable")
                     ->allow_extra_args(false);
  create->sha256 =
      (*create_verb)
          ->add_option("--sha256", create->hashes, "OWNER-GUID=HEX; neighbours share a list; repeatable")
          ->allow_extra_args(false);
  (*create_verb)->add_option("--out", create->out, "file to write")->required();

  AddInspectEvidenceVerbs(*group, session);
  AddInspectCertificateVerbs(*group, session);
  AddInspectPeVerb(*group, session);
  AddInspectPolicyVerbs(*group, session);
  AddInspectMediaVerbs(*group, session);
}

}  // namespace sealift::cli
