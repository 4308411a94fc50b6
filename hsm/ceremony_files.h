// The folder a ceremony writes: there completely, or not at all.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::hsm {

// Errors: ALREADY_EXISTS/KEY_SET_EXISTS, also for an empty folder.
Status CheckAbsent(const std::filesystem::path& folder);

// Writes `files` (paths inside the folder) beside the folder, makes them durable, and renames the whole into
// place without replacing anything. Key references (*.key.pem) are readable by their owner only.
// Errors: KEY_SET_EXISTS; those of WriteFileAtomically. Nothing stays behind.
Status WriteFolderAtOnce(const std::filesystem::path& folder, const std::map<std::string, Bytes>& files);

}  // namespace sealift::hsm
