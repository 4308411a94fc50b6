// A TUF repository on a web server, and the folder in which this program keeps what it trusts.
//
// Used by one thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "controller/tuf_client/http.h"
#include "shared/tuf/client.h"

namespace sealift::tuf_client {

// `base` and a path below it, with one slash between them.
std::string JoinUrl(std::string_view base, std::string_view path);

class HttpMetadataSource final : public tuf::MetadataSource {
 public:
  // Borrows `http`.
  HttpMetadataSource(std::string base_url, HttpReader& http) : base_url_(std::move(base_url)), http_(http) {}
  Result<std::string> Fetch(std::string_view name, std::size_t max_bytes) override;

 private:
  std::string base_url_;
  HttpReader& http_;
};

// The names that the specification gives (5.3.8): the newest trusted root alone, as root.json. So every
// *.json in the folder is trusted metadata, and the client starts at that root instead of walking the chain
// again.
class NewestRootStore final : public tuf::TrustedMetadataStore {
 public:
  explicit NewestRootStore(const std::filesystem::path& directory) : files_(directory) {}
  Result<std::optional<std::string>> Load(std::string_view name) override;
  Status Store(std::string_view name, std::string_view bytes) override;
  Status Remove(std::string_view name) override;

 private:
  tuf::FileMetadataStore files_;
};

// Where a target lies below the base URL: with consistent snapshots "dir/<SHA-256>.name". Bytes that a URL
// path cannot hold are percent-encoded.
std::string TargetUrlPath(std::string_view target_path, const tuf::FoundTarget& found);

// The name under which a target is kept: its path percent-encoded, so that it is one plain file.
std::string TargetFileName(std::string_view target_path);

// Puts the verified target into `directory`, which is made when missing. Fetches nothing when it is there.
// Errors: those of HttpReader::Read; FAILED_PRECONDITION/CONTENT_DIGEST_MISMATCH; FILE_UNWRITABLE, DISK_FULL.
// What was there before stays then.
Status DownloadTarget(HttpReader& http, std::string_view base_url, std::string_view target_path,
                      const tuf::FoundTarget& found, const std::filesystem::path& directory);

}  // namespace sealift::tuf_client
