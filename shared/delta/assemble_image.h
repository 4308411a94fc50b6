// Puts an image together from parts that lie here and wire objects.
//
// Not thread-safe. Memory: one part's encoder and decoder, and the part where it is sent in code form.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <vector>

#include "shared/delta/image_index.h"
#include "shared/delta/open_file.h"

namespace sealift::delta {

// What older images on this machine have, by digest. Seeds need not be trusted: each part is hashed here, and
// the result as a whole afterwards.
class Seeds {
 public:
  // Hashes every part of the file. One that cannot be read is left out. Returns the whole file's digest.
  // Errors: those of the file.
  Result<Sha256Digest> Add(const std::filesystem::path& file);
  // Of the files, which stay open.
  std::vector<int> Descriptors() const;
  bool Has(const Sha256Digest& part) const { return places_.contains(part); }
  // Errors: those of the file and the sink.
  Status Copy(const Sha256Digest& part, const Sink& sink) const;

 private:
  struct Place {
    std::size_t file = 0;
    ImagePart part;
  };
  std::vector<OpenFile> files_;
  std::map<Sha256Digest, Place> places_;
};

// The objects that are needed beside the seeds, each once, in order of use. Errors: NOT_FOUND/CONTENT_UNKNOWN
// when the seeds lack a part that has no object.
Result<std::vector<ObjectName>> MissingObjects(const ImageIndex& index, const Seeds& seeds);

// `object_file`: a verified object. Checks every part, and the whole at the end; what the sink got counts
// only with success. Errors: INVALID_ARGUMENT/DELTA_INVALID; those of the files and of the sink.
Status AssembleImage(const ImageIndex& index, const Seeds& seeds,
                     const std::function<const OpenFile&(const Sha256Digest&)>& object_file,
                     const Sink& sink);

// Unpacks an object into `sink`: exactly `raw_size` bytes. Errors: as Decode.
Status DecodeObject(const OpenFile& file, ObjectCodec codec, std::uint64_t raw_size, const Sink& sink);
// Packs in pieces; gives the object's bytes to `out`.
Result<std::unique_ptr<Encoder>> MakeObjectEncoder(ObjectCodec codec, std::uint64_t raw_size,
                                                   const Sink& sink);

}  // namespace sealift::delta
