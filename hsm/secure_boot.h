// The Secure Boot files of a set after its ceremony: updates of KEK, db and dbx, and certificates that a
// private CA issued for keys that stay in their token.
//
// PK signs PK and KEK; KEK signs db and dbx. Firmware accepts only growing time stamps, so the inventory
// holds the last one of each variable. One process at a time: the set's folder is locked meanwhile.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hsm/inventory.h"
#include "hsm/key_ring.h"
#include "shared/crypto/certificate.h"
#include "shared/efi/signature_list.h"

namespace sealift::hsm {

// "pk" for "PK" and "KEK", "kek" for "db" and "dbx"; empty for any other name.
std::string_view SignerRoleOf(std::string_view variable);
// "PK" for "pk", "KEK", "db"; empty for a role without a variable.
std::string_view VariableOfRole(std::string_view role);

// Signs what replaces a variable's content, or is added to it, and then is the firmware: what does not verify
// under `certificate`, the signer's, never leaves.
Result<Bytes> SignAndVerifyVariable(std::string_view variable, bool append, UnixMillis time, ByteView content,
                                    Signer& signer, const Certificate& certificate);

// Takes the next time stamp of a variable and notes it in `inventory`. It is `now`, or a second after the
// last one where that is not ten seconds ahead. Errors: FAILED_PRECONDITION/TIMESTAMP_NOT_NEWER.
Result<UnixMillis> NextVariableTime(Inventory& inventory, std::string_view variable, UnixMillis now);

// "updates/pk-N/KEK.auth" anew with `kek`, for each PK that stands ready and is not taken over yet: signed by
// it. One whose key no token given holds is named in a warning. Not to be called with pk-N among the keys
// being made. Errors: those of NextVariableTime and KeyRing.
Result<std::vector<std::pair<std::string, Bytes>>> SignForPendingPks(KeyRing& ring, Inventory& inventory,
                                                                     ByteView kek, UnixMillis now);

struct VariableUpdate {
  // "KEK", "db" or "dbx".
  std::string variable;
  // The lists that replace the variable's content, or are added to it.
  Bytes content;
  bool append = false;
  UnixMillis now;
  bool allow_expired = false;
};

struct SignedUpdate {
  Bytes auth;
  UnixMillis time;
  // The content lacks this set's own certificate, which the machine would stop to trust.
  bool drops_own_certificate = false;
};

// What firmware in user mode takes: verified here as it will, and the time stamp noted in the set's folder
// before it is returned. Needs a token with the signer's group ("root").
// Errors: INVALID_ARGUMENT for another variable or an empty content; MALFORMED; TIMESTAMP_NOT_NEWER;
// SIGNER_CERTIFICATE_EXPIRED; those of KeyRing.
Result<SignedUpdate> SignVariableUpdate(KeyRing& ring, const VariableUpdate& update);

// A request (PKCS#10, DER) for the role's key, for "pk", "kek" or "db". Needs InstallKeyProvider().
// Errors: INVALID_ARGUMENT; those of KeyRing.
Result<Bytes> RequestCertificate(KeyRing& ring, std::string_view role, const std::string& common_name);

// Puts `certificate` in the place of the own one of its key, of whatever generation: its .pem and .der, .esl
// and .auth of its variable, the .auth files that carry it as their signer's, and what of it stands ready in
// updates/ (of a PK that is not taken over yet: that alone). Recorded in the ring's
// journal as "imported". All are staged before the first is replaced, the inventory
// last; after a power cut in between, the same call again mends the set. Errors:
// FAILED_PRECONDITION/KEY_MISMATCH when it is of another key; SIGNER_CERTIFICATE_EXPIRED;
// TIMESTAMP_NOT_NEWER; KEY_SET_INVALID; those of KeyRing.
Result<Inventory> ImportCertificate(KeyRing& ring, std::string_view role, const Certificate& certificate,
                                    UnixMillis now, bool allow_expired);

}  // namespace sealift::hsm
