// What the registers of a machine show when it runs a release under a key set: computed, never collected.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "controller/attest/verifier.h"
#include "controller/fleet/stores.h"
#include "shared/release/manifest.h"
#include "shared/uki/pcr_prediction.h"

namespace sealift::controller {

// The fleet's Secure Boot keys as enrolled, byte for byte: firmware measures the lists as they are.
struct KeySet {
  uki::SecureBootVariables variables;
  // What machines hold that have not taken the newest lists yet, as after a new generation of keys.
  std::vector<uki::SecureBootVariables> earlier;
};

// Reads PK.esl, KEK.esl, db.esl and, where it exists, dbx.esl; the same of each folder in `folder`/earlier,
// where there is one, in the order of their names. Errors: FILE_UNREADABLE; MALFORMED.
Result<KeySet> LoadKeySet(const std::filesystem::path& folder);

// A boot loader that may lie on a machine's ESP: an upgrade leaves the one that is there.
struct AllowedBootLoader {
  std::string name;
  Sha256Digest authenticode;
  // SHA-256 of the DER of each db certificate that may have signed it.
  std::vector<Sha256Digest> certificates;
};
Result<AllowedBootLoader> BootLoaderOf(const Manifest& manifest);

// Predicts PCR 4 (each of `boot_loaders`, then the image, then the kernel inside or not, as firmware has it),
// 7 (for each key set in use, the db certificate of a boot loader, then the image's: they differ while an
// older boot loader starts an image of a newer key generation), 11 (each phase of the manifest), 12 and 13
// (what the manifest lists of its main image). `manifest_json`: as signed.
// Errors: INVALID_ARGUMENT/RELEASE_MANIFEST_INVALID when the manifest contradicts the prediction or lacks
// what it needs; FAILED_PRECONDITION/KEY_MISMATCH when no certificate of db signed the release.
Result<ExpectedRelease> ExpectRelease(std::string_view manifest_json, const KeySet& keys,
                                      std::span<const AllowedBootLoader> boot_loaders);

// Where judges get their candidates from.
class ExpectationSource {
 public:
  virtual ~ExpectationSource() = default;
  // Never null. Shared, immutable.
  virtual Result<std::shared_ptr<const std::vector<ExpectedRelease>>> Candidates() = 0;
  // `candidates` as the evidence keeps them (EncodeExpectations).
  virtual Bytes Encoded(const std::shared_ptr<const std::vector<ExpectedRelease>>& candidates);
};

// Every published release, computed once per set of releases. A release that cannot be predicted is logged
// and left out: machines that run it come out as unknown, the others are not hurt. Thread-safe; borrows
// `releases`.
class ReleaseExpectations final : public ExpectationSource {
 public:
  ReleaseExpectations(ReleaseStore& releases, KeySet keys) : releases_(releases), keys_(std::move(keys)) {}
  Result<std::shared_ptr<const std::vector<ExpectedRelease>>> Candidates() override;
  // Encodes each set once.
  Bytes Encoded(const std::shared_ptr<const std::vector<ExpectedRelease>>& candidates) override;

 private:
  ReleaseStore& releases_;
  const KeySet keys_;
  std::mutex mutex_;
  std::vector<ReleaseId> known_;
  std::shared_ptr<const std::vector<ExpectedRelease>> candidates_;
  // Of candidates_; empty until asked for.
  Bytes encoded_;
};

}  // namespace sealift::controller
