// `sealift keys transport-key|backup|restore`: the way out of a token for sets made with --wrappable.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/key_material.h"
#include "controller/cli/verbs.h"
#include "hsm/key_backup.h"
#include "shared/base/clock.h"
#include "shared/base/files.h"
#include "shared/crypto/key_reference.h"

namespace sealift::cli {
namespace {

struct TransportArguments {
  std::string token;
  std::string label = "sealift:transport";
  std::string out;
  std::string folder;
  std::string journal;
};

Status MakeTransport(const TransportArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const hsm::TokenArgument argument, hsm::TokenArgument::Parse(arguments.token));
  SEALIFT_ASSIGN_OR_RETURN(const auto token, hsm::Token::Open(argument.uri));
  SEALIFT_ASSIGN_OR_RETURN(const auto before, token->keys().FindByLabel(arguments.label));
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey key, hsm::MakeTransportKey(*token, arguments.label));
  if (!arguments.folder.empty() && before.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(const auto ring,
                             hsm::KeyRing::Open(arguments.folder, {arguments.token}, arguments.journal));
    SEALIFT_RETURN_IF_ERROR(ring->journal()->RecordKeyEvent(
        {.event = "generated", .key_id = key.key_id(), .key_name = {}, .label = arguments.label}));
  }
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(arguments.out, AsBytes(key.Pem())));
  if (session.json()) {
    std::printf("%s\n",
                nlohmann::json(
                    {{"file", arguments.out}, {"key_id", key.key_id().hex()}, {"token", token->uri().Text()}})
                    .dump(2)
                    .c_str());
  } else {
    std::printf("%s: backups made for it can only be restored in token '%s'; key %s\n", arguments.out.c_str(),
                token->label().c_str(), key.key_id().hex().c_str());
  }
  return OkStatus();
}

struct BackupArguments {
  std::vector<std::string> roles;
  std::string folder;
  std::vector<std::string> tokens;
  std::string journal;
  std::string transport;
  std::string transport_id;
  std::vector<std::string> generations;
  std::string out;
};

Status BackUp(const BackupArguments& arguments, const Session& session) {
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(arguments.transport, kMaxCertificateBytes));
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey transport, PublicKey::FromPem(pem));
  // The file may have been exchanged on its way, for the public half of a key that lies in no token at all.
  if (transport.key_id().hex() != arguments.transport_id) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     fmt::format("back up keys: '{}' holds key {}, not the one of --to-id",
                                 arguments.transport, transport.key_id().hex()));
  }
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, hsm::KeyRing::Open(arguments.folder, arguments.tokens,
                                                               arguments.journal, arguments.generations));
  SEALIFT_ASSIGN_OR_RETURN(const hsm::KeyBackup backup,
                           hsm::BackUpKeys(*ring, arguments.roles, transport, SystemClock().Now()));
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(arguments.out, AsBytes(backup.Json()), 0600));
  nlohmann::json keys = nlohmann::json::array();
  for (const hsm::BackupEntry& entry : backup.entries)
    keys.push_back(hsm::KeyName(entry.role, entry.generation));
  if (session.json()) {
    std::printf("%s\n", nlohmann::json({{"file", arguments.out},
                                        {"set", backup.set},
                                        {"keys", keys},
                                        {"transport_key", backup.transport.hex()}})
                            .dump(2)
                            .c_str());
  } else {
    std::printf("%s: %zu keys of set '%s', for the token with transport key %s alone\n",
                arguments.out.c_str(), backup.entries.size(), backup.set.c_str(),
                backup.transport.hex().substr(0, 16).c_str());
  }
  return OkStatus();
}

struct RestoreArguments {
  std::string file;
  std::string folder;
  std::string token;
  std::string journal;
  bool wrappable = false;
};

