// The order of parts in an upload: a start, its bytes, the next start. Objects that are there already are
// skipped.
#pragma once

#include <cstdint>
#include <optional>

#include "controller/publish/content_store.h"
#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::controller {

// One upload; used by one thread. Borrows the store. An object that was not finished leaves nothing.
class UploadSession {
 public:
  explicit UploadSession(ContentStore& content) : content_(content) {}
  // Ends the object before it. Errors: those of ContentStore::Begin and Writer::Commit.
  Status Start(const Sha256Digest& digest, std::uint64_t size);
  // Errors: INVALID_ARGUMENT without a start before it; those of Writer::Write.
  Status Data(ByteView bytes);
  Status Finish();
  std::uint32_t stored() const { return stored_; }
  std::uint32_t known() const { return known_; }

 private:
  ContentStore& content_;
  bool started_ = false;
  // Absent while an object that is known passes by.
  std::optional<ContentStore::Writer> writer_;
  std::uint32_t stored_ = 0;
  std::uint32_t known_ = 0;
};

}  // namespace sealift::controller
