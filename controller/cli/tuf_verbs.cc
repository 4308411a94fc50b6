#include "controller/cli/tuf_verbs.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/key_material.h"
#include "hsm/key_ring.h"
#include "hsm/root_draft.h"
#include "shared/base/clock.h"
#include "shared/base/files.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;

struct DraftArguments {
  std::string file;
  std::string keys;
  std::uint32_t threshold = 0;
  std::vector<std::string> added;
  std::vector<std::string> dropped;
  std::int64_t days = 3650;
};

struct SignArguments {
  std::string file;
  std::string keys;
  std::vector<std::string> tokens;
  std::string journal;
};

fs::path RootFolder(const std::string& keys) { return fs::path(keys) / "tuf"; }

void Print(const hsm::RootDraft& draft, const std::string& file, const std::string& placed,
           const Session& session) {
  if (session.json()) {
    const nlohmann::json value = {{"version", draft.version},
                                  {"changes", draft.changes},
                                  {"signatures_by_present", draft.by_present},
                                  {"needed_by_present", draft.needed_present},
                                  {"signatures_by_next", draft.by_next},
                                  {"needed_by_next", draft.needed_next},
                                  {"complete", draft.complete()},
                                  {"file", placed.empty() ? file : placed}};
    std::printf("%s\n", value.dump(2).c_str());
    return;
  }
  std::printf("root version %u\n", draft.version);
  for (const std::string& change : draft.changes) std::printf("  %s\n", change.c_str());
  std::printf("  signed by %u of %u needed keys of the present root, %u of %u of this one\n",
              draft.by_present, draft.needed_present, draft.by_next, draft.needed_next);
  if (!placed.empty())
    std::printf("complete: %s; the controller takes it at its next start\n", placed.c_str());
}

Status Draft(const DraftArguments& arguments, const Session& session) {
  hsm::RootChange change{.threshold = {},
                         .added = {},
                         .dropped = arguments.dropped,
                         .expires = SystemClock().Now() + std::chrono::hours(24) * arguments.days};
  if (arguments.threshold != 0) change.threshold = arguments.threshold;
  for (const std::string& file : arguments.added) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(file, 64u << 10));
    SEALIFT_ASSIGN_OR_RETURN(const PublicKey key, PublicKey::FromPem(pem));
    change.added.push_back(key);
  }
  SEALIFT_ASSIGN_OR_RETURN(const hsm::RootDraft draft, hsm::DraftRoot(RootFolder(arguments.keys), change));
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(arguments.file, AsBytes(draft.json)));
  Print(draft, arguments.file, "", session);
  return OkStatus();
}

Status ShowDraft(const SignArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.file, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const hsm::RootDraft draft,
                           hsm::DescribeRootDraft(RootFolder(arguments.keys), text));
  Print(draft, arguments.file, "", session);
  return OkStatus();
}

Status Sign(const SignArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.file, tuf::kMaxRootBytes));
  // Read before any token is opened: a draft that does not follow costs no PIN.
  SEALIFT_RETURN_IF_ERROR(hsm::DescribeRootDraft(RootFolder(arguments.keys), text).status());
  SEALIFT_ASSIGN_OR_RETURN(const auto ring,
                           hsm::KeyRing::Open(arguments.keys, arguments.tokens, arguments.journal));
  // Every generation that a token at hand holds.
  std::vector<std::shared_ptr<Signer>> signers;
  for (const hsm::InventoryKey& key : ring->inventory().keys) {
    if (key.role != "tuf-root") continue;
    auto signer = ring->SignerFor(key);
    if (signer.ok()) signers.push_back(*std::move(signer));
    if (!signer.ok() && ReasonOf(signer.status()) != Reason::kHsmKeyMissing) return signer.status();
  }
  SEALIFT_ASSIGN_OR_RETURN(const hsm::RootDraft draft,
                           hsm::SignRootDraft(RootFolder(arguments.keys), text, signers));
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(arguments.file, AsBytes(draft.json)));
  std::string placed;
  if (draft.complete()) {
    placed = (RootFolder(arguments.keys) / fmt::format("{}.root.json", draft.version)).string();
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(placed, AsBytes(draft.json)));
  }
  Print(draft, arguments.file, placed, session);
  return OkStatus();
}

}  // namespace

void AddTufVerbs(CLI::App& app, Session& session) {
  CLI::App* tuf = app.add_subcommand("tuf", "The offline side of the TUF repository");
  tuf->require_subcommand(1);
  CLI::App* root = tuf->add_subcommand("root", "The next root, signed by as many custodians as it takes");
  root->require_subcommand(1);

  const auto draft = std::make_shared<DraftArguments>();
  CLI::App* verb = AddVerb(*root, session, "draft", "Write the next root, unsigned, and say what changes",
                           "sealift tuf root draft next.json --keys keys/ --threshold 2",
                           [draft, &session] { return Draft(*draft, session); });
  verb->add_option("FILE", draft->file, "where the draft goes")->required();
  verb->add_option("--keys", draft->keys, "the folder keys init wrote")->required();
  verb->add_option("--threshold", draft->threshold, "how many tuf-root keys must sign from then on");
  verb->add_option("--add", draft->added, "PEM of a public key that joins tuf-root")->allow_extra_args(false);
  verb->add_option("--drop", draft->dropped, "id of a key that leaves every role, or 8 digits of it and more")
      ->allow_extra_args(false);
  verb->add_option("--days", draft->days, "how long the root holds")
      ->check(CLI::Range(1, 36500))
      ->capture_default_str();

  const auto show = std::make_shared<SignArguments>();
  verb = AddVerb(*root, session, "show", "What a draft changes, and how many have signed it",
                 "sealift tuf root show next.json --keys keys/",
                 [show, &session] { return ShowDraft(*show, session); });
  verb->add_option("FILE", show->file, "the draft")->required();
  verb->add_option("--keys", show->keys, "the folder keys init wrote")->required();

  const auto sign = std::make_shared<SignArguments>();
  verb = AddVerb(
      *root, session, "sign",
      "Add the signatures of the tuf-root keys in the tokens given; with the last one the root is placed "
      "among the key set's",
      "sealift tuf root sign next.json --keys keys/ --token root='pkcs11:token=root-b?...'",
      [sign, &session] { return Sign(*sign, session); });
  verb->add_option("FILE", sign->file, "the draft; replaced by the signed one")->required();
  verb->add_option("--keys", sign->keys, "the folder keys init wrote")->required();
  AddTokenOption(*verb, sign->tokens);
  AddJournalOption(*verb, sign->journal);
}

}  // namespace sealift::cli
