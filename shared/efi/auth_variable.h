// EFI_VARIABLE_AUTHENTICATION_2: the .auth files that enrol and change PK, KEK, db and dbx
// (UEFI 2.10 section 8.2.6).
//
// Written so that firmware of every age takes them: bare SignedData, SHA-256, no signed attributes, the
// signer's certificate inside. Thread-safe functions over plain values.
#pragma once

#include <span>
#include <string>

#include "shared/base/clock.h"
#include "shared/crypto/signer.h"
#include "shared/efi/signature_list.h"
#include "shared/efi/signed_data.h"

namespace sealift::efi {

// EFI_TIME with the fields that authentication allows to be non-zero; UTC.
struct EfiTime {
  std::uint16_t year = 0;
  std::uint8_t month = 0;  // 1 to 12
  std::uint8_t day = 0;    // 1 to 31
  std::uint8_t hour = 0;
  std::uint8_t minute = 0;
  std::uint8_t second = 0;
  auto operator<=>(const EfiTime&) const = default;
};

// Whole seconds; milliseconds are dropped.
EfiTime ToEfiTime(UnixMillis time);

// Non-volatile, boot and runtime access, time-based authentication.
inline constexpr std::uint32_t kReplaceAttributes = 0x27;
// The same, appending: duplicates are filtered by firmware and the time need not grow.
inline constexpr std::uint32_t kAppendAttributes = 0x67;

// Which variable a write is for; all of it is under the signature.
struct VariableTarget {
  // "PK", "KEK", "db", "dbx".
  std::string name;
  Guid vendor;
  std::uint32_t attributes = kReplaceAttributes;
};

// The vendor that belongs to "PK", "KEK" (global) or "db", "dbx", "dbt" (image security).
// Errors: INVALID_ARGUMENT for another name.
Result<VariableTarget> SecureBootVariable(std::string_view name,
                                          std::uint32_t attributes = kReplaceAttributes);

// Returns the bytes of NAME.auth. `time` must be later than that of the write before, unless it appends.
// `payload` is the new content, signature lists back to back; empty clears the variable.
// `certificate_der` is of `signer`'s key: PK's for PK and KEK, KEK's for db and dbx.
// The journal sees "authenticated variable <name> at <time>".
// Errors: as BuildSignedData.
Result<Bytes> BuildAuthenticatedVariable(const VariableTarget& target, UnixMillis time, ByteView payload,
                                         Signer& signer, ByteView certificate_der);

// An .auth file taken apart; nothing in it is believed yet.
struct AuthenticatedVariable {
  EfiTime time;
  Bytes signed_data;
  Bytes payload;
};

// Bounded. Errors: INVALID_ARGUMENT/MALFORMED.
Result<AuthenticatedVariable> ParseAuthenticatedVariable(ByteView auth);

// The first half of verification: the signature covers target, time and payload, by a certificate that the
// file itself carries. Who may sign is another question.
// Errors: INVALID_ARGUMENT/MALFORMED; UNAUTHENTICATED/SIGNATURE_INVALID.
Result<CheckedSignedData> CheckAuthenticatedVariable(const AuthenticatedVariable& variable,
                                                     const VariableTarget& target);

// Evidence that firmware holding `trusted` would accept the write.
struct VerifiedVariable {
  EfiTime time;
  SignatureLists content;
  Bytes signer_certificate;
  // The entry of `trusted` that vouches for the signer.
  SignatureEntry authority;
};

// `trusted` is what the machine holds for that variable's signers (PK's content for PK and KEK; KEK's for db
// and dbx). Errors: INVALID_ARGUMENT/MALFORMED; UNAUTHENTICATED/SIGNATURE_INVALID when the signature does not
// cover target, time and payload; UNAUTHENTICATED/CERTIFICATE_INVALID when no trusted entry vouches.
Result<VerifiedVariable> VerifyAuthenticatedVariable(ByteView auth, const VariableTarget& target,
                                                     std::span<const SignatureList> trusted);

}  // namespace sealift::efi
