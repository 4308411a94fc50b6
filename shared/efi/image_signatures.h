// The signatures in an image's certificate table as they are, whatever their algorithms: for looking at,
// where VerifyImage decides. Nothing here says that a signer is to be believed.
//
// Thread-safe function over foreign bytes; plain values.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::efi {

struct ImageSignature {
  // "sha1", "sha256", "sha384", "sha512", or an OID's text; empty where it does not parse.
  std::string digest_algorithm;
  // Of the image, as the signature says.
  Bytes digest;
  // Whether that is the image's.
  bool digest_ok = false;
  // Whether the signature fits its content and the signers' certificates, which it carries.
  bool signature_ok = false;
  // DER of the certificates of those who signed.
  std::vector<Bytes> signers;
  // DER of every certificate inside.
  std::vector<Bytes> certificates;
  // Why something is not ok, for people.
  std::string problem;
};

// Digests of the image that count as its own, by the algorithm's name.
using ImageDigests = std::map<std::string, std::vector<Bytes>>;

// `table`: the certificate table. Entries that are no PKCS#7 are left out, as firmware passes over them.
// Errors: INVALID_ARGUMENT/IMAGE_MALFORMED for an entry whose length does not fit, or more than 16.
Result<std::vector<ImageSignature>> ReadImageSignatures(ByteView table, const ImageDigests& digests);

}  // namespace sealift::efi
