// Which token, which module opens it, and where its PIN is: RFC 7512 "pkcs11:" URIs.
//
//   pkcs11:token=demo-online?x-softhsm-store=/srv/tokens&pin-source=file:/srv/tokens/online.pin
//
// Plain values. Parsing is p11-kit's. Two rules go beyond the RFC: a PIN never stands in a URI (pin-value is
// refused), and pin-source names a file by its absolute path ("|command" is refused). The vendor attribute
// x-softhsm-store names the folder of a SoftHSM store, so that a URI needs no environment.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::hsm {

struct TokenUri {
  // At least one of these three is set.
  std::string token;
  std::string serial;
  std::string model;
  std::string manufacturer;
  // Of an object: CKA_ID and CKA_LABEL.
  Bytes id;
  std::string object;
  // Absolute path; empty when the PIN comes from elsewhere.
  std::string pin_file;
  std::string module_path;
  std::string module_name;
  // Absolute path; empty for other modules and for SoftHSM's own configuration.
  std::string softhsm_store;

  // Errors: INVALID_ARGUMENT saying what is wrong; a PIN in the text is never repeated.
  static Result<TokenUri> Parse(std::string_view text);
  // Holds no secret: the PIN is only ever named by its file.
  std::string Text() const;
  // The same token, without object and PIN file: what inventories and key references carry.
  TokenUri TokenOnly() const;
  // For messages: "'demo-online'".
  std::string Name() const;
};

// A command-line argument "[GROUP=]URI". `group` is empty when none is named.
struct TokenArgument {
  std::string group;
  TokenUri uri;
  static Result<TokenArgument> Parse(std::string_view text);
};

}  // namespace sealift::hsm
