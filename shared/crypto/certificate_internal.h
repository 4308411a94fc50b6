// What reading and issuing of certificates share. Not for use outside this folder.
#pragma once

#include <string>
#include <vector>

#include "shared/crypto/openssl.h"

namespace sealift {

using GeneralNamesPtr = CPtr<GENERAL_NAMES, GENERAL_NAMES_free>;

namespace certificate_internal {

// sk_X509_free is a macro; the certificates themselves are borrowed.
inline void FreeX509Stack(STACK_OF(X509) * stack) { sk_X509_free(stack); }
inline void FreeExtensions(STACK_OF(X509_EXTENSION) * stack) {
  sk_X509_EXTENSION_pop_free(stack, X509_EXTENSION_free);
}

std::string CommonName(const X509_NAME* name);
// For types whose value is an IA5String: GEN_URI, GEN_DNS, GEN_EMAIL.
std::vector<std::string> NamesOfType(const GENERAL_NAMES* names, int type);

}  // namespace certificate_internal
}  // namespace sealift
