// `sealift inspect ek-cert|ca-cert`: a TPM maker's certificate, and whether it leads to an anchor.
#include <fmt/format.h>

#include <memory>
#include <optional>

#include "controller/attest/maker_chain.h"
#include "controller/cli/inspect_answer.h"
#include "shared/base/files.h"

namespace sealift::cli {
namespace {

using controller::MakerCertificate;
using controller::MakerRole;
using nlohmann::json;

struct CertificateArguments {
  std::string file;
  std::string anchors;
  std::string helpers;
  std::string at;
};

json TextOrNull(const std::string& text) { return text.empty() ? json() : json(text); }

// A text of foreign origin may hold bytes that are no UTF-8, which JSON cannot carry.
std::string Printable(const std::string& text) {
  std::string clean;
  for (const char c : text) clean.push_back(c >= ' ' && c <= '~' ? c : '?');
  return clean;
}

json Describe(const MakerCertificate& certificate) {
  const controller::TpmModel model = certificate.Model();
  return {{"sha256", certificate.fingerprint().hex()},
          {"serial", certificate.SerialText()},
          {"not_before", FormatRfc3339(certificate.not_before())},
          {"not_after", FormatRfc3339(certificate.not_after())},
          {"is_ca", certificate.is_ca()},
          {"eku", certificate.purposes()},
          {"key", {{"type", certificate.KeyTypeName()}, {"bits", certificate.key_bits()}}},
          {"tpm",
           {{"manufacturer", TextOrNull(Printable(model.manufacturer))},
            {"model", TextOrNull(Printable(model.model))},
            {"version", TextOrNull(Printable(model.version))}}},
          {"subject", Printable(certificate.SubjectText())},
          {"issuer", Printable(certificate.IssuerText())},
          {"padding", certificate.padding()},
          {"weak", certificate.weak()}};
}

Result<UnixMillis> TimeOf(const CertificateArguments& arguments) {
  if (arguments.at.empty()) return SystemClock().Now();
  const auto time = ParseRfc3339(arguments.at);
  if (time.ok()) return time;
  return InspectUsage(fmt::format("--at '{}' is not a time such as 2026-11-23T00:00:00Z",
                                  Printable(arguments.at.substr(0, 64))));
}

Result<std::vector<MakerCertificate>> Load(const std::string& path) {
  if (path.empty()) return std::vector<MakerCertificate>();
  return controller::LoadMakerCertificates(path);
}

Result<Answer> InspectCertificate(const CertificateArguments& arguments, MakerRole role) {
  SEALIFT_ASSIGN_OR_RETURN(const UnixMillis at, TimeOf(arguments));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(arguments.file));
  SEALIFT_ASSIGN_OR_RETURN(const auto anchors, Load(arguments.anchors));
  SEALIFT_ASSIGN_OR_RETURN(const auto helpers, Load(arguments.helpers));
  SEALIFT_ASSIGN_OR_RETURN(const MakerCertificate certificate, MakerCertificate::FromFile(bytes));
  Answer answer;
  answer.object = Describe(certificate);
  answer.object["trusted"] = nullptr;
  json chain = json::array();
  if (!arguments.anchors.empty()) {
    const auto path = controller::VerifyMakerChain(certificate, helpers, anchors, at, role);
    answer.good = path.ok();
    answer.object["trusted"] = path.ok();
    if (path.ok()) {
      for (const MakerCertificate& one : *path) chain.push_back(one.fingerprint().hex());
    } else {
      answer.object["problem"] = Printable(MessageOf(path.status()));
      answer.object["reason"] = ReasonIdOf(path.status());
    }
  }
  answer.object["chain"] = std::move(chain);
  for (const auto& [name, value] : answer.object.items()) {
    answer.text += fmt::format("{}{:<11} {}", answer.text.empty() ? "" : "\n", name,
                               value.is_string() ? value.get<std::string>() : value.dump());
  }
  return answer;
}

void AddCertificateVerb(CLI::App& group, Session& session, const std::string& name,
                        const std::string& description, MakerRole role) {
  const auto arguments = std::make_shared<CertificateArguments>();
  CLI::App* verb =
      AddInspection(group, session, name, description,
                    fmt::format("sealift inspect {} cert.der --ca makers/ --intermediates helpers/ \\\n"
                                "    --at 2026-11-23T00:00:00Z -o json",
                                name),
                    [arguments, role] { return InspectCertificate(*arguments, role); });
  verb->add_option("FILE", arguments->file, "one certificate, PEM or DER")->required();
  CLI::Option* ca = verb->add_option("--ca", arguments->anchors,
                                     "folder or file; every certificate in it is an anchor as it stands");
  if (role == MakerRole::kEndorsementKey) ca->required();
  verb->add_option("--intermediates", arguments->helpers, "folder or file of certificates that only help");
  verb->add_option("--at", arguments->at, "when it shall be valid; default now");
}

}  // namespace

void AddInspectCertificateVerbs(CLI::App& group, Session& session) {
  AddCertificateVerb(group, session, "ek-cert",
                     "an endorsement key's certificate, and whether it leads to a maker",
                     MakerRole::kEndorsementKey);
  AddCertificateVerb(group, session, "ca-cert",
                     "a maker's CA; with --ca whether it leads to an anchor, else what it says",
                     MakerRole::kCa);
}

}  // namespace sealift::cli
