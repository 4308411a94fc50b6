// The operator who runs `sealift`: name and key of the connection profile, which also sign requests.
#pragma once

#include <string>

#include "shared/base/status.h"
#include "shared/crypto/openssl.h"

namespace sealift::cli {

class Person {
 public:
  // `profile` empty: the default one. The key is a file or a reference to one in a token. Errors: those of
  // LoadProfile, CheckSecretFile; CERTIFICATE_INVALID.
  static Result<Person> Load(const std::string& profile);

  const std::string& name() const { return name_; }
  // SHA-256 with ECDSA (DER) or RSA PKCS#1 v1.5.
  Result<Bytes> Sign(const std::string& text) const;

 private:
  Person(std::string name, EvpPkeyPtr key) : name_(std::move(name)), key_(std::move(key)) {}
  std::string name_;
  EvpPkeyPtr key_;
};

}  // namespace sealift::cli
