#include "shared/crypto/sha384.h"

#include <algorithm>

namespace sealift {

Result<Sha384Digest> Sha384Digest::FromHex(std::string_view hex) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes decoded, HexDecode(hex));
  Sha384Digest digest;
  if (decoded.size() != digest.bytes.size() || HexEncode(decoded) != hex) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     "read SHA-384 digest: it is not 96 lower-case hex digits");
  }
  std::copy(decoded.begin(), decoded.end(), digest.bytes.begin());
  return digest;
}

Sha384Hasher::Sha384Hasher() : context_(EVP_MD_CTX_new()) {
  SEALIFT_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha384(), nullptr) == 1);
}

void Sha384Hasher::Update(ByteView bytes) {
  SEALIFT_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
}

Sha384Digest Sha384Hasher::Finish() {
  Sha384Digest digest;
  unsigned size = 0;
  SEALIFT_CHECK(EVP_DigestFinal_ex(context_.get(), digest.bytes.data(), &size) == 1 &&
                size == digest.bytes.size());
  SEALIFT_CHECK(EVP_DigestInit_ex(context_.get(), EVP_sha384(), nullptr) == 1);
  return digest;
}

Sha384Digest Sha384(ByteView bytes) {
  Sha384Hasher hasher;
  hasher.Update(bytes);
  return hasher.Finish();
}

}  // namespace sealift
