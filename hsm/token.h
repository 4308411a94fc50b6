// One token, found by its URI and logged in.
//
// Thread-safe. Shared within a process: opening the same token again returns the one that is open, and asks
// for no PIN. That is how a key reference without a PIN works in a program that opened its tokens at start.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "hsm/key_store.h"
#include "hsm/session_pool.h"
#include "hsm/token_uri.h"

namespace sealift::hsm {

class Journal;

class Token {
 public:
  // Errors: those of FindToken, ReadPin, Module::Load and SessionPool::Open.
  static Result<std::shared_ptr<Token>> Open(const TokenUri& uri, SessionPool::Options options = {});

  KeyStore& keys() { return keys_; }
  const std::shared_ptr<SessionPool>& pool() const { return pool_; }
  // As it was opened, without the PIN's place.
  const TokenUri& uri() const { return uri_; }
  const std::string& label() const { return pool_->token_label(); }

  // Where signers of this token record from now on. Held weakly: whoever signs keeps it.
  void RecordIn(const std::shared_ptr<Journal>& journal);
  // Null when nobody gave one, or when it is closed.
  std::shared_ptr<Journal> journal() const;

 private:
  Token(std::shared_ptr<SessionPool> pool, TokenUri uri)
      : pool_(std::move(pool)), keys_(pool_), uri_(std::move(uri)) {}
  std::shared_ptr<SessionPool> pool_;
  KeyStore keys_;
  TokenUri uri_;
  mutable std::mutex journal_mutex_;
  std::weak_ptr<Journal> journal_;
};

}  // namespace sealift::hsm