Status Restore(const RestoreArguments& arguments, const Session& session) {
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.file, hsm::kMaxBackupBytes));
  SEALIFT_ASSIGN_OR_RETURN(const hsm::KeyBackup backup, hsm::KeyBackup::Parse(text));
  SEALIFT_ASSIGN_OR_RETURN(const auto ring,
                           hsm::KeyRing::Open(arguments.folder, {arguments.token}, arguments.journal));
  SEALIFT_ASSIGN_OR_RETURN(const hsm::TokenArgument argument, hsm::TokenArgument::Parse(arguments.token));
  SEALIFT_ASSIGN_OR_RETURN(const auto token, hsm::Token::Open(argument.uri));
  SEALIFT_ASSIGN_OR_RETURN(
      const hsm::Inventory inventory,
      hsm::RestoreKeys(*ring, token, backup,
                       arguments.wrappable ? hsm::Leaving::kWrapped : hsm::Leaving::kNever));
  nlohmann::json keys = nlohmann::json::array();
  for (const hsm::BackupEntry& entry : backup.entries)
    keys.push_back(hsm::KeyName(entry.role, entry.generation));
  if (session.json()) {
    std::printf("%s\n",
                nlohmann::json({{"set", inventory.set}, {"keys", keys}, {"token", token->uri().Text()}})
                    .dump(2)
                    .c_str());
  } else {
    std::printf("token '%s' holds %zu keys of set '%s'; each proved to be the key of its public half\n",
                token->label().c_str(), backup.entries.size(), inventory.set.c_str());
  }
  return OkStatus();
}

}  // namespace

void AddBackupVerbs(CLI::App& keys, Session& session) {
  const auto transport = std::make_shared<TransportArguments>();
  CLI::App* verb = AddVerb(
      keys, session, "transport-key",
      "make the key with which a token takes backups of another; its public half goes to a file",
      "sealift keys transport-key --token URI2 --out transport.pem\n"
      "Run again, it writes the same key's public half. Tell the printed id to whoever makes the backup, "
      "by another\nway than the file goes.",
      [transport, &session] { return MakeTransport(*transport, session); });
  verb->add_option("--token", transport->token, "URI of the token that will take backups")->required();
  verb->add_option("--label", transport->label, "CKA_LABEL of the key")->capture_default_str();
  verb->add_option("--out", transport->out, "file to write, PEM")->required();
  verb->add_option("--keys", transport->folder, "folder of a set whose journal tells of the new key");
  AddJournalOption(*verb, transport->journal);

  const auto backup = std::make_shared<BackupArguments>();
  verb =
      AddVerb(keys, session, "backup",
              "take keys of a set made with --wrappable out of a token, encrypted for one other token",
              "sealift keys backup db pcr tuf-targets --keys keys --token release=URI --to transport.pem \\\n"
              "    --to-id HEX --out release.backup\n"
              "--to-id is what keys transport-key printed, told by another way than the file came: whoever "
              "holds that key "
              "gets yours.",
              [backup, &session] { return BackUp(*backup, session); });
  verb->add_option("ROLE", backup->roles, "roles whose keys go into the backup, of one token")->required();
  verb->add_option("--keys", backup->folder, "folder that keys init wrote")->required();
  AddTokenOption(*verb, backup->tokens);
  AddJournalOption(*verb, backup->journal);
  verb->add_option("--to", backup->transport, "public half of the other token's transport key")->required();
  verb->add_option("--to-id", backup->transport_id, "the id that keys transport-key printed, 64 hex digits")
      ->required();
  AddGenerationOption(*verb, backup->generations,
                      "the one generation to back up instead of all that the token holds");
  verb->add_option("--out", backup->out, "file to write")->required();

  const auto restore = std::make_shared<RestoreArguments>();
  verb = AddVerb(keys, session, "restore", "put the keys of a backup into the token it was made for",
                 "sealift keys restore release.backup --keys keys --token release=URI2",
                 [restore, &session] { return Restore(*restore, session); });
  verb->add_option("FILE", restore->file, "what keys backup wrote")->required();
  verb->add_option("--keys", restore->folder, "folder that keys init wrote")->required();
  verb->add_option("--token", restore->token, "[GROUP=]URI of the token with the transport key")->required();
  AddJournalOption(*verb, restore->journal);
  verb->add_flag("--wrappable", restore->wrappable,
                 "let the restored keys leave that token again, in backups");
}

}  // namespace sealift::cli
