// Deltas, and the index and list that name them, as a node reads them.
#include <cstdlib>

#include "shared/base/files.h"
#include "shared/delta/apply_delta.h"
#include "shared/delta/content_list.h"
#include "shared/delta/image_index.h"

using namespace sealift;

namespace {

delta::OpenFile FileOf(ByteView bytes) {
  delta::OpenFile file = delta::OpenFile::Temporary("/tmp").value();
  if (!file.Append(bytes).ok()) std::abort();
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // What corpus/delta was made for: bytes that count up.
  static const delta::OpenFile source = [] {
    Bytes bytes;
    for (int i = 0; i < 4096; ++i) bytes.push_back(static_cast<std::uint8_t>(i % 251));
    return FileOf(bytes);
  }();
  const ByteView input(data, size);
  std::uint64_t made = 0;
  const Status applied = delta::ApplyDelta(
      FileOf(input), source, {.work_folder = "/tmp", .progress = {}}, [&made](ByteView piece) -> Status {
        made += piece.size();
        if (made <= (4u << 20)) return OkStatus();
        return MakeError(Code::kResourceExhausted, Reason::kDiskFull, "full");
      });
  static_cast<void>(applied);
  if (const auto index = delta::ParseImageIndex(input); index.ok()) {
    const auto again = delta::ParseImageIndex(delta::SerializeImageIndex(*index));
    if (!again.ok() || *again != *index) std::abort();
  }
  if (const auto list = delta::ParseContentList(AsText(input)); list.ok()) {
    const auto again = delta::ParseContentList(delta::SerializeContentList(*list));
    if (!again.ok() || *again != *list) std::abort();
  }
  return 0;
}
