#include "hsm/token.h"

#include <fmt/format.h>

#include <map>
#include <mutex>

#include "hsm/pin.h"
#include "hsm/slot.h"

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

// A module that lost what it connects to is given one chance: nothing of ours is open on it that would mend
// it.
Result<FoundToken> FindTokenMending(Module& module, const TokenUri& uri) {
  for (const bool again : {true, false}) {
    auto found = [&] {
      const Module::Use use = module.Enter();
      return FindToken(module, uri);
    }();
    if (found.ok() || !again || LossOf(found.status()) != Loss::kDevice) return found;
    SEALIFT_RETURN_IF_ERROR(module.Reinitialise());
  }
  SEALIFT_CHECK(false);
}

}  // namespace

Result<std::shared_ptr<Token>> Token::Open(const TokenUri& uri, SessionPool::Options options) {
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Module> module, Module::Load(uri));
  SEALIFT_ASSIGN_OR_RETURN(const FoundToken found, FindTokenMending(*module, uri));
  OpenTokens& open = TheOpenTokens();
  // Held while a PIN may be asked for: two prompts at once would help nobody.
  const std::lock_guard lock(open.mutex);
  // Not by its slot, whose number may pass to another token.
  std::weak_ptr<Token>& known = open.tokens[fmt::format("{}|{}", module->key(), found.identity.Text())];
  if (std::shared_ptr<Token> token = known.lock()) return token;
  SEALIFT_ASSIGN_OR_RETURN(SecretBytes pin, ReadPin(uri));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<SessionPool> pool,
                           SessionPool::Open(module, found.slot, std::move(pin), options));
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
