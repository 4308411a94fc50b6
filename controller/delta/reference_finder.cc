#include "controller/delta/reference_finder.h"

#include <algorithm>
#include <set>

#include "shared/content/path_without_numbers.h"

namespace sealift::controller {
namespace {

using delta::Encoding;
using delta::ImagePart;
using delta::Reference;

constexpr std::uint64_t kLeastBudget = 8u << 20;

std::vector<std::size_t> FramesOf(const std::vector<ImagePart>& parts) {
  std::vector<std::size_t> frames;
  for (std::size_t i = 0; i < parts.size(); ++i)
    if (parts[i].encoding == Encoding::kZstdFrame) frames.push_back(i);
  return frames;
}

bool Fits(const std::vector<ImagePart>& parts, const std::vector<std::size_t>& frames,
          const std::optional<content::FrameIndex>& index) {
  if (!index || index->frames.size() != frames.size()) return false;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    if (parts[frames[i]].size != index->frames[i].size ||
        parts[frames[i]].raw_size != index->frames[i].raw_size)
      return false;
  }
  return true;
}

Reference ToReference(const ImagePart& part) {
  return {.encoding = part.encoding, .offset = part.offset, .size = part.size, .raw_size = part.raw_size};
}

}  // namespace

ReferenceFinder::ReferenceFinder(const std::vector<ImagePart>& old_parts,
                                 const std::optional<content::FrameIndex>& old_frames,
                                 const std::vector<ImagePart>& new_parts,
                                 const std::optional<content::FrameIndex>& new_frames)
    : old_parts_(old_parts), new_parts_(new_parts), old_frame_parts_(FramesOf(old_parts)) {
  const std::vector<std::size_t> fresh = FramesOf(new_parts);
  for (std::size_t i = 0; i < fresh.size(); ++i) new_frame_numbers_[fresh[i]] = i;
  if (!Fits(old_parts, old_frame_parts_, old_frames) || !Fits(new_parts, fresh, new_frames)) return;
  new_frames_ = new_frames->frames;
  for (std::size_t i = 0; i < old_frames->frames.size(); ++i)
    for (const content::FrameFile& file : old_frames->frames[i].files)
      frames_by_path_[content::WithoutNumbers(file.path)].push_back(i);
}

std::vector<Reference> ReferenceFinder::AllOf(Encoding encoding) const {
  std::vector<Reference> references;
  for (const ImagePart& part : old_parts_) {
    if (part.encoding != encoding) continue;
    const bool joins = encoding == Encoding::kPlain && !references.empty() &&
                       references.back().offset + references.back().size == part.offset;
    if (!joins) {
      references.push_back(ToReference(part));
      continue;
    }
    references.back().size += part.size;
    references.back().raw_size += part.raw_size;
  }
  return references;
}

std::vector<Reference> ReferenceFinder::ForFrame(std::size_t new_part) const {
  const std::size_t number = new_frame_numbers_.at(new_part);
  if (new_frames_.empty() || new_frames_[number].files.empty()) {
    // The skeleton, or nothing is known of files.
    if (number >= old_frame_parts_.size()) return {};
    return {ToReference(old_parts_[old_frame_parts_[number]])};
  }
  std::map<std::size_t, std::uint64_t> weight;
  for (const content::FrameFile& file : new_frames_[number].files) {
    const auto found = frames_by_path_.find(content::WithoutNumbers(file.path));
    if (found == frames_by_path_.end()) continue;
    for (const std::size_t frame : found->second) weight[frame] += file.size + 1;
  }
  std::vector<std::pair<std::uint64_t, std::size_t>> ranked;
  for (const auto& [frame, bytes] : weight) ranked.emplace_back(bytes, frame);
  std::ranges::sort(ranked, std::greater{});
  std::uint64_t budget = std::max(kLeastBudget, 3 * new_parts_[new_part].raw_size);
  std::set<std::size_t> chosen;
  for (const auto& [bytes, frame] : ranked) {
    const std::uint64_t size = old_parts_[old_frame_parts_[frame]].raw_size;
    if (size > budget) continue;
    budget -= size;
    chosen.insert(frame);
  }
  std::vector<Reference> references;
  for (const std::size_t frame : chosen)
    references.push_back(ToReference(old_parts_[old_frame_parts_[frame]]));
  return references;
}

std::vector<Reference> ReferenceFinder::For(std::size_t new_part) const {
  const ImagePart& part = new_parts_[new_part];
  std::vector<Reference> references =
      part.encoding == Encoding::kZstdFrame ? ForFrame(new_part) : AllOf(part.encoding);
  std::uint64_t total = 0;
  for (const Reference& reference : references) total += reference.raw_size;
  if (total > delta::kMaxReferenceBytes) references.clear();
  return references;
}

}  // namespace sealift::controller
