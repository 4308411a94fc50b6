#include "controller/cli/recovery_key.h"

#include <fmt/format.h>

#include <cstdio>
#include <set>

#include "hsm/key_ring.h"
#include "hsm/token_decrypter.h"
#include "shared/escrow/escrow.h"
#include "shared/order/change_request.h"

namespace sealift::cli {
namespace {

// The key goes to the terminal and nowhere else.
void PrintOne(const escrow::Subject& subject, const SecretBytes& key, bool json, bool first) {
  const std::string_view text = AsText(key.ExposeSecret());
  if (json) {
    // Neither needs escaping: letters, digits and dashes.
    std::printf("%s{\"volume\":\"%s\",\"luks_uuid\":\"%s\",\"slot\":%u,\"key\":\"%.*s\"}", first ? "" : ",",
                subject.volume.c_str(), subject.luks_uuid.c_str(), subject.slot,
                static_cast<int>(text.size()), text.data());
    return;
  }
  std::printf("%s (LUKS %s, slot %u)\n  %.*s\n", subject.volume.c_str(), subject.luks_uuid.c_str(),
              subject.slot, static_cast<int>(text.size()), text.data());
}

bool IsPlain(std::string_view text) {
  return text.size() <= 64 && text.find_first_not_of(
                                  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789-_") == std::string_view::npos;
}

Result<SecretBytes> Decrypt(hsm::KeyRing& ring, const escrow::EscrowedKey& escrowed,
                            const std::string& intent) {
  for (const hsm::InventoryKey* key : ring.inventory().Generations("escrow")) {
    if (key->key_id != escrowed.escrow_key_id) continue;
    SEALIFT_ASSIGN_OR_RETURN(auto token, ring.TokenFor(*key));
    SEALIFT_ASSIGN_OR_RETURN(const auto decrypter,
                             hsm::TokenDecrypter::Open(std::move(token), key->key_id, intent));
    return escrow::Open(escrowed, *decrypter);
  }
  return MakeError(
      Code::kNotFound, Reason::kHsmKeyMissing,
      fmt::format("decrypt recovery key: the set has no escrow key {}", escrowed.escrow_key_id.hex()));
}

}  // namespace

void AddRecoveryKeyOptions(CLI::App& verb, RecoveryKeyArguments& arguments) {
  verb.add_option("--keys", arguments.keys, "folder that keys init wrote; with --token")->default_val("keys");
  verb.add_option("--token", arguments.tokens,
                  "custody=URI: the token with the escrow key; fetches and decrypts")
      ->allow_extra_args(false);
  AddJournalOption(verb, arguments.journal);
  verb.add_option("--volume", arguments.volume, "only this one, as persistent");
}

Status PrintRecoveryKeys(const v1::FetchRecoveryKeyResponse& fetched, const v1::ChangeRequest& request,
                         const RecoveryKeyArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const order::ChangeRequest asked, order::ParseChangeRequest(request.canonical()));
  SEALIFT_ASSIGN_OR_RETURN(const auto ring,
                           hsm::KeyRing::Open(arguments.keys, arguments.tokens, arguments.journal));
  // Newest first: an older key of the same volume is replaced already.
  std::set<std::string> seen;
  std::vector<std::pair<escrow::Subject, SecretBytes>> keys;
  Status failed;
  for (const v1::FetchRecoveryKeyResponse::Blob& blob : fetched.blobs()) {
    SEALIFT_ASSIGN_OR_RETURN(const escrow::EscrowedKey escrowed, escrow::Parse(blob.blob()));
    const escrow::Subject& subject = escrowed.subject;
    // The controller may have mixed them up; another machine's key was not approved.
    if (subject.ek_digest != asked.ek_digest || !IsPlain(subject.volume) || !IsPlain(subject.luks_uuid)) {
      return MakeError(Code::kInvalidArgument, Reason::kEscrowMalformed,
                       "decrypt recovery key: the controller sent one of another machine");
    }
    if (!arguments.volume.empty() && subject.volume != arguments.volume) continue;
    if (!seen.insert(subject.volume + " " + subject.luks_uuid).second) continue;
    Result<SecretBytes> key = Decrypt(*ring, escrowed,
                                      fmt::format("recovery key of node {} volume {} request {}",
                                                  asked.node.text(), subject.volume, asked.id));
    if (key.ok()) {
      keys.emplace_back(subject, *std::move(key));
      continue;
    }
    // As of a volume from before the machine was installed again: the others are none the worse for it.
    failed = Annotate(key.status(), fmt::format("volume {} (LUKS {})", subject.volume, subject.luks_uuid));
    std::fprintf(stderr, "sealift: %s\n", Describe(failed).c_str());
  }
  if (keys.empty() && !failed.ok()) return failed;
  if (keys.empty()) {
    return MakeError(Code::kNotFound, Reason::kRecoveryKeyUnknown,
                     fmt::format("read recovery key: none of volume '{}'", arguments.volume));
  }
  if (session.json()) std::printf("{\"node\":\"%s\",\"keys\":[", asked.node.text().c_str());
  for (std::size_t i = 0; i < keys.size(); ++i)
    PrintOne(keys[i].first, keys[i].second, session.json(), i == 0);
  if (session.json()) std::printf("]}\n");
  return failed;
}

}  // namespace sealift::cli
