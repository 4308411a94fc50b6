// Content by digest, fetched from where nobody is trusted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::content {

// Takes consecutive pieces; an error ends the transfer and comes back from Fetch unchanged.
using Sink = std::function<Status(ByteView)>;

// Objects by the digest of what they decode to: a controller, a mirror, a folder. Used by one thread at a
// time.
class ContentSource {
 public:
  virtual ~ContentSource() = default;
  // Hands the object's bytes from `offset` (below its size) to `sink`, in order, until its end. The pieces
  // are unverified; callers bound and hash them. Errors: NOT_FOUND when the source has no such object;
  // UNAVAILABLE when the transfer broke (going on at the offset reached helps).
  virtual Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const Sink& sink) = 0;
};

struct DownloadRequest {
  Sha256Digest digest;
  // Signed together with the digest; not a byte more is written.
  std::uint64_t size = 0;
  // Where the verified object goes. What has arrived so far lies beside it as "<name>.part".
  std::filesystem::path file;
  // Optional. Bytes there so far, those of an earlier attempt included, after each piece.
  std::function<void(std::uint64_t)> progress;
};

// Ends with the object in `file`, durable and verified, or with an error and no such file. A part left by an
// earlier attempt is continued, after its bytes were hashed; when the result is wrong although it began as an
// old part, which a power cut may have damaged, it is fetched once more from the start. A `file` that is
// there already is verified, not fetched; it is removed when wrong. Whatever else lies under the two names, a
// folder, a link or a pipe, is removed, not followed.
//
// Errors: UNAVAILABLE/CONTENT_INCOMPLETE (the source stopped early; the part is kept, trying again helps);
// INVALID_ARGUMENT with CONTENT_TOO_LONG or CONTENT_DIGEST_MISMATCH (the part is removed); FILE_UNWRITABLE,
// DISK_FULL; those of the source.
Status Download(ContentSource& source, const DownloadRequest& request);

// The digest of a file of at most `max_bytes`. Errors: as ReadFile; FILE_TOO_LARGE.
Result<Sha256Digest> HashFile(const std::filesystem::path& file, std::uint64_t max_bytes);

}  // namespace sealift::content
