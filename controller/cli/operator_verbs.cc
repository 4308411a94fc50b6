#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "hsm/ceremony.h"
#include "hsm/ceremony_files.h"
#include "shared/base/files.h"
#include "shared/base/secret.h"
#include "shared/crypto/key_reference.h"
#include "shared/wire/channel.h"

namespace sealift::cli {
namespace {

struct IssueArguments {
  std::string name;
  std::string role;
  std::string keys;
  std::vector<std::string> tokens;
  std::string journal;
  std::string controller;
  std::string folder;
  std::vector<std::string> generations;
  int valid_days = 365;
  bool allow_expired = false;
};

// The one private key that is a file: it belongs to the person, not to the hierarchy.
Result<Certificate> IssueInto(const IssueArguments& arguments, hsm::KeyRing& ring) {
  SEALIFT_ASSIGN_OR_RETURN(const auto key, SoftwareSigner::Generate(KeyType::kEcP256));
  SEALIFT_ASSIGN_OR_RETURN(Certificate certificate,
                           hsm::IssueOperatorCertificate(ring,
                                                         {.name = arguments.name,
                                                          .role = arguments.role,
                                                          .valid_days = arguments.valid_days,
                                                          .now = SystemClock().Now(),
                                                          .allow_expired = arguments.allow_expired},
                                                         key->public_key()));
  // Of every generation: the controller's certificate may be by any of them.
  SEALIFT_ASSIGN_OR_RETURN(const auto node_cas, ring.CertificatesFor("node-ca"));
  std::string ca_pem;
  for (const Certificate& one : node_cas) ca_pem += one.Pem();
  const std::string key_file = arguments.name + ".key.pem";
  const wire::Profile profile{.address = arguments.controller,
                              .ca = "ca.pem",
                              .certificate = arguments.name + ".pem",
                              .key = key_file};
  std::string private_pem = key->PrivatePem();
  std::map<std::string, Bytes> files{{"ca.pem", ToBytes(ca_pem)},
                                     {arguments.name + ".pem", ToBytes(certificate.Pem())},
                                     {"profile.toml", ToBytes(wire::SerializeProfile(profile))},
                                     {key_file, ToBytes(private_pem)}};
  const Status written = hsm::WriteFolderAtOnce(arguments.folder, files).status;
  WipeMemory(private_pem.data(), private_pem.size());
  WipeMemory(files.at(key_file).data(), files.at(key_file).size());
  if (!written.ok()) return written;
  return certificate;
}

Status Issue(const IssueArguments& arguments, const Session& session) {
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  SEALIFT_RETURN_IF_ERROR(hsm::CheckAbsent(arguments.folder));
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, hsm::KeyRing::Open(arguments.keys, arguments.tokens,
                                                               arguments.journal, arguments.generations));
  SEALIFT_RETURN_IF_ERROR(CheckCertificates(*ring, {"operator-ca"}, arguments.allow_expired));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, IssueInto(arguments, *ring));
  const std::string profile =
      (std::filesystem::absolute(arguments.folder) / "profile.toml").lexically_normal().string();
  if (session.json()) {
    std::printf("%s\n", nlohmann::json({{"name", arguments.name},
                                        {"role", arguments.role},
                                        {"profile", profile},
                                        {"serial", HexEncode(certificate.serial())},
                                        {"not_after", FormatRfc3339(certificate.not_after())}})
                            .dump(2)
                            .c_str());
  } else {
    std::printf("%s may act as %s until %s; profile %s\n", arguments.name.c_str(), arguments.role.c_str(),
                FormatRfc3339(certificate.not_after()).c_str(), profile.c_str());
  }
  return OkStatus();
}

}  // namespace

void AddOperatorVerbs(CLI::App& app, Session& session) {
  CLI::App* group = app.add_subcommand("operator", "people who may talk to the controller");
  group->require_subcommand(1);
  const auto arguments = std::make_shared<IssueArguments>();
  CLI::App* verb =
      AddVerb(*group, session, "issue", "make a client key, its certificate and a profile for a person",
              "sealift operator issue anna --role operator --keys keys --token custody=URI \\\n"
              "    --controller controller.example:7443 -o anna",
              [arguments, &session] { return Issue(*arguments, session); });
  verb->add_option("NAME", arguments->name, "who: a-z, 0-9, '.', '_', '-'")->required();
  const auto roles = hsm::OperatorRoles();
  verb->add_option("--role", arguments->role, fmt::format("one of {}", fmt::join(roles, ", ")))
      ->required()
      ->check(CLI::IsMember(std::vector<std::string>(roles.begin(), roles.end())));
  verb->add_option("--keys", arguments->keys, "folder that keys init wrote")->required();
  verb->add_option("--token", arguments->tokens, "custody=URI: the token of the operator CA")
      ->required()
      ->allow_extra_args(false);
  AddJournalOption(*verb, arguments->journal);
  AddGenerationOption(*verb, arguments->generations);
  verb->add_option("--controller", arguments->controller, "host:port of the controller")->required();
  verb->add_option("--valid-days", arguments->valid_days, "life of the certificate")->capture_default_str();
  AddFolderOption(*verb, session, arguments->folder, "folder to write; must not exist")->required();
  AddExpiredOption(*verb, arguments->allow_expired);
}

}  // namespace sealift::cli
