#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "controller/cli/verbs.h"
#include "hsm/attestation.h"
#include "shared/base/files.h"
#include "shared/crypto/key_reference.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;

struct ListArguments {
  std::string folder;
  std::vector<std::string> tokens;
  std::vector<std::string> journals;
};

// The journals to count uses in: those given, or the folder's own if it is there.
Result<std::vector<hsm::JournalReport>> ReadJournals(const ListArguments& arguments) {
  std::vector<fs::path> files(arguments.journals.begin(), arguments.journals.end());
  const fs::path folder = arguments.folder;
  if (files.empty() && fs::exists(folder / hsm::kJournalFileName)) {
    files.push_back(folder / hsm::kJournalFileName);
  }
  hsm::JournalVerifyOptions options;
  // Of every generation of the `journal` role.
  for (std::uint32_t generation = 1;; ++generation) {
    const fs::path file = folder / hsm::PublicKeyFile("journal", generation);
    const auto pem = ReadTextFile(file, kMaxCertificateBytes);
    if (!pem.ok()) break;
    SEALIFT_ASSIGN_OR_RETURN(PublicKey key, PublicKey::FromPem(*pem));
    options.keys.push_back(std::move(key));
  }
  std::vector<hsm::JournalReport> reports;
  for (const fs::path& file : files) {
    SEALIFT_ASSIGN_OR_RETURN(hsm::JournalReport report, hsm::VerifyJournal(file, options));
    if (!report.findings.empty()) {
      std::fprintf(stderr, "warning: signing journal '%s' is not whole: %s\n", file.c_str(),
                   report.findings.front().message.c_str());
    }
    reports.push_back(std::move(report));
  }
  return reports;
}

std::string_view Origin(const hsm::KeyAccount& account) {
  if (account.key->wrappable) return "wrappable";
  if (account.born_in_token()) return "token";
  if (account.in_token == true && account.custody.local == false) return "imported";
  return "?";
}

std::string_view EverExtractable(const hsm::KeyAccount& account) {
  if (account.key->wrappable) return "yes";
  if (account.in_token != true) return account.key->born_in_token ? "never" : "?";
  if (!account.custody.never_extractable.has_value()) return "?";
  return *account.custody.never_extractable ? "never" : "yes";
}

std::string_view InToken(const hsm::KeyAccount& account) {
  if (!account.in_token.has_value()) return "not asked";
  return *account.in_token ? "yes" : "no";
}

std::string Uses(const hsm::KeyAccount& account) {
  if (!account.uses.has_value()) return "-";
  if (account.tls_handshakes == 0) return std::to_string(account.uses->ok);
  return fmt::format("{}+{} tls", account.uses->ok, account.tls_handshakes);
}

nlohmann::json ToJson(const hsm::KeyAccount& account) {
  const hsm::InventoryKey& key = *account.key;
  nlohmann::json object = {{"role", key.role},
                           {"group", std::string(hsm::GroupName(key.group))},
                           {"generation", key.generation},
                           {"algorithm", std::string(hsm::AlgorithmName(key.algorithm))},
                           {"born_in_token", account.born_in_token()},
                           {"origin", std::string(Origin(account))},
                           {"ever_extractable", std::string(EverExtractable(account))},
                           {"in_token", std::string(InToken(account))},
                           {"wrappable", key.wrappable},
                           {"copies", key.copies},
                           {"key_id", key.key_id.hex()}};
  if (key.has_certificate) object["certificate_not_after"] = FormatRfc3339(key.not_after);
  if (account.uses.has_value()) {
    object["uses"] = {{"ok", account.uses->ok},
                      {"failed", account.uses->failed},
                      {"unfinished", account.uses->unfinished},
                      {"tls_handshakes", account.tls_handshakes}};
  }
  return object;
}

void PrintList(const hsm::Inventory& inventory, const std::vector<hsm::KeyAccount>& accounts,
               const Session& session) {
  if (session.json()) {
    nlohmann::json list = nlohmann::json::array();
    for (const hsm::KeyAccount& account : accounts) list.push_back(ToJson(account));
    std::printf("%s\n", nlohmann::json({{"set", inventory.set}, {"keys", list}}).dump(2).c_str());
    return;
  }
  constexpr auto kRow = "{:<15}{:<9}{:<5}{:<10}{:<10}{:<13}{:<11}{:<22}{:<8}{}\n";
  fmt::print(kRow, "ROLE", "GROUP", "GEN", "ALGORITHM", "BORN IN", "EXTRACTABLE", "IN TOKEN",
             "CERTIFICATE UNTIL", "USES", "KEY ID");
  for (const hsm::KeyAccount& account : accounts) {
    const hsm::InventoryKey& key = *account.key;
    fmt::print(kRow, key.role, hsm::GroupName(key.group), key.generation, hsm::AlgorithmName(key.algorithm),
               Origin(account), EverExtractable(account), InToken(account),
               key.has_certificate ? FormatRfc3339(key.not_after) : "-", Uses(account),
               key.key_id.hex().substr(0, 16));
  }
}

