#include "node-agent/order/escrow_keeper.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::agent {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxBookBytes = 64u << 10;
constexpr std::size_t kMaxDigests = 256;

std::string DigestOf(const escrow::EscrowedKey& key) { return Sha256(AsBytes(escrow::Format(key))).hex(); }

std::set<std::string> DigestsFrom(const json& book, const char* name) {
  std::set<std::string> digests;
  const auto list = book.find(name);
  if (list == book.end() || !list->is_array() || list->size() > kMaxDigests) return digests;
  for (const json& one : *list)
    if (one.is_string()) digests.insert(one.get<std::string>());
  return digests;
}

}  // namespace

void EscrowKeeper::Load() {
  if (loaded_) return;
  loaded_ = true;
  const auto text = ReadTextFile(places_.book, kMaxBookBytes);
  if (!text.ok()) return;
  const json book = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!book.is_object()) return;
  book_ = {.acknowledged = DigestsFrom(book, "acknowledged"),
           .replacing = DigestsFrom(book, "replacing"),
           .dropped = DigestsFrom(book, "dropped"),
           .order = {}};
  if (const auto order = book.find("order"); order != book.end() && order->is_string())
    book_.order = order->get<std::string>();
}

Status EscrowKeeper::Save() {
  const json book = {{"acknowledged", book_.acknowledged},
                     {"replacing", book_.replacing},
                     {"dropped", book_.dropped},
                     {"order", book_.order}};
  return WriteFileAtomically(places_.book, AsBytes(book.dump()), 0600);
}

Status EscrowKeeper::Step(const Send& send) {
  if (settled_ || !places_.mounted()) return OkStatus();
  Load();
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<escrow::EscrowedKey> keys, keys_.List());
  Status first = OkStatus();
  for (const escrow::EscrowedKey& key : keys) {
    const Status brought = Bring(key, send);
    if (first.ok()) first = brought;
    // One that is refused keeps no other waiting; a controller that is away does.
    if (brought.code() == Code::kUnavailable || brought.code() == Code::kDeadlineExceeded) return first;
  }
  SEALIFT_RETURN_IF_ERROR(DropReplaced(keys));
  settled_ = first.ok() && book_.replacing.empty();
  return first;
}

Status EscrowKeeper::Bring(const escrow::EscrowedKey& key, const Send& send) {
  const std::string digest = DigestOf(key);
  if (book_.acknowledged.contains(digest) || book_.dropped.contains(digest)) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest stored, send(key));
  if (stored.hex() != digest) {
    return MakeError(Code::kDataLoss, Reason::kEscrowMalformed,
                     fmt::format("escrow recovery key of '{}': the controller acknowledged another one",
                                 key.subject.volume));
  }
  book_.acknowledged.insert(digest);
  SEALIFT_RETURN_IF_ERROR(Save());
  log::Info("recovery key is in escrow", {{"key", digest}});
  return OkStatus();
}

// Of each volume: a new key is acknowledged, then the old ones go.
Status EscrowKeeper::DropReplaced(const std::vector<escrow::EscrowedKey>& keys) {
  for (const escrow::EscrowedKey& old : keys) {
    const std::string digest = DigestOf(old);
    if (!book_.replacing.contains(digest)) continue;
    const auto fresh = std::ranges::find_if(keys, [&](const escrow::EscrowedKey& one) {
      const std::string other = DigestOf(one);
      return one.subject.volume == old.subject.volume && one.subject.luks_uuid == old.subject.luks_uuid &&
             !book_.replacing.contains(other) && !book_.dropped.contains(other) &&
             book_.acknowledged.contains(other);
    });
    // The next boot makes it.
    if (fresh == keys.end()) continue;
    SEALIFT_RETURN_IF_ERROR(keys_.DropOthers(old.subject.volume, fresh->subject.slot));
    book_.replacing.erase(digest);
    book_.dropped.insert(digest);
    SEALIFT_RETURN_IF_ERROR(Save());
    log::Info("recovery key replaced", {{"key", digest}});
  }
  // A volume that is gone, or was made anew, keeps nothing waiting.
  const auto before = book_.replacing.size();
  std::erase_if(book_.replacing, [&](const std::string& digest) {
    return std::ranges::none_of(keys,
                                [&](const escrow::EscrowedKey& one) { return DigestOf(one) == digest; });
  });
  if (book_.replacing.size() != before) SEALIFT_RETURN_IF_ERROR(Save());
  if (!book_.replacing.empty()) return OkStatus();
  std::error_code error;
  std::filesystem::remove(places_.replace_mark, error);
  return OkStatus();
}

Result<bool> EscrowKeeper::Replace(const std::string& id) {
  if (!places_.mounted()) {
    return MakeError(Code::kFailedPrecondition, Reason::kStateMissing,
                     "replace recovery keys: the state partition is not mounted");
  }
  Load();
  if (book_.order == id && book_.replacing.empty()) return true;
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<escrow::EscrowedKey> keys, keys_.List());
  if (keys.empty()) {
    return MakeError(Code::kNotFound, Reason::kRecoveryKeyUnknown,
                     "replace recovery keys: this machine has no encrypted volume");
  }
  if (book_.order != id) {
    for (const escrow::EscrowedKey& key : keys) {
      const std::string digest = DigestOf(key);
      if (!book_.dropped.contains(digest)) book_.replacing.insert(digest);
    }
    book_.order = id;
    SEALIFT_RETURN_IF_ERROR(Save());
  }
  settled_ = false;
  // Again after a cut is fine: the early boot makes one new key for each id.
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(places_.replace_mark, AsBytes(id + "\n"), 0600));
  return false;
}

Result<bool> EscrowKeeper::HasReplaced() {
  if (!places_.mounted()) {
    return MakeError(Code::kUnavailable, Reason::kStateMissing,
                     "replace recovery keys: the state partition is not mounted");
  }
  Load();
  if (book_.order.empty()) {
    return MakeError(Code::kFailedPrecondition, Reason::kRecoveryKeyUnknown,
                     "replace recovery keys: what was to be replaced is not known any more");
  }
  return book_.replacing.empty();
}

}  // namespace sealift::agent
