#include "hsm/token.h"

#include <fmt/format.h>

#include <map>
#include <mutex>
#include <vector>

#include "hsm/pin.h"

namespace sealift::hsm {
namespace {

struct OpenTokens {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<Token>> tokens;
};
OpenTokens& TheOpenTokens() {
  static OpenTokens& tokens = *new OpenTokens;
  return tokens;
}

bool Fits(const std::string& wanted, const std::string& actual) { return wanted.empty() || wanted == actual; }

Result<bool> Matches(const Module& module, CK_SLOT_ID slot, const TokenUri& uri) {
  CK_TOKEN_INFO info{};
  const CK_RV rv = module.api().C_GetTokenInfo(slot, &info);
  // A token that goes away while we look is no match.
  if (rv == CKR_TOKEN_NOT_PRESENT || rv == CKR_SLOT_ID_INVALID) return false;
  if (rv != CKR_OK) return Pkcs11Error(rv, fmt::format("open token {}", uri.Name()), "C_GetTokenInfo");
  return (info.flags & CKF_TOKEN_INITIALIZED) != 0 &&
         Fits(uri.token, PaddedText(info.label, sizeof(info.label))) &&
         Fits(uri.serial, PaddedText(info.serialNumber, sizeof(info.serialNumber))) &&
         Fits(uri.model, PaddedText(info.model, sizeof(info.model))) &&
         Fits(uri.manufacturer, PaddedText(info.manufacturerID, sizeof(info.manufacturerID)));
}

Result<CK_SLOT_ID> FindSlot(const Module& module, const TokenUri& uri) {
  SEALIFT_ASSIGN_OR_RETURN(const auto slots, module.Slots(true));
  std::vector<CK_SLOT_ID> found;
  for (const CK_SLOT_ID slot : slots) {
    SEALIFT_ASSIGN_OR_RETURN(const bool matches, Matches(module, slot, uri));
    if (matches) found.push_back(slot);
  }
  if (found.size() == 1) return found.front();
  if (found.empty()) {
    return MakeError(Code::kNotFound, Reason::kHsmTokenMissing,
                     fmt::format("open token {}: '{}' shows no such token", uri.Name(), module.key()));
  }
  return MakeError(
      Code::kInvalidArgument, Reason::kInvalidArgument,
      fmt::format("open token {}: {} tokens match; add serial= to its URI", uri.Name(), found.size()));
}

}  // namespace

Result<std::shared_ptr<Token>> Token::Open(const TokenUri& uri, SessionPool::Options options) {
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Module> module, Module::Load(uri));
  SEALIFT_ASSIGN_OR_RETURN(const CK_SLOT_ID slot, FindSlot(*module, uri));
  OpenTokens& open = TheOpenTokens();
  // Held while a PIN may be asked for: two prompts at once would help nobody.
  const std::lock_guard lock(open.mutex);
  std::weak_ptr<Token>& known = open.tokens[fmt::format("{}|{}", module->key(), slot)];
  if (std::shared_ptr<Token> token = known.lock()) return token;
  SEALIFT_ASSIGN_OR_RETURN(SecretBytes pin, ReadPin(uri));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<SessionPool> pool,
                           SessionPool::Open(module, slot, std::move(pin), options));
  std::shared_ptr<Token> token(new Token(std::move(pool), uri.TokenOnly()));
  known = token;
  return token;
}

void Token::RecordIn(const std::shared_ptr<Journal>& journal) {
  const std::lock_guard lock(journal_mutex_);
  journal_ = journal;
}

std::shared_ptr<Journal> Token::journal() const {
  const std::lock_guard lock(journal_mutex_);
  return journal_.lock();
}

}  // namespace sealift::hsm
