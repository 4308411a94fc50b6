// This fleet's Secure Boot keys in the machine's firmware: whether they are there, and enrolling them.
//
// The expected keys come from the measured image (/usr/lib/sealift/keys, written by build-uki), not from the
// medium. Not thread-safe; borrows the variables.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/esp/efi_variables.h"
#include "shared/efi/signature_list.h"
#include "shared/tpm/event_log.h"

namespace sealift::agent {

inline constexpr std::string_view kImageKeysFolder = "/usr/lib/sealift/keys";

// The files firmware enrols, and what each says.
struct FirmwareKey {
  // "PK", "KEK", "db", "dbx".
  std::string name;
  // The whole .auth file.
  Bytes auth;
  efi::SignatureLists content;
};

struct FirmwareKeys {
  // In the order in which they are written: dbx (where there is one), db, KEK, PK.
  std::vector<FirmwareKey> keys;

  const FirmwareKey* Find(std::string_view name) const;
};

// Reads PK.auth, KEK.auth, db.auth and, where there is one, dbx.auth. Errors:
// FAILED_PRECONDITION/MEDIUM_UNUSABLE naming the file that is missing or none.
Result<FirmwareKeys> LoadFirmwareKeys(const std::filesystem::path& folder = kImageKeysFolder);

enum class FirmwareState {
  // Secure Boot is on with exactly our PK, KEK and db; dbx holds at least ours.
  kOurs,
  // No PK: keys can be enrolled.
  kSetupMode,
  // On, with other keys, or with more than ours in db.
  kForeign,
  // Our keys are in, but Secure Boot is switched off.
  kOff,
};
std::string_view FirmwareStateName(FirmwareState state);

struct FirmwareReport {
  FirmwareState state = FirmwareState::kForeign;
  // For kForeign: what differs, one sentence each.
  std::vector<std::string> differences;
};

// Errors: UNAVAILABLE/FIRMWARE_VARIABLE_UNREADABLE.
Result<FirmwareReport> InspectFirmware(EfiVariables& variables, const FirmwareKeys& ours);

// OK for kOurs. Errors: FAILED_PRECONDITION with SECURE_BOOT_OFF or SECURE_BOOT_FOREIGN, saying what to do by
// hand; kSetupMode counts as off.
Status RequireOurKeys(const FirmwareReport& report);

// A driver from an option ROM that this boot's firmware ran (PCR 2).
struct OptionRom {
  // Authenticode digest, as measured.
  std::string digest;
  // Our db lets it run: by its digest. What signed it the event log does not say.
  bool allowed = false;
};
std::vector<OptionRom> OptionRoms(const tpm::EventLog& log, const FirmwareKeys& ours);

// One line an entry: list, kind, owner, and digest or certificate's SHA-256.
std::vector<std::string> DescribeLists(std::string_view variable, const efi::SignatureLists& lists);

// Writes the present db and dbx to `folder` as db.esl and dbx.esl, where there are any. Returns their names.
// Errors: FIRMWARE_VARIABLE_UNREADABLE, FILE_UNWRITABLE.
Result<std::vector<std::string>> SavePresentLists(EfiVariables& variables,
                                                  const std::filesystem::path& folder);

// Writes dbx, db, KEK, then PK, each read back, which ends setup mode: to be called in setup mode only, after
// consent. One that is there already is left. A cut before PK leaves setup mode, and it can be called again.
// `told`: called after each. Errors: FAILED_PRECONDITION/FIRMWARE_REFUSED; FIRMWARE_VARIABLE_UNREADABLE.
Status EnrolFirmwareKeys(EfiVariables& variables, const FirmwareKeys& ours,
                         const std::function<void(std::string_view)>& told);

}  // namespace sealift::agent
