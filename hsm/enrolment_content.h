// What a set enrols beside its own certificates: Microsoft's, and what a machine's firmware held before.
//
// Prepared, and checked, before a ceremony makes its first key. Plain values.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "shared/efi/signature_list.h"

namespace sealift::hsm {

struct EnrolledEntry {
  // "KEK", "db", "dbx".
  std::string variable;
  // "microsoft" or "custom".
  std::string origin;
  // "x509", "sha256", ...
  std::string type;
  // Of the entry's data; for a certificate its fingerprint.
  std::string sha256;
  // Subject and validity of a certificate, the hash of a hash type; empty for others.
  std::string text;
};

struct EnrolmentContent {
  // Lists that follow the set's own entry. An owner of all zeros stands for the set's.
  std::map<std::string, efi::SignatureLists, std::less<>> lists;
  // The same, one by one, to be shown.
  std::vector<EnrolledEntry> entries;
  // One line each.
  std::vector<std::string> warnings;
};

struct EnrolmentOptions {
  bool microsoft = true;
  // Empty: DefaultMicrosoftSource().
  std::filesystem::path microsoft_source;
  // As SelectMicrosoftCertificates.
  std::vector<std::string> microsoft_names;
  // Empty: none. Else a folder with firmware exports named PK, KEK, db, dbx, bare or with something after a
  // dot, hyphen, underscore or digit ("db.esl", "KEK-8be4df61-...", "db1.der"); case does not count.
  std::filesystem::path custom_folder;
};

// Every entry once, in the order of Microsoft's list and then of the file names. A vendor's PK is read and
// reported, not enrolled: PK has one certificate, ours. Errors: those of SelectMicrosoftCertificates;
// FILE_UNREADABLE; INVALID_ARGUMENT/MALFORMED naming the damaged file; INVALID_ARGUMENT for a custom folder
// without any export.
Result<EnrolmentContent> PrepareEnrolment(const EnrolmentOptions& options);

}  // namespace sealift::hsm
