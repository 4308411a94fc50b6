#include "controller/api/upload.h"

#include <utility>

namespace sealift::controller {

Status UploadSession::Start(const Sha256Digest& digest, std::uint64_t size) {
  SEALIFT_RETURN_IF_ERROR(Finish());
  started_ = true;
  if (content_.Has(digest)) {
    ++known_;
    return OkStatus();
  }
  SEALIFT_ASSIGN_OR_RETURN(auto writer, content_.Begin(digest, size));
  writer_.emplace(std::move(writer));
  return OkStatus();
}

Status UploadSession::Data(ByteView bytes) {
  if (!started_) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, "upload content: data before a start");
  }
  return writer_ ? writer_->Write(bytes) : OkStatus();
}

Status UploadSession::Finish() {
  if (!writer_) return OkStatus();
  const Status status = writer_->Commit();
  writer_.reset();
  if (status.ok()) ++stored_;
  return status;
}

}  // namespace sealift::controller
