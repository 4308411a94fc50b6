// The machine's TPM, as the agent needs it: registers, identity, evidence.
//
// A seam of plain values; EsysTpm (esys_tpm.h) stands behind it. Implementations are thread-safe: one command
// at a time reaches the device, callers wait for each other. A TPM signs in 20 to 200 ms, so nothing here
// belongs on a hot path.
//
// Errors everywhere: UNAVAILABLE/TPM_UNAVAILABLE when the device cannot be reached,
// FAILED_PRECONDITION/TPM_COMMAND_FAILED with the TPM's own code, TPM_HANDLE_OCCUPIED where said.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"
#include "shared/tpm/quote.h"

namespace sealift::agent {

// Where the agent's keys persist. Both are primary keys of fixed templates: lost handles are filled again
// with the same keys as long as nobody clears the TPM.
inline constexpr std::uint32_t kAttestationKeyHandle = 0x81010020;
// Of the TLS key that signs for whoever asks: what agents before the guard used, and where there is none.
inline constexpr std::uint32_t kTlsKeyHandle = 0x81000010;
// Of the one that a guard keeps (tls_guard.h). A handle of its own, so that an older image to which the node
// falls back finds its own key as it was.
inline constexpr std::uint32_t kGuardedTlsKeyHandle = 0x81000011;
// The TLS key, whichever it is, as a key reference (shared/crypto/key_reference.h).
inline constexpr std::string_view kTlsKeyUri = "tpm2:0x81000010";

// Registers a quote for the controller covers: firmware (0-7), kernel and initrd (9), UKI (11), what came
// beside it (12, 13), shim (14). PCR 10 (IMA) moves all the time.
inline constexpr std::array<std::uint32_t, 13> kQuotedPcrs{0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14};

// TPM2B_PUBLIC of each key of the agent.
struct TpmKeys {
  Bytes attestation;
  Bytes tls;
};

// The TPM's own identity, from its maker.
struct EndorsementKey {
  // TPM2B_PUBLIC.
  Bytes public_area;
  // DER: its certificate, then what the maker stored of the chain. Empty where there is none.
  std::vector<Bytes> certificates;
};

// TPMS_ATTEST and TPMT_SIGNATURE.
struct Attestation {
  Bytes attest;
  Bytes signature;
};

class Tpm {
 public:
  virtual ~Tpm() = default;

  // SHA-256 bank. Errors also: FAILED_PRECONDITION/TPM_COMMAND_FAILED when the bank is not allocated.
  virtual Result<tpm::PcrValues> ReadPcrs(std::span<const std::uint32_t> pcrs) = 0;
  // Makes the attestation and TLS keys where they are missing. Idempotent, cheap when nothing is.
  // Errors also: FAILED_PRECONDITION/TPM_HANDLE_OCCUPIED when another kind of key lies at a handle.
  virtual Result<TpmKeys> EnsureKeys() = 0;
  // The key that has a certificate (RSA 2048 before ECC P-256, the low range before the high one), the ECC
  // one of the low range where none has. May take seconds: a TPM whose maker left the key out makes it anew.
  virtual Result<EndorsementKey> ReadEndorsementKey() = 0;
  // `blob`: TPM2B_ID_OBJECT, `encrypted_secret`: TPM2B_ENCRYPTED_SECRET. This and everything below makes
  // missing keys first.
  virtual Result<SecretBytes> ActivateCredential(ByteView blob, ByteView encrypted_secret) = 0;
  // The attestation key certifies the TLS key. `nonce`: at most 32 bytes.
  virtual Result<Attestation> CertifyTlsKey(ByteView nonce) = 0;
  // SHA-256 registers with their values; taken again when one moved between reading and quoting.
  virtual Result<tpm::QuoteEvidence> Quote(ByteView nonce, std::span<const std::uint32_t> pcrs) = 0;
  // ECDSA over a SHA-256 digest, DER.
  virtual Result<Bytes> SignWithTlsKey(const Sha256Digest& digest) = 0;
};

inline constexpr std::string_view kEventLogPath = "/sys/kernel/security/tpm0/binary_bios_measurements";
// The firmware's event log, unparsed. Errors: NOT_FOUND/FILE_UNREADABLE, FILE_TOO_LARGE.
Result<Bytes> ReadEventLog(const std::filesystem::path& path = kEventLogPath);

}  // namespace sealift::agent
