// EFI_SIGNATURE_LIST: what PK, KEK, db and dbx hold (UEFI 2.10 section 32.4.1).
//
// Plain values; thread-safe. Types named by SignatureTypeName are checked for their size, other types are
// kept byte for byte. Parse followed by serialise gives the input back, but for lists without entries, which
// are dropped.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "shared/efi/guid.h"

namespace sealift::efi {

struct SignatureEntry {
  // Who put it there; firmware does not interpret it, but PCR 7 measures it.
  Guid owner;
  // DER certificate, 32-byte Authenticode digest, or what the type says.
  Bytes data;

  bool operator==(const SignatureEntry&) const = default;
  // EFI_SIGNATURE_DATA: owner, then data. What firmware measures for the entry that authorised an image.
  Bytes Serialize() const;
};

struct SignatureList {
  Guid type;
  // SignatureHeader; empty for every type in use.
  Bytes header;
  // All of one size.
  std::vector<SignatureEntry> entries;

  bool operator==(const SignatureList&) const = default;
};

// The content of one variable: lists back to back.
using SignatureLists = std::vector<SignatureList>;

// "x509", "sha1", "sha256", "sha384", "sha512", "rsa2048", "x509_sha256"; "unknown" for any other type.
std::string_view SignatureTypeName(const Guid& type);
// The hash that an entry of a hash type holds, a borrowed part of `data`; empty for other types.
ByteView HashOfEntry(const Guid& type, ByteView data);

// Largest content that is looked at. Real dbx variables are below 64 KiB.
inline constexpr std::size_t kMaxSignatureListBytes = 4u << 20;

// One list per certificate, since all entries of a list have one size.
// What it holds is not looked at.
SignatureList X509SignatureList(const Guid& owner, ByteView certificate_der);
SignatureList Sha256SignatureList(const Guid& owner, std::span<const Sha256Digest> digests);

// Empty input is an empty database. Errors: INVALID_ARGUMENT/MALFORMED: sizes that contradict each other, an
// entry below 17 bytes, a list of a known type with a header or with entries not of that type's size,
// trailing bytes.
Result<SignatureLists> ParseSignatureLists(ByteView bytes);
Bytes SerializeSignatureLists(std::span<const SignatureList> lists);

// Every entry of one type, in order. The pointers live as long as `lists`.
std::vector<const SignatureEntry*> EntriesOfType(std::span<const SignatureList> lists, const Guid& type);

}  // namespace sealift::efi