Status ListKeys(const ListArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const hsm::Inventory inventory, hsm::Inventory::Load(arguments.folder));
  SEALIFT_ASSIGN_OR_RETURN(const auto tokens, hsm::OpenTokensByGroup(arguments.tokens));
  SEALIFT_ASSIGN_OR_RETURN(const auto journals, ReadJournals(arguments));
  SEALIFT_ASSIGN_OR_RETURN(const auto accounts, hsm::AccountForKeys(inventory, tokens, journals));
  PrintList(inventory, accounts, session);
  return OkStatus();
}

// --- attest

struct AttestArguments {
  ListArguments list;
  std::string journal;
  std::string out;
  std::string check;
  std::string public_key;
};

Status Check(const AttestArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.check, hsm::kMaxStatementBytes));
  std::optional<PublicKey> key;
  if (!arguments.public_key.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(arguments.public_key, kMaxCertificateBytes));
    SEALIFT_ASSIGN_OR_RETURN(key, PublicKey::FromPem(pem));
  }
  SEALIFT_ASSIGN_OR_RETURN(const hsm::CheckedStatement checked, hsm::CheckStatement(text, key));
  if (session.json()) {
    const nlohmann::json result = {{"set", checked.set},
                                   {"made", FormatRfc3339(checked.made)},
                                   {"keys", checked.keys},
                                   {"certificates", checked.certificates},
                                   {"signed_by_key", checked.signed_by_key},
                                   {"claims", checked.claims}};
    std::printf("%s\n", result.dump(2).c_str());
    return OkStatus();
  }
  fmt::print("statement of key set '{}', {}: {} keys and {} certificates agree with each other\n",
             checked.set, FormatRfc3339(checked.made), checked.keys, checked.certificates);
  fmt::print("signature: {}\n",
             checked.signed_by_key ? "by the key given" : "not checked; give --public-key");
  for (const std::string& claim : checked.claims) fmt::print("- {}\n", claim);
  return OkStatus();
}

// Null without the token of its group.
Result<std::shared_ptr<Signer>> JournalSigner(hsm::KeyRing& ring) {
  auto signer = ring.SignerFor("journal");
  if (signer.ok() || ReasonOf(signer.status()) != Reason::kHsmKeyMissing) return signer;
  std::fprintf(stderr, "note: the statement is not signed: no token with the journal key was given\n");
  return std::shared_ptr<Signer>();
}

Status Attest(AttestArguments& arguments, const Session& session) {
  if (!arguments.check.empty()) return Check(arguments, session);
  if (arguments.list.folder.empty()) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "make statement: give --keys FOLDER, or --check FILE");
  }
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  if (!arguments.journal.empty()) arguments.list.journals = {arguments.journal};
  SEALIFT_ASSIGN_OR_RETURN(
      const auto ring, hsm::KeyRing::Open(arguments.list.folder, arguments.list.tokens, arguments.journal));
  // The ring's tokens: opening them again returns the same ones.
  SEALIFT_ASSIGN_OR_RETURN(const auto tokens, hsm::OpenTokensByGroup(arguments.list.tokens));
  SEALIFT_ASSIGN_OR_RETURN(const auto journals, ReadJournals(arguments.list));
  SEALIFT_ASSIGN_OR_RETURN(const auto accounts, hsm::AccountForKeys(ring->inventory(), tokens, journals));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, JournalSigner(*ring));
  SEALIFT_ASSIGN_OR_RETURN(const std::string statement,
                           hsm::MakeStatement(*ring, accounts, journals, SystemClock().Now(), signer.get()));
  if (arguments.out.empty()) {
    std::printf("%s", statement.c_str());
    return OkStatus();
  }
  return WriteFileAtomically(arguments.out, AsBytes(statement));
}

}  // namespace

void AddKeysListVerbs(CLI::App& keys, Session& session) {
  const auto list = std::make_shared<ListArguments>();
  CLI::App* verb =
      AddVerb(keys, session, "list",
              "show the keys of a set, their uses and, with --token, what their tokens say of them",
              "sealift keys list --keys keys --token online=URI --journal keys/journal",
              [list, &session] { return ListKeys(*list, session); });
  verb->add_option("--keys", list->folder, "folder that keys init wrote")->required();
  AddTokenOption(*verb, list->tokens);
  verb->add_option("--journal", list->journals,
                   "signing journal to count uses in; repeatable (default: the one in the keys folder)")
      ->allow_extra_args(false);

  const auto attest = std::make_shared<AttestArguments>();
  verb = AddVerb(keys, session, "attest",
                 "state the key hierarchy for an auditor, or check such a statement without any token",
                 "sealift keys attest --keys keys --token online=URI --token root=URI --out statement.json\n"
                 "  sealift keys attest --check statement.json --public-key keys/journal.pub.pem",
                 [attest, &session] { return Attest(*attest, session); });
  verb->add_option("--keys", attest->list.folder, "folder that keys init wrote");
  AddTokenOption(*verb, attest->list.tokens);
  AddJournalOption(*verb, attest->journal);
  verb->add_option("--out", attest->out, "file to write (default: stdout)");
  verb->add_option("--check", attest->check, "statement to check instead of making one");
  verb->add_option("--public-key", attest->public_key, "journal.pub.pem, to check the signature with");
}

}  // namespace sealift::cli
