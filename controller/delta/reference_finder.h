// Which old parts a new part most likely came from. Pure; thread-safe for readers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "shared/content/frame_index.h"
#include "shared/delta/delta_format.h"
#include "shared/delta/image_parts.h"

namespace sealift::controller {

class ReferenceFinder {
 public:
  // Borrows nothing. Frame indexes count only where their frames are the image's.
  ReferenceFinder(const std::vector<delta::ImagePart>& old_parts,
                  const std::optional<content::FrameIndex>& old_frames,
                  const std::vector<delta::ImagePart>& new_parts,
                  const std::optional<content::FrameIndex>& new_frames);

  // In the order of the old image, all together at most three times as large as the part, or 8 MiB.
  std::vector<delta::Reference> For(std::size_t new_part) const;

 private:
  std::vector<delta::Reference> ForFrame(std::size_t new_part) const;
  std::vector<delta::Reference> AllOf(delta::Encoding encoding) const;

  std::vector<delta::ImagePart> old_parts_;
  std::vector<delta::ImagePart> new_parts_;
  // Index of the frames' parts, in order.
  std::vector<std::size_t> old_frame_parts_;
  std::map<std::size_t, std::size_t> new_frame_numbers_;
  std::vector<content::FrameRecord> new_frames_;
  // By path with runs of digits as '#': old frame numbers.
  std::map<std::string, std::vector<std::size_t>, std::less<>> frames_by_path_;
};

}  // namespace sealift::controller
